"""Two streams: rows that attend with the queries of a row beside them (Infusion).

Paper: Zeng et al. 2024, https://arxiv.org/abs/2404.14007. The customised stream, in which a
concept's value residuals act, takes its attention maps from the foundation stream, in which none
does: what the picture shows there decides where the tokens of the prompt look. Host-neutral: a
host runs the rows that it is told of, gives each layer of cross-attention the queries of the
lending rows, and drops the estimates of the rows that were added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..concept import Concept
from ..config import SampleConfig
from ..updates import ValueResidual
from .layout import NEGATIVE, Scene
from .residuals import act_in, acting
from .slots import Slot

Phase = Literal["both", "one", "plain"]
"""What runs: both streams; the customised one alone; the rows without residuals."""
Inserts = tuple[tuple[int, int], ...]
"""(slot, region) pairs of regional cross-attention."""


@dataclass(frozen=True, eq=False)
class Streams:
    """Which slots are infused, and what each is without.

    Attributes:
        twins: Further slots, numbered after all others: infused prompts without their residuals.
        plain: For an infused slot, the number of its twin.
        doubled: The slots in which a concept of two streams acts.
    """

    twins: tuple[Slot, ...] = ()
    plain: Mapping[int, int] = field(default_factory=dict[int, int])
    doubled: frozenset[int] = frozenset()

    def without(self, slot: int, inserts: Inserts) -> tuple[int, Inserts]:
        """A row of the foundation stream: slot and inserts without residuals."""
        plain = self.plain
        return plain.get(slot, slot), tuple((plain.get(each, each), u) for each, u in inserts)

    def is_doubled(self, slot: int, inserts: Inserts) -> bool:
        """Whether a row needs one beside it that lends its queries."""
        return not self.doubled.isdisjoint({slot, *(each for each, _ in inserts)})

    def arranged(self, scene: Scene, phase: Phase) -> Scene:
        """The rows of a scene that run in a phase; those that were added come last.

        What the picture should not show is never infused.
        """
        if not self.plain:
            return scene
        unwanted = {NEGATIVE, *scene.negatives}
        rows = list(zip(scene.rows, scene.inserts, strict=True))
        lenders = list(range(len(rows)))
        for number, row in enumerate(tuple(rows)):
            if phase == "plain" or number in unwanted:
                rows[number] = self.without(*row)
            elif phase == "both" and self.is_doubled(*row):
                lenders[number] = len(rows)
                lenders.append(len(rows))
                rows.append(self.without(*row))
        slots, inserts = zip(*rows, strict=True)
        added = len(rows) > len(scene.rows)
        return replace(scene, rows=slots, inserts=inserts, lenders=tuple(lenders) if added else ())


def streams_of(concepts: Sequence[Concept], slots: Sequence[Slot], config: SampleConfig) -> Streams:
    """What the value residuals of concepts make of the slots."""
    infused = [_acts(concept, config) for concept in concepts]
    twins: list[Slot] = []
    plain: dict[int, int] = {}
    doubled: set[int] = set()
    for number, slot in enumerate(slots):
        called = acting(concepts, slot).any(0).tolist()
        held = [c for c, acts, at in zip(concepts, infused, called, strict=True) if acts and at]
        if held:
            plain[number] = len(slots) + len(twins)
            twins.append(replace(slot, residuals=False))
        if any(concept.two_streams for concept in held):
            doubled.add(number)
    return Streams(tuple(twins), plain, frozenset(doubled))


def phase_at(noise: float, config: SampleConfig) -> Phase:
    """What runs at a noise level, from 1 (noise alone) down to above 0 (the picture)."""
    if noise <= 1 - config.residual_share:
        return "plain"
    return "both" if noise > 1 - config.second_stream else "one"


def _acts(concept: Concept, config: SampleConfig) -> bool:
    held = (p for p, u in concept.updates.items() if isinstance(u, ValueResidual))
    return config.strength > 0 and any(act_in(path, config) for path in held)
