"""Teaching a concept."""
