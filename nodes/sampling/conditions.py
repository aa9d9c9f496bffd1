"""From conditionings to the rows of the UNet: each gets a slot, and the regions it attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...cidm_core.concept import Concept
from ...cidm_core.config import SampleConfig
from ...cidm_core.errors import HostError, PromptError
from ...cidm_core.sampling.slots import ConceptWeights, Slot, SlotTable
from ...cidm_core.sampling.streams import Streams, streams_of
from ...cidm_core.storage.compatibility import check_fit
from ...cidm_core.text import Spans, TextContext
from ..host import comfy as host
from ..host.model import ModelFacts
from .prompts import PROMPT_KEY, TRACES, ConceptPrompt, RowCond, prompt_in

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
    streams: Streams

    @property
    def said(self) -> set[str]:
        """The words and phrases of concepts in what is to be drawn."""
        texts = [slot.text for slot in self.slots if slot.residuals and slot.text is not None]
        return {trigger for text in texts for trigger in text.spans.triggers}


def rows_of(
    conds: Mapping[str, Sequence[dict[str, Any]]], facts: ModelFacts, config: SampleConfig
) -> CondRows:
    """Number the conditionings of a guider and say what each number means.

    Unconditional conditionings get the weights of the picture's, as if these were merged into
    the model. Conditionings without data of ours keep their text.

    Args:
        conds: ComfyUI's conditionings by role; each gets its `RowCond`.
        facts: The model that samples.
        config: Of the bank that was applied to it.

    Raises:
        PromptError: If a prompt was encoded for another model, or was changed by a node that does
            not know of concepts.
        HostError: If one was encoded without a bank; of a negative prompt the user is only told.
        FamilyError: If a concept does not fit the model.
    """
    if config.strength:  # at 0 the bare model is meant
        check_encoded(conds)
    made = _Rows(facts, conds.get("positive", ()))
    rows: list[CondRow] = []
    for role, listed in conds.items():
        for cond in listed:
            number = RowCond(((len(rows), None),))
            rows.append(made.row(role, cond))
            cond["model_conds"] = {**cond.get("model_conds", {}), RowCond.KEY: number}
    concepts, slots = made.table.finish()
    check_fit(concepts, facts, allow_other_base=config.allow_other_base)
    streams = streams_of(concepts, slots, config)
    return CondRows(tuple(rows), concepts, (*slots, *streams.twins), streams)


class _Rows:
    """Makes the rows of a sampling run.

    Args:
        facts: The model that samples.
        picture: Conditionings of the picture, whose weights act where nothing else is said.
    """

    def __init__(self, facts: ModelFacts, picture: Sequence[Mapping[str, Any]]) -> None:
        self._facts = facts
        self.table = SlotTable(len(facts.layers))
        self._shared = self.table.weigh([p for c in picture if (p := _prompt_of(c, facts))])

    def row(self, role: str, cond: Mapping[str, Any]) -> CondRow:
        prompt = _prompt_of(cond, self._facts)
        request: RowRequest | None = cond.get(REQUEST)
        weights = self._shared
        if request is not None:
            weights = self._weights(request.weighed_by)
        elif prompt is not None and "negative" not in role:
            weights = self.table.weigh([prompt])
        shown = "negative" not in role
        slot = self._slot(prompt, prompt and prompt.text, weights, residuals=shown)
        given = request.inserts if request else ()
        return CondRow(slot, tuple((self._inserted(text, by), u) for text, by, u in given))

    def _weights(self, entries: Sequence[CondEntry]) -> ConceptWeights:
        """The weights of prompts that act together; the picture's without one."""
        found = [p for c, o in entries if (p := _prompt_of({"cross_attn": c, **o}, self._facts))]
        return self.table.weigh(found) if found else self._shared

    def _inserted(self, entry: CondEntry, weighed_by: Sequence[CondEntry]) -> int:
        """The slot of an entry that a region puts into another's cross-attention."""
        prompt = _prompt_of({"cross_attn": entry[0], **entry[1]}, self._facts)
        if prompt is None:
            return self._slot(None, TextContext(entry[0].float(), None, Spans()), self._shared)
        return self._slot(prompt, prompt.text, self._weights(weighed_by))

    def _slot(
        self,
        prompt: ConceptPrompt | None,
        text: TextContext | None,
        weights: ConceptWeights,
        *,
        residuals: bool = True,
    ) -> int:
        named, own = (prompt.named, prompt.concepts) if prompt else ("", {})
        return self.table.add(named, text, weights, own, residuals=residuals)


def check_encoded(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse prompts that no CLIP with a bank has encoded; of negative ones only tell.

    Raises:
        HostError: Naming the prompts.
    """
    texts = {role: [c for c in listed if _says(c)] for role, listed in conds.items()}
    strange = [r for r, listed in texts.items() if not all(PROMPT_KEY in c for c in listed)]
    if not strange:
        return
    names = ", ".join(map(_role_in_words, strange))
    said = (
        f"A concept bank is applied to the model, but its CLIP did not encode {names}: concept "
        "words mean nothing there. Connect the CLIP output of Apply Concept Bank to all text "
        "encode nodes."
    )
    if all("negative" in role for role in strange):
        host.warn(said)
    else:
        raise HostError(said)


def _says(cond: Mapping[str, Any]) -> bool:
    text = cond.get("cross_attn")
    return text is not None and bool(text.any())


def _role_in_words(role: str) -> str:
    kind = "negative" if "negative" in role else "positive"
    number = role.split("_")[1] if role.startswith("region_") else ""
    return f"the {kind} prompt" + (f" of region {int(number) + 1}" if number else "")


def _prompt_of(cond: Mapping[str, Any], facts: ModelFacts) -> ConceptPrompt | None:
    """The concept prompt of a conditioning, if it is still the one that was encoded."""
    prompt = prompt_in(cond)
    if prompt is not None and prompt.layers != facts.names:
        raise PromptError(
            f"A prompt ({prompt.named or 'without concept words'}) was encoded for a model of "
            f"{len(prompt.layers)} cross-attention layers, this one has {len(facts.names)}. Take "
            "MODEL and CLIP from the same Apply Concept Bank node."
        )
    now = cond.get("cross_attn")
    if now is None or not now.any():
        return None  # emptied on purpose
    if prompt is not None and _same(now, prompt.plain):
        return prompt
    section = facts.family.encoders[0].max_tokens
    lost = (prompt and prompt.named) or TRACES.found_in(now, prompt and prompt.plain, section)
    if not lost:
        return None  # none of its texts named a concept
    raise PromptError(
        f"The conditioning of the prompt with {lost} was changed by "
        f"{_changer(now, prompt)}, which drops what its concept words mean in each layer. Put both "
        "texts into one CLIP Text Encode node, or join them with Conditioning (Combine)."
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.to(b), b))


def _changer(now: Tensor, prompt: ConceptPrompt | None) -> str:
    length = prompt.plain.shape[1] if prompt else 0
    if now.shape[1] > length and (prompt is None or _same(now[:, :length], prompt.plain)):
        return "Conditioning (Concat)"
    return "Conditioning (Average) or another node that computes with it"
