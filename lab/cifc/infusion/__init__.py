"""Infusion beside CIDM and Custom Diffusion: what each draws, and how much each over-fits."""
