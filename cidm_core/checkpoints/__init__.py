"""Base models in files, before any library sees them: what is inside, and what it is called."""
