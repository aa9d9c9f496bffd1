"""Files of concepts: written whole, read with suspicion, listed by their headers."""
