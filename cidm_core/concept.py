"""A concept: what one task taught. Words, layer-wise tokens and low-rank weights (Z_g)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import ConceptError, FamilyError
from .families import FAMILIES, PROJECTIONS, same_base
from .ops.rank_mask import fewest_ranks
from .updates import LoraFactors
from .words import parse_words

KINDS = ("object", "style", "human")


@dataclass(frozen=True)
class Concept:
    """The task learner Z_g = {delta W_g^l, y_g^l} (methods, section 1).

    Attributes:
        name: Name in the bank.
        words: Concept words, identity first, class noun last.
        class_words: The plain words they stand for, e.g. "dog".
        kind: One of `KINDS`.
        family: Row of the families table.
        base: Fingerprint of the base model (`families.fingerprint`).
        layers: diffusers paths of the attn2 modules in execution order.
        factors: Low-rank factors by `"{layer}.{projection}"`.
        tokens: Embeddings by encoder name, (words, layers, dim).
        method: How it was learned.
        config: Settings it was learned with: provenance, but for the rank mask.
        index: Place in the learning order; set by the bank.
        created: ISO time; set by the bank.
        facts: Further provenance: steps done, final loss, seconds, photos, base name ...
    """

    name: str
    words: tuple[str, ...]
    class_words: str
    kind: str
    family: str
    base: str
    layers: tuple[str, ...]
    factors: Mapping[str, LoraFactors]
    tokens: Mapping[str, Tensor]
    method: str = "cidm"
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    index: int = -1
    created: str = ""
    facts: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        parse_words(self.words)
        if self.kind not in KINDS:
            kinds = ", ".join(KINDS)
            raise ConceptError(f"Kind {self.kind!r} of {self.name!r} is none of {kinds}.")
        for encoder, rows in self.tokens.items():
            expected = (len(self.words), len(self.layers))
            if rows.ndim != 3 or tuple(rows.shape[:2]) != expected:
                raise ConceptError(
                    f"Tokens of {self.name!r} for {encoder} are {tuple(rows.shape)}; expected "
                    f"{expected[0]} words x {expected[1]} layers x embedding width."
                )
        known = {f"{layer}.{projection}" for layer in self.layers for projection in PROJECTIONS}
        if unknown := sorted(set(self.factors) - known):
            raise ConceptError(
                f"{self.name!r} has weights for {unknown[0]}, which is none of its "
                f"{len(self.layers)} cross-attention layers."
            )
        for path, pair in self.factors.items():
            if not (torch.isfinite(pair.down).all() and torch.isfinite(pair.up).all()):
                raise ConceptError(f"{self.name!r} holds NaN or infinite weights in {path}.")
        for encoder, rows in self.tokens.items():
            if not torch.isfinite(rows).all():
                raise ConceptError(f"{self.name!r} holds NaN or infinite tokens for {encoder}.")
        _check_rank_mask(self.name, self.config)

    @property
    def trigger(self) -> str:
        """The words as one phrase, e.g. "<dog1> <dog2>"."""
        return " ".join(self.words)

    @property
    def has_rank_mask(self) -> bool:
        """Whether fewer of its ranks act where there is more noise (T-LoRA)."""
        return self.config.get("rank_mask", "none") != "none"

    def fewest_ranks(self, rank: int) -> int:
        """How many ranks of factors of this rank act at the noisiest timestep; without a mask all.

        Args:
            rank: Of the factors of a layer.
        """
        share = self.config.get("rank_mask_min")
        if not self.has_rank_mask or not isinstance(share, (int, float)):
            return rank
        return fewest_ranks(rank, share)

    def check_fits(
        self, family: str, base: str, layers: tuple[str, ...], allow_other_base: bool = False
    ) -> None:
        """Check that a model can carry this concept.

        Raises:
            FamilyError: If the model's family, layers or (unless allowed) fingerprint differ.
        """
        if family != self.family:
            raise FamilyError(
                f"Concept {self.name!r} was learned on {_family_text(self.family)}, the model is "
                f"{_family_text(family)}. Load a {self.family} model, or train the concept again."
            )
        if missing := [layer for layer in self.layers if layer not in layers]:
            raise FamilyError(
                f"Concept {self.name!r} has {len(self.layers)} cross-attention layers, the model "
                f"{len(layers)}; {missing[0]} is not among them. Load the model it was trained on."
            )
        if not (allow_other_base or same_base(base, self.base)):
            raise FamilyError(
                f"Concept {self.name!r} was learned on another {family} model "
                f"({self.facts.get('base_name') or self.base}). Load that one, or allow other base "
                "models of the family (--allow-other-base); the likeness may suffer."
            )


def _check_rank_mask(name: str, config: Mapping[str, object]) -> None:
    """Refuse a rank mask that cannot be drawn with: without it the picture would be another."""
    kind, share = config.get("rank_mask", "none"), config.get("rank_mask_min")
    if kind == "none":
        return
    known = isinstance(share, (int, float)) and 0 <= share <= 1
    if kind != "timestep" or not known:
        raise ConceptError(
            f"{name!r} was learned with the rank mask {kind!r:.40} from {share!r:.40}; known is "
            "'timestep' from a share of 0 to 1. Update the package, or train the concept again."
        )


def _family_text(name: str) -> str:
    row = FAMILIES.get(name)
    return f"{name} (context {row.context_dim})" if row else name
