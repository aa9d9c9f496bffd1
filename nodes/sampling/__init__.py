"""Applying a bank: what text encode nodes and samplers then know."""
