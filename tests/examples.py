"""How many examples property tests draw: the same ones in every run."""

from hypothesis import settings

few = settings(max_examples=30, deadline=None, derandomize=True)
