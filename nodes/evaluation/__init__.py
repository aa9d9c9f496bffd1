"""Likeness, obedience and forgetting in numbers."""
