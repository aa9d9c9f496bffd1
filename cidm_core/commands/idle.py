"""Settings of `cidm train` that are given and make no difference beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..methods.shared import CompositesConfig

_COUNTS = ("global_pairs", "region_pairs", "meeting_pairs")
_OF_CONTRAST = ("contrast_steps", "lr_contrast", "contrast_batch", "contrast_loss", *_COUNTS)
_OF_STAGES: Mapping[str, tuple[str, ...]] = {  # that one stage of CLIF alone has
    "words": ("word_steps", "lr_words", "word_rule"),
    "weights": ("steps", "lr", "rank", "alpha"),
}


def told_of_idle(config: CompositesConfig, settings: Mapping[str, object], subjects: int) -> str:
    """What to tell of settings that are given and change nothing; "" if there are none.

    Args:
        config: All settings.
        settings: Those given.
        subjects: How many are learned.
    """
    from ..methods.clif import ClifConfig

    idle = [] if config.contrasts else list(_OF_CONTRAST)
    why = "Without --contrast"
    if isinstance(config, ClifConfig):
        left_out = [stage for stage in _OF_STAGES if stage not in config.chosen]
        idle += [name for stage in left_out for name in _OF_STAGES[stage]]
        idle += ["meeting_pairs"] if subjects == 1 else []
        none = ", contrast_steps 0" if not config.contrasts and "contrast" in config.chosen else ""
        one = " and one subject" if subjects == 1 else ""
        why = f"With stages {'+'.join(config.chosen)}{none}{one}"
    names = [f"--{name.replace('_', '-')}" for name in dict.fromkeys(idle) if settings.get(name)]
    return f"{why} these change nothing: {', '.join(names)}." if names else ""
