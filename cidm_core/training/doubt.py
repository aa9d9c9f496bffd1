"""Whether a model predicts what it is taken for: its first losses tell."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import TrainConfig
from .state import LogRow

FIRST = 20  # steps are enough to tell
# Of a mean square against unit noise or v. A model that is taken for the wrong one misses it by
# 2 (1 - sqrt(a_t)), 0.94 on average in Stable Diffusion's schedule; one taken for what it is starts
# at 0.1 to 0.3, and one that says nothing at 1.
_GUESSES = 0.7
OTHER_PREDICTION = (
    "the model may predict something else than its file says: try --prediction v_prediction (with "
    "--zero-terminal-snr, if it was so trained) or --prediction epsilon; prediction= of load_base; "
    "the node ModelSamplingDiscrete in ComfyUI"
)


def doubt(rows: Sequence[LogRow], config: TrainConfig) -> str | None:
    """What to say after the first steps of a run if they look like guessing, or None."""
    losses = [row["denoise"] for row in rows if "denoise" in row and not row["skipped"]]
    is_summed = getattr(config, "loss_scale", "mean") != "mean"  # has another size
    if len(rows) != FIRST or not losses or is_summed:
        return None
    mean = sum(losses) / len(losses)
    if mean < _GUESSES:
        return None
    return (
        f"The first {FIRST} denoising losses are {mean:.2g} on average, as if the model guessed. "
        f"If no picture can be seen in the previews either, {OTHER_PREDICTION}."
    )
