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
from .layout import NEGATIVE, Scene
from .residuals import act_in, acting
from .slots import Slot

Phase = Literal["both", "one", "plain"]
"""What runs: both streams; the customised one alone; the rows without residuals."""
Inserts = tuple[tuple[int, int], ...]
"""(slot, region) pairs of regional cross-attention."""
Row = tuple[int, Inserts]
"""The slot of a row and what regions put into it."""


@dataclass(frozen=True)
class SideBySide:
    """Rows, and behind them those of the foundation stream.

    Attributes:
        rows: All of them.
        lenders: Per row, the row with whose queries it attends.
        sources: Per added row, the one that it lends to.
    """

    rows: tuple[Row, ...]
    lenders: tuple[int, ...]
    sources: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Streams:
    """Which slots are infused, and what each is without.

    Attributes:
        twins: Further slots, numbered after all others: infused prompts without their residuals.
        plain: For an infused slot, the number of its twin.
        doubled: The slots in which a concept of two streams acts.
        unheard: What to tell of concepts that are called where their layers are left out.
    """

    twins: tuple[Slot, ...] = ()
    plain: Mapping[int, int] = field(default_factory=dict[int, int])
    doubled: frozenset[int] = frozenset()
    unheard: tuple[str, ...] = ()

    def without(self, slot: int, inserts: Inserts) -> Row:
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
        rows = list(enumerate(zip(scene.rows, scene.inserts, strict=True)))
        rows = [self.without(*row) if number in unwanted else row for number, row in rows]
        found = self.beside(rows, phase)
        slots, inserts = zip(*found.rows, strict=True)
        lenders = found.lenders if found.sources else ()
        return replace(scene, rows=slots, inserts=inserts, lenders=lenders)

    def beside(self, rows: Sequence[Row], phase: Phase) -> SideBySide:
        """Rows as they run in a phase, those that are added last."""
        if phase == "plain":
            rows = [self.without(*row) for row in rows]
        doubled = phase == "both"
        sources = [n for n, row in enumerate(rows) if doubled and self.is_doubled(*row)]
        added = {source: len(rows) + i for i, source in enumerate(sources)}
        lenders = [added.get(n, n) for n in range(len(rows))]
        every = [*rows, *(self.without(*rows[source]) for source in sources)]
        return SideBySide(tuple(every), (*lenders, *added.values()), tuple(sources))


def streams_of(concepts: Sequence[Concept], slots: Sequence[Slot], config: SampleConfig) -> Streams:
    """What the value residuals of concepts make of the slots."""
    infused = [_acts(concept, config) for concept in concepts]
    twins: list[Slot] = []
    plain: dict[int, int] = {}
    doubled: set[int] = set()
    unheard: dict[str, None] = {}
    for number, slot in enumerate(slots):
        called = acting(concepts, slot).any(0).tolist()
        held = [c for c, acts, at in zip(concepts, infused, called, strict=True) if acts and at]
        if held:
            plain[number] = len(slots) + len(twins)
            twins.append(replace(slot, residuals=False))
        if any(concept.two_streams for concept in held):
            doubled.add(number)
        there = [concept for concept, at in zip(concepts, called, strict=True) if at]
        unheard |= {_unheard(concept, config): None for concept in there}
    return Streams(tuple(twins), plain, frozenset(doubled), tuple(filter(None, unheard)))


def phase_at(noise: float, config: SampleConfig) -> Phase:
    """What runs at a noise level, from 1 (noise alone) down to above 0 (the picture)."""
    if noise <= 1 - config.residual_share:
        return "plain"
    return "both" if noise > 1 - config.second_stream else "one"


def _acts(concept: Concept, config: SampleConfig) -> bool:
    acts = config.strength > 0 and concept.strength > 0
    return acts and any(act_in(path, config) for path in concept.residuals)


def _unheard(concept: Concept, config: SampleConfig) -> str:
    """What to tell of a concept all of whose value residuals the settings leave out, or ""."""
    if not concept.residuals or any(act_in(path, config) for path in concept.residuals):
        return ""
    return (
        f"{concept.name!r} has no effect: it learned nothing in the layers that residual_layers "
        f"{config.residual_layers!r} leaves. Set residual_layers to 'all'."
    )
