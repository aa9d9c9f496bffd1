"""How a learning rate changes over the steps of a stage: a factor for each step.

A schedule takes the number of steps done and of all steps of the stage.
"""

from collections.abc import Callable

Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """The same rate at every step."""
    del step, steps
    return 1.0


def linear_decay(step: int, steps: int) -> float:
    """1 at the first step (counted from 0), falling evenly towards 0 (CIDM hyper-parameters)."""
    return 1.0 - step / steps
