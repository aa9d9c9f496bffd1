"""The text encoders on a CLIP socket, as a family counts them; others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...cidm_core.errors import HostError
from ...cidm_core.families import FAMILIES, Family, TextEncoderRow

_OTHERS: Mapping[tuple[int, ...], str] = {
    (1280,): "the second text encoder of SDXL alone, as a refiner has it",
    (1024,): "the text encoder of an SD 2 model",
}
_USUAL = (1e-4, 10.0)  # spread of a word's embedding; CLIP's are at 0.01 to 0.02, mini-sd's at 0.1


@dataclass(frozen=True)
class HostEncoder:
    """One text encoder, by its names.

    Attributes:
        row: What the family says of it.
        part: What ComfyUI's text model and tokenizer call it: "clip_l".
        key: What tokens call it: "l".
    """

    row: TextEncoderRow
    part: str
    key: str

    def module(self, clip: Any) -> Any:
        """The host's text encoder in a CLIP."""
        return getattr(clip.cond_stage_model, self.part)

    def tokenizer(self, clip: Any) -> Any:
        """Its tokenizer, as transformers has it."""
        return getattr(clip.tokenizer, self.part).tokenizer

    @property
    def start(self) -> str:
        """What the names of its weights begin with in the CLIP's state dict."""
        return f"{self.part}.transformer."


def encoders_of(clip: Any, family: Family) -> tuple[HostEncoder, ...]:
    """The text encoders of a CLIP, one for each row of the family.

    Args:
        clip: What is on the CLIP socket.
        family: Of the MODEL beside it.

    Raises:
        HostError: If there is none, they are of another family, or one has no weights.
    """
    if clip is None:
        raise HostError(
            "There is no CLIP: this checkpoint has no text encoder. Load one with Load CLIP "
            f"({_loader(family)})."
        )
    whole = clip.cond_stage_model
    parts = {name: each for name, each in whole.named_children() if hasattr(each, "transformer")}
    widths = tuple(_width(each) for each in parts.values())
    if widths != tuple(row.dim for row in family.encoders):
        kind = _kind_of(widths)
        raise HostError(
            f"The CLIP socket carries a {type(whole).__name__}{kind and f', {kind}'}. The MODEL "
            f"is {family.name}, {_needs(family)}. Connect the CLIP of the same checkpoint, or "
            f"load one with {_loader(family)}."
        )
    for (name, module), row in zip(parts.items(), family.encoders, strict=True):
        if not _has_weights(module):
            raise HostError(
                f"The {row.title} on the CLIP socket ({name}) has no weights: the file lacks it. "
                f"Give the whole checkpoint, or load the text encoder with {_loader(family)}."
            )
    pairs = zip(family.encoders, parts, strict=True)
    return tuple(HostEncoder(row, name, name.removeprefix("clip_")) for row, name in pairs)


def _embeddings(module: Any) -> Any:
    """The embeddings of a text encoder, if it is a CLIP."""
    transformer = module.transformer
    if not isinstance(transformer, nn.Module) or not hasattr(transformer, "text_model"):
        return None
    return transformer.get_input_embeddings()  # type: ignore[operator]


def _width(module: Any) -> int:
    table = _embeddings(module)
    return 0 if table is None else int(table.weight.shape[1])


def _has_weights(module: Any) -> bool:
    """Whether embeddings look like some; the host leaves what a file lacks as memory was."""
    low, high = _USUAL
    table = _embeddings(module).weight
    return low < float(table[:: 1 + len(table) // 1000].float().std()) < high


def _kind_of(widths: tuple[int, ...]) -> str:
    rows = {tuple(row.dim for row in family.encoders): family for family in FAMILIES.values()}
    if widths in rows:
        return f"which belongs to {rows[widths].name}"
    return _OTHERS.get(widths, "")


def _needs(family: Family) -> str:
    widths = [str(row.dim) for row in family.encoders]
    if len(widths) == 1:
        return f"which reads with one text encoder {widths[0]} wide"
    return f"which reads with {len(widths)} text encoders, {' and '.join(widths)} wide"


def _loader(family: Family) -> str:
    if len(family.encoders) == 1:
        return "Load CLIP, type 'stable_diffusion'"
    return "DualCLIPLoader, type 'sdxl'"
