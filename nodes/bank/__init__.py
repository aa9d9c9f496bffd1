"""Banks and their concepts: opening, looking, removing, exchanging."""
