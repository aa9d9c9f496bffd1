"""What can be said of a file that is imported; apart, because it needs nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import KINDS
from ..settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Settings):
    """What can be said of a concept file that is taken into a bank."""

    name: str = setting(
        "",
        "Name of the concept in the bank. By default its own, or one made from its words.",
        advanced=False,
    )
    class_words: str = setting(
        "",
        "For files of other programs: what the concept is in plain words, such as 'dog'; 'cat+dog' "
        "where a file of Custom Diffusion has two words, or one of CLIF two subjects.",
        advanced=False,
    )
    kind: str = setting(
        "object",
        "For files of other programs: what kind of thing the concept is.",
        choices=KINDS,
        advanced=False,
    )
    words: str = setting(
        "",
        "For files of other programs: which of their words to take; by default all. For CLIF, "
        "Custom Diffusion and textual inversions also: new words, one for each of theirs.",
    )
    scale: float = setting(
        1.0, "For .pth files: their alpha; 1.0 is as trained.", low=0.01, high=100.0
    )
    allow_other_base: bool = setting(
        False, "Take a concept that was learned on another model of the family."
    )
