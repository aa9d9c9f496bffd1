"""What a CONDITIONING carries for us: tensors and names, which any node may copy or save.

Beside them goes a guard: a sampler whose MODEL has no bank asks it for a row, and is told why the
prompt cannot be drawn. Files leave the guard out.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from comfy.conds import CONDRegular
from torch import Tensor

from ...cidm_core.bank import Bank
from ...cidm_core.concept import Concept
from ...cidm_core.errors import HostError, PromptError
from ...cidm_core.sampling.infuse import Requests
from ...cidm_core.sampling.slots import ConceptId
from ...cidm_core.sampling.traces import Traces
from ...cidm_core.text import Spans, TextContext
from ...cidm_core.upkeep.views import at_version, versions_seen

PROMPT_KEY = "cidm_prompt"  # of a prompt in a conditioning's options

TRACES = Traces()  # of prompts with concept words, which other nodes may mix into texts
_known: WeakValueDictionary[ConceptId, Concept] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class ConceptPrompt:
    """What a conditioning says about concepts."""

    named: str  # what of its text called a concept, for messages
    text: TextContext  # as cross-attention reads it, float32
    plain: Tensor  # as it left the text encoder, (1, tokens, dim)
    concepts: Mapping[ConceptId, Concept]  # that can take part
    weights: Tensor  # psi(M) of Eq. 3, (layers, concepts)
    layers: tuple[str, ...]  # diffusers paths of the cross-attention layers

    def options(self) -> dict[str, Any]:
        """The options of its conditioning."""
        spans = self.text.spans
        held = {
            "named": self.named,
            "states": self.text.states,
            "triggers": dict(spans.triggers),
            "words": spans.plain,
            "ends": spans.ends,
            "plain": self.plain,
            "concepts": list(self.concepts),
            "weights": self.weights,
            "layers": self.layers,
        }
        if not (self.named or self.weights.any()):
            return {PROMPT_KEY: held}
        return {PROMPT_KEY: held, "model_conds": _Guarded({RowCond.KEY: _Guard(self.named)})}


def prompt_in(options: Mapping[str, Any]) -> ConceptPrompt | None:
    """The prompt in a conditioning's options, if a CLIP with a bank encoded it.

    Raises:
        BankError: If a concept is no longer in its bank.
        PromptError: If a concept was taught again since.
    """
    held = options.get(PROMPT_KEY)
    if held is None:
        return None
    return ConceptPrompt(
        held["named"],
        TextContext(held["states"], None, Spans(held["triggers"], held["words"], held["ends"])),
        held["plain"],
        {each: _concept(each) for each in held["concepts"]},
        held["weights"],
        held["layers"],
    )


def concept_id(bank: Bank, concept: Concept, asked: Iterable[str] = ()) -> ConceptId:
    """What a conditioning calls a concept, which is found again by it while somebody holds it.

    Args:
        bank: Where it is.
        concept: As it takes part.
        asked: The phrases that were asked to call it.
    """
    version = str(versions_seen(bank).get(concept.name, 0))
    of_bank = os.path.abspath(bank.path), concept.name, version, concept.created
    found = *of_bank, repr(concept.strength), *asked
    _known[found] = concept
    return found


def _concept(wanted: ConceptId) -> Concept:
    """A concept; read from its bank for a conditioning that was saved."""
    concept = _known.get(wanted)
    if concept is None:
        bank, name, version, created, strength, *asked = wanted
        found = at_version(Bank(bank), name, int(version))[name]
        taught = replace(found, strength=float(strength))
        concept = Requests({(phrase,): name for phrase in asked}).bind(taught)
        if concept.created != created:
            raise PromptError(
                f"A conditioning was made with concept {name!r} of {created}, which was taught "
                f"again at {concept.created}. Encode its prompt again."
            )
        _known[wanted] = concept
    return concept


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


class _Guard(CONDRegular):
    """Stands where our hook puts a `RowCond`: if a sampler reads it, the hook is missing."""

    def process_cond(self, **_: Any) -> Any:
        raise HostError(
            f"A prompt ({self.cond or 'without concept words'}) was encoded with the CLIP of Apply "
            "Concept Bank, but the MODEL that draws it has no bank, so its concepts would lack "
            "their weights. Connect the MODEL output of Apply Concept Bank; a merge of models has "
            "the bank of its first model only."
        )


class _Guarded(dict[str, Any]):
    """A conditioning's `model_conds` with the guard, which a file holds without it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ()
