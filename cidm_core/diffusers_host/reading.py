"""What a model reads of captions, known from its tokenizers alone: no weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..checkpoints.compvis import unet_config
from ..checkpoints.geometry import family_of
from ..checkpoints.kinds import check_kind
from ..checkpoints.weights import open_weights
from ..families import Family
from ..inspection.findings import Reading
from ..paths import user_path
from .folders import json_of
from .load import find_model, text_configs, tokenizers_for
from .tokens import count_tokens


class Reader(Protocol):
    """What reads captions; a `Base` does."""

    @property
    def family(self) -> Family: ...
    @property
    def tokenizers(self) -> tuple[Any, ...]: ...


class TextSide(NamedTuple):
    """A model's family and tokenizers."""

    family: Family
    tokenizers: tuple[Any, ...]

    def reading(self, words: Sequence[str]) -> Reading:
        """How it reads captions with these words; of two encoders the one that reads less.

        Args:
            words: Concept words, of which each is one token.
        """
        names = [(word,) for word in words]
        return Reading(
            lambda text: max(count_tokens(each, text, names) for each in self.tokenizers),
            min(row.max_tokens for row in self.family.encoders) - 2,
        )


def text_side(model: str | Path, tokenizer: str | Path | None = None) -> TextSide:
    """Family and tokenizers of a model, named as for `load_base`.

    Raises:
        FamilyError: If the model is of no known family.
        HostError: If its files or the tokenizers are missing.
    """
    path, given = find_model(model), user_path(tokenizer) if tokenizer else None
    if path.is_dir():
        family = family_of(path.name, json_of(path / "unet" / "config.json"))
        configs = [json_of(path / row.name / "config.json") for row in family.encoders]
    else:
        weights = open_weights(path)
        check_kind(path.name, weights.shapes, has_vae=True)
        family = family_of(path.name, unet_config(path.name, weights.shapes))
        configs = text_configs(path.name, weights, family)
    sizes = [int(config.get("vocab_size", 49408)) for config in configs]
    folder = path if path.is_dir() else path.parent
    return TextSide(family, tokenizers_for(folder, given, sizes, family))
