"""How a learning rate changes over the steps of a stage: a factor for each step.

A schedule takes the number of steps done and of all steps of the stage.
"""

from collections.abc import Callable
from math import inf

from ..errors import TrainingError

Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """The same rate at every step."""
    del step, steps
    return 1.0


def linear_decay(step: int, steps: int) -> float:
    """1 at the first step (counted from 0), falling evenly towards 0 (CIDM hyper-parameters)."""
    return 1.0 - step / steps


def piecewise(rule: str) -> Schedule:
    """The schedule of a rule such as "1:200,0.4:500,0.1": a factor until a step, then the next.

    As diffusers' `get_piecewise_constant_schedule` reads it; the last factor, without a step, is
    for all that follow.

    Raises:
        TrainingError: If the rule cannot be read.
    """
    *parts, last = [part.strip() for part in rule.split(",")]
    try:
        pairs = [part.split(":") for part in parts]
        ends = [(int(step), float(factor)) for factor, step in pairs]
        rest = float(last)
    except ValueError as error:
        raise TrainingError(
            f"The rule {rule!r} cannot be read. Write factors, each with the step it ends at, and "
            "one for the rest: 1:200,0.4:500,0.1."
        ) from error
    values = [*(factor for _, factor in ends), rest]
    steps = [step for step, _ in ends]
    if steps != sorted(set(steps)) or min([1, *steps]) < 1 or not all(0 <= v < inf for v in values):
        raise TrainingError(
            f"The rule {rule!r} needs steps that grow, from 1, and factors of 0 or more."
        )

    def factor(step: int, steps: int) -> float:
        del steps
        return next((value for end, value in ends if step < end), rest)

    return factor
