"""From conditionings to row specifications: which prompt, weights and regions each row uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...cidm_core.concept import Concept
from ...cidm_core.errors import HostError, PromptError
from ...cidm_core.regions import Region
from ..host.comfy import CONDRegular
from ..host.model import ModelFacts
from .text import PROMPT, ConceptPrompt

INSERTS = "cidm_inserts"  # key of the regions a conditioning carries into cross-attention
WEIGHED_BY = "cidm_weighed_by"  # key of another conditioning that sets the weights; None: picture


@dataclass(frozen=True, eq=False)
class RegionInsert:
    """A region put into a conditioning's cross-attention.

    Attributes:
        region: Where.
        conditioning: One entry of a CONDITIONING, `[tensor, options]`.
        feather: Soft edge, share of the shorter side.
        weighed_by_region: Whether the region's own prompt sets its weights, or the picture's.
    """

    region: Region
    conditioning: Sequence[Any]
    feather: float
    weighed_by_region: bool


@dataclass(frozen=True, eq=False)
class Row:
    """One kind of UNet row.

    Attributes:
        slot: Its weights.
        context: Slot of its layer-wise context; None keeps the conditioning as it is.
        inserts: (slot, region) of regional cross-attention.
        feather: Soft edge of the regions.
    """

    slot: int
    context: int | None
    inserts: tuple[tuple[int, Region], ...] = ()
    feather: float = 0.0


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows of a sampling run.

    Attributes:
        rows: By number.
        concepts: Concepts taking part in any of them.
        weights: (slots, layers, concepts).
        contexts: Slot -> (layers or 1, tokens, dim).
    """

    rows: tuple[Row, ...]
    concepts: tuple[Concept, ...]
    weights: Tensor
    contexts: Mapping[int, Tensor]


class RowCond(CONDRegular):
    """The number of a row, travelling with its conditioning through ComfyUI's batching.

    The batch gets a tuple of (number, area) instead of a tensor, which would have to come back
    from the GPU to be read.
    """

    KEY = "cidm_rows"

    def __init__(self, ids: tuple[tuple[int, Any], ...]) -> None:
        super().__init__(ids)

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> RowCond:
        cut = None if area is None else tuple(area)
        return RowCond(tuple((number, cut) for number, _area in self.cond) * batch_size)

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, RowCond)

    def concat(self, others: Sequence[RowCond]) -> tuple[tuple[int, Any], ...]:
        return sum((other.cond for other in others), self.cond)

    def size(self) -> list[int]:
        return [len(self.cond)]


def rows_of(conds: dict[str, list[dict[str, Any]]], facts: ModelFacts) -> Rows:
    """Number the conditionings of a guider and say what each number means.

    Unconditional conditionings get the weights of the picture's, as if these were merged into
    the model. Conditionings without data of ours stay as they are.

    Args:
        conds: ComfyUI's conditionings by role; each gets its `RowCond`.
        facts: The model that samples.

    Raises:
        PromptError: If a prompt was encoded for another model, was changed by a node that does
            not know of concepts, or none was encoded with the taught CLIP.
    """
    prompts = {id(c): _prompt_of(c, facts) for listed in conds.values() for c in listed}
    _check_any(conds)
    table = _Slots(facts)
    shared = table.shared(
        [prompts[id(c)] for role, listed in conds.items() if role == "positive" for c in listed]
    )
    rows: list[Row] = []
    for role, listed in conds.items():
        for cond in listed:
            rows.append(_row(cond, prompts[id(cond)], "negative" in role, table, shared, facts))
            number = RowCond(((len(rows) - 1, None),))
            cond["model_conds"] = {**cond.get("model_conds", {}), RowCond.KEY: number}
    return table.finish(tuple(rows))


def _row(
    cond: Mapping[str, Any],
    prompt: ConceptPrompt | None,
    negative: bool,
    table: _Slots,
    shared: Mapping[str, Tensor],
    facts: ModelFacts,
) -> Row:
    source = None if negative else prompt
    if WEIGHED_BY in cond:
        source = _of_entry(cond[WEIGHED_BY], facts)
    weights = shared if source is None else table.by_name(source)
    slot = table.add(weights, prompt.context if prompt else None)
    context = slot if prompt is not None and len(prompt.context) > 1 else None
    inserts: list[tuple[int, Region]] = []
    given: Sequence[RegionInsert] = cond.get(INSERTS, ())
    for insert in given:
        own = _of_entry(insert.conditioning, facts)
        weighed = table.by_name(own) if own and insert.weighed_by_region else shared
        held = own.context if own else insert.conditioning[0].float()
        inserts.append((table.add(weighed, held), insert.region))
    return Row(slot, context, tuple(inserts), given[0].feather if given else 0.0)


