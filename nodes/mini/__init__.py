"""mini-sd for trying things out."""
