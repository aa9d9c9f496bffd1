"""The parts of the benchmark: of each the cells to be worked off, and what they say."""