class _Slots:
    """Collects weights and contexts; concepts get their column when all are known."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._concepts: dict[str, Concept] = {}
        self._weights: list[Mapping[str, Tensor]] = []
        self._contexts: dict[int, Tensor] = {}

    def by_name(self, prompt: ConceptPrompt) -> dict[str, Tensor]:
        """Concept name -> weights (layers); the concepts become known."""
        found = {c.name: prompt.weights[:, i] for i, c in enumerate(prompt.concepts)}
        for concept in prompt.concepts:
            self._concepts.setdefault(concept.name, concept)
        return found

    def shared(self, prompts: Sequence[ConceptPrompt | None]) -> dict[str, Tensor]:
        """Weights of the picture as a whole: the mean of its prompts."""
        held = [self.by_name(prompt) for prompt in prompts if prompt is not None]
        names = dict.fromkeys(name for weights in held for name in weights)
        zero = torch.zeros(len(self._facts.layers))
        return {
            name: torch.stack([weights.get(name, zero) for weights in held]).mean(0)
            for name in names
        }

    def add(self, weights: Mapping[str, Tensor], context: Tensor | None) -> int:
        number = len(self._weights)
        self._weights.append(weights)
        if context is not None:
            self._contexts[number] = context
        return number

    def finish(self, rows: tuple[Row, ...]) -> Rows:
        names = list(self._concepts)
        table = torch.zeros(len(self._weights), len(self._facts.layers), len(names))
        for slot, weights in enumerate(self._weights):
            for name, column in weights.items():
                table[slot, :, names.index(name)] = column
        return Rows(rows, tuple(self._concepts.values()), table, self._contexts)


def _of_entry(entry: Sequence[Any] | None, facts: ModelFacts) -> ConceptPrompt | None:
    """The concept prompt of an entry of a CONDITIONING, `[tensor, options]`."""
    return None if entry is None else _prompt_of({"cross_attn": entry[0], **entry[1]}, facts)


def _prompt_of(cond: Mapping[str, Any], facts: ModelFacts) -> ConceptPrompt | None:
    """The concept prompt of a conditioning, if it is still the one that was encoded."""
    prompt: ConceptPrompt | None = cond.get(PROMPT)
    if prompt is None:
        return None
    if prompt.layers != facts.names:
        raise PromptError(
            f"A prompt ({prompt.text or 'without concept words'}) was encoded for a model of "
            f"{len(prompt.layers)} cross-attention layers, this one has {len(facts.names)}. Take "
            "MODEL and CLIP from the same Apply Concept Bank node."
        )
    now = cond.get("cross_attn")
    if now is prompt.plain or (now is not None and _same(now, prompt.plain)):
        return prompt
    if not prompt.text or now is None or not now.any():
        return None  # nothing is lost: no concept was named, or the prompt was emptied on purpose
    raise PromptError(
        f"The conditioning of the prompt with {prompt.text} was changed by {_changer(now, prompt)}"
        ", which drops what its concept words mean in each layer. Put both texts into one CLIP "
        "Text Encode node, or join them with Conditioning (Combine)."
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b), b)


def _changer(now: Tensor, prompt: ConceptPrompt) -> str:
    length = prompt.plain.shape[1]
    if now.shape[1] > length and _same(now[:, :length], prompt.plain):
        return "Conditioning (Concat)"
    return "Conditioning (Average) or another node that computes with it"


def _check_any(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    texts = [c for listed in conds.values() for c in listed if c.get("cross_attn") is not None]
    if texts and not any(PROMPT in c for c in texts):
        raise HostError(
            "A concept bank is applied to the model, but none of the prompts was encoded with its "
            "CLIP, so no concept can take part. Connect the CLIP output of Apply Concept Bank to "
            "the text encode nodes."
        )
