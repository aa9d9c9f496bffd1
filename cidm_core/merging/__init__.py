"""Making concepts into other concepts: several merged into one, one compressed."""
