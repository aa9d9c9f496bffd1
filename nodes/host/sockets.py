"""The socket types of our own, and what travels through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ...cidm_core.regions import Region

CATEGORY = "CIDM"

# A `cidm_core.bank.Bank`.
BankSocket = io.Custom("CIDM_BANK")
# A tuple of `RegionPrompt`.
RegionsSocket = io.Custom("CIDM_REGIONS")
# A tuple of `cidm_core.training.data.TrainingSubject`.
SubjectsSocket = io.Custom("CIDM_SUBJECTS")
# A `MethodChoice`.
MethodSocket = io.Custom("CIDM_METHOD")


# A `ContrastChoice`.
ContrastSocket = io.Custom("CIDM_CONTRAST")


@dataclass(frozen=True)
class MethodChoice:
    """How a concept is to be learned: a row of `METHODS`, and the settings the user decided on."""

    method: str
    settings: Mapping[str, object]


@dataclass(frozen=True, eq=False)
class ContrastChoice:
    """What words are contrasted by: a `ContrastClip`, and `CutOut`s of common things.

    The mini models bring both themselves.
    """

    clip: Any = None
    common: tuple[Any, ...] = ()


def schema(**parts: Any) -> io.Schema:
    """The schema of one of our nodes; with its id a node can show text, see `shown`."""
    return io.Schema(**{"category": CATEGORY, "hidden": [io.Hidden.unique_id], **parts})


def bank_input() -> io.Input:
    """The socket of a node that works on a bank."""
    return BankSocket.Input("bank", tooltip="From Load Concept Bank or Train Concept.")


def subjects_input(tooltip: str) -> io.Input:
    """The socket of further subjects."""
    return SubjectsSocket.Input("subjects", optional=True, tooltip=tooltip)


@dataclass(frozen=True, eq=False)
class RegionPrompt:
    """One region: where, and the conditioning(s) that apply there.

    Attributes:
        region: Box or mask; its `prompt` is only a label for error texts and the layout picture.
        positive: CONDITIONING of the region, as a text encode node made it.
        negative: The region's own negative CONDITIONING; None shares the picture's.
    """

    region: Region
    positive: list[Any]
    negative: list[Any] | None = None
