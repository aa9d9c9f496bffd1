"""Where value residuals act: at which tokens of a prompt, in which layers, how strongly.

They are not weighed like other updates: `v'[p_i] = v[p_i] + s r_i` at the tokens p_i of concept i
(Infusion, Zeng et al. 2024, https://arxiv.org/abs/2404.14007), whatever else the prompt names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..concept import Concept
from ..config import SampleConfig
from ..families import is_in_part
from .slots import Slot


def owners_of(concepts: Sequence[Concept], slot: Slot) -> Mapping[str, int]:
    """The number of the concept that each trigger of a slot's prompt calls."""
    if slot.owners is not None:
        return slot.owners
    return {trigger: i for i, concept in enumerate(concepts) for trigger in concept.triggers}


def acting(concepts: Sequence[Concept], slot: Slot) -> Tensor:
    """1 where a concept's value residuals act, (tokens, concepts); 0 elsewhere.

    A name that stands twice is acted on twice.
    """
    tokens = 1 if slot.text is None else slot.text.states.shape[1]
    found = torch.zeros(tokens, len(concepts))
    if slot.text is None or not slot.residuals:
        return found
    spans, owners = slot.text.spans, owners_of(concepts, slot)
    for trigger, positions in spans.triggers.items():
        if (owner := owners.get(trigger)) is not None:
            found[_chosen(concepts[owner], trigger, positions, spans.ends), owner] = 1
    return found


def _chosen(
    concept: Concept, trigger: str, positions: Sequence[int], ends: Sequence[int]
) -> list[int]:
    if not concept.last_piece:
        return list(positions)
    closes = any(name[-1] == trigger for name in concept.names)
    return [position for position in positions if closes and position in ends]


def act_in(path: str, config: SampleConfig) -> bool:
    """Whether value residuals act in a linear layer of cross-attention."""
    if path.endswith("to_k") and not config.key_residuals:
        return False
    return is_in_part(path, config.residual_layers)
