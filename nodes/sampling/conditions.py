"""From conditionings to the rows of the UNet: each gets a slot, and the regions it attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.conds import CONDRegular
from torch import Tensor

from ...cidm_core.concept import Concept
from ...cidm_core.errors import HostError, PromptError
from ...cidm_core.sampling.plan import Slot
from ...cidm_core.text import Spans, TextContext
from ..host.model import ModelFacts
from .text import PROMPT_KEY, ConceptPrompt

REQUEST = "cidm_row"  # key of a `RowRequest` in a conditioning's options

CondEntry = Sequence[Any]
"""One entry of a CONDITIONING, `[tensor, options]`."""


@dataclass(frozen=True, eq=False)
class RowRequest:
    """What a row does otherwise than a prompt by itself.

    Attributes:
        weighed_by: The entries whose weights act together; none: those of the picture.
        inserts: For regional cross-attention: text, the entries that weigh it, number of the
            region.
    """

    weighed_by: Sequence[CondEntry]
    inserts: tuple[tuple[CondEntry, Sequence[CondEntry], int], ...] = ()


@dataclass(frozen=True, eq=False)
class CondRow:
    """One kind of UNet row: its slot, and the (slot, region) pairs of regional cross-attention."""

    slot: int
    inserts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class CondRows:
    """All rows of a sampling run, by number, and what they refer to."""

    rows: tuple[CondRow, ...]
    concepts: tuple[Concept, ...]
    slots: tuple[Slot, ...]


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
        return (*self.cond, *(each for other in others for each in other.cond))

    def size(self) -> list[int]:
        return [len(self.cond)]


def rows_of(conds: dict[str, list[dict[str, Any]]], facts: ModelFacts) -> CondRows:
    """Number the conditionings of a guider and say what each number means.

    Unconditional conditionings get the weights of the picture's, as if these were merged into
    the model. Conditionings without data of ours keep their text.

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
    shared = table.mean([prompts[id(c)] for c in conds.get("positive", ())])
    rows: list[CondRow] = []
    for role, listed in conds.items():
        for cond in listed:
            prompt = prompts[id(cond)]
            weights = shared if prompt is None or "negative" in role else table.by_name(prompt)
            request: RowRequest | None = cond.get(REQUEST)
            if request is not None:
                weights = table.weights_by(request.weighed_by, shared)
            slot = table.add(prompt.named if prompt else "", prompt and prompt.text, weights)
            given = request.inserts if request else ()
            inserts = [(table.entry(text, by, shared), region) for text, by, region in given]
            rows.append(CondRow(slot, tuple(inserts)))
            number = RowCond(((len(rows) - 1, None),))
            cond["model_conds"] = {**cond.get("model_conds", {}), RowCond.KEY: number}
    return CondRows(tuple(rows), *table.finish())


class _Slots:
    """Collects texts and weights; concepts get their column when all are known."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._concepts: dict[str, Concept] = {}
        self._held: list[tuple[str, TextContext | None, Mapping[str, Tensor]]] = []

    def by_name(self, prompt: ConceptPrompt) -> dict[str, Tensor]:
        """Concept name -> weights (layers); the concepts become known."""
        for concept in prompt.concepts:
            self._concepts.setdefault(concept.name, concept)
        return {c.name: prompt.weights[:, i] for i, c in enumerate(prompt.concepts)}

    def mean(self, prompts: Sequence[ConceptPrompt | None]) -> dict[str, Tensor]:
        """Weights of the picture as a whole: the mean of its prompts."""
        held = [self.by_name(prompt) for prompt in prompts if prompt is not None]
        names = dict.fromkeys(name for weights in held for name in weights)
        zero = torch.zeros(len(self._facts.layers))
        return {
            name: torch.stack([weights.get(name, zero) for weights in held]).mean(0)
            for name in names
        }

    def weights_by(
        self, entries: Sequence[CondEntry], shared: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """The mean weights of the entries' prompts; the picture's without one."""
        prompts = [prompt for prompt in map(self._prompt, entries) if prompt is not None]
        return self.mean(prompts) if prompts else shared

    def entry(
        self, text: CondEntry, weighed_by: Sequence[CondEntry], shared: Mapping[str, Tensor]
    ) -> int:
        """The slot of an entry that a region puts into another's cross-attention."""
        prompt = self._prompt(text)
        context = prompt.text if prompt else TextContext(text[0].float(), None, Spans())
        weights = self.weights_by(weighed_by, shared) if prompt else shared
        return self.add(prompt.named if prompt else "", context, weights)

    def add(self, named: str, text: TextContext | None, weights: Mapping[str, Tensor]) -> int:
        self._held.append((named, text, weights))
        return len(self._held) - 1

    def finish(self) -> tuple[tuple[Concept, ...], tuple[Slot, ...]]:
        """The concepts, and every slot with its weights (layers, concepts)."""
        names = list(self._concepts)
        slots: list[Slot] = []
        for named, text, weights in self._held:
            table = torch.zeros(len(self._facts.layers), len(names))
            for name, column in weights.items():
                table[:, names.index(name)] = column
            slots.append(Slot(named, text, table, table))
        return tuple(self._concepts.values()), tuple(slots)

    def _prompt(self, entry: CondEntry) -> ConceptPrompt | None:
        return _prompt_of({"cross_attn": entry[0], **entry[1]}, self._facts)


def _prompt_of(cond: Mapping[str, Any], facts: ModelFacts) -> ConceptPrompt | None:
    """The concept prompt of a conditioning, if it is still the one that was encoded."""
    prompt: ConceptPrompt | None = cond.get(PROMPT_KEY)
    if prompt is None:
        return None
    if prompt.layers != facts.names:
        raise PromptError(
            f"A prompt ({prompt.named or 'without concept words'}) was encoded for a model of "
            f"{len(prompt.layers)} cross-attention layers, this one has {len(facts.names)}. Take "
            "MODEL and CLIP from the same Apply Concept Bank node."
        )
    now = cond.get("cross_attn")
    if now is prompt.plain or (now is not None and _same(now, prompt.plain)):
        return prompt
    if not prompt.named or now is None or not now.any():
        return None  # nothing is lost: no concept was named, or the prompt was emptied on purpose
    raise PromptError(
        f"The conditioning of the prompt with {prompt.named} was changed by "
        f"{_changer(now, prompt)}, which drops what its concept words mean in each layer. Put both "
        "texts into one CLIP Text Encode node, or join them with Conditioning (Combine)."
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
    if texts and not any(PROMPT_KEY in c for c in texts):
        raise HostError(
            "A concept bank is applied to the model, but none of the prompts was encoded with its "
            "CLIP, so no concept can take part. Connect the CLIP output of Apply Concept Bank to "
            "the text encode nodes."
        )
