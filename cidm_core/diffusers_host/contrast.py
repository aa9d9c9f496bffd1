"""CLIP as words are contrasted with it: its pictures' features, and those of the base's own texts.

CLIF, Lin et al. 2024, https://arxiv.org/abs/2405.06914, section 3.2. The first text encoder of SD
1.5 and of SDXL is CLIP ViT-L/14's; of CLIP itself only the picture side, the projection of texts
and the scale are needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import FamilyError, HostError
from ..families import Family
from ..fingerprints import fingerprint
from ..images import read_image
from ..training.composites.folder import Composite
from ..training.contrast import EncodedComposites
from .base import Base
from .clip import MINI_CLIP, load_clip, local_folder
from .encode import run_encoder
from .tokens import tokenise

logger = logging.getLogger(__name__)

_AT_ONCE = 32
_ALIKE = 0.5  # cosine
_MOST_LOGIT = 100.0  # CLIP's own is below 5
_ADVICE = (
    "Fetch the one that SD 1.5 and SDXL have with `hf download openai/clip-vit-large-patch14`, or "
    f"give a folder; mini-sdxl has {MINI_CLIP!r}."
)


@dataclass(frozen=True, eq=False)
class ContrastClip:
    """What of a CLIP model words are contrasted with.

    Attributes:
        images: Features of pictures, (pictures, dim), not normalised.
        text_projection: From the text encoder's states to features, (dim, width).
        scale: exp(logit_scale), about 100.
        name: Tells it from others.
        leave: Gives its memory back; called when all pictures are seen.
        entries: Some of its token embeddings, from `sampled`; None if they are not at hand.
    """

    images: Callable[[Sequence[Image.Image]], Tensor]
    text_projection: Tensor
    scale: float
    name: str
    leave: Callable[[], object] = lambda: None
    entries: Tensor | None = None

    def check(self, family: Family, model: str) -> None:
        """Whether it can read what a model's first text encoder makes of a text.

        Raises:
            FamilyError: If that has another width.
        """
        width, row = self.text_projection.shape[1], family.encoders[0]
        if width != row.dim:
            raise FamilyError(
                f"This CLIP reads texts of width {width}, and the first text encoder of {model} "
                f"({family.name}) has {row.dim}. Give the CLIP it comes from: ViT-L/14 of OpenAI "
                "for SD 1.5 and SDXL, mini-clip for mini-sdxl."
            )

    def tell_if_other(self, base: Base) -> None:
        """Warn where the base's first text encoder does not come from this CLIP.

        Fine-tuned text encoders still resemble CLIP's; those of another training (LAION's ViT-L/14,
        say) have nothing in common with it, and its projection would make noise of their texts.
        """
        own = sampled(base.text_encoders[0].get_input_embeddings().weight)
        if self.entries is None or self.entries.shape != own.shape:
            return
        alike = float(F.cosine_similarity(own, self.entries, dim=-1).mean())
        if alike < _ALIKE:
            told = (
                f"The first text encoder of {base.name} does not come from this CLIP: their "
                f"vocabularies are alike by {alike:.2f}, and would be by nearly 1. Words will not "
                "be told apart. Give OpenAI's ViT-L/14, or the CLIP that this model was made with."
            )
            logger.warning("%s", told)


def sampled(table: Tensor) -> Tensor:
    """Every hundredth row of a token embedding, float32 on the CPU."""
    return table.detach()[::100].float().cpu()


def load_contrast_clip(path: str | Path, device: str | torch.device | None = None) -> ContrastClip:
    """A CLIP model from a local folder, or "mini-clip", which is mini-sdxl's.

    Raises:
        HostError: If it is not there, no CLIP model, or damaged.
    """
    encoder = load_clip(
        path if str(path) == MINI_CLIP else local_folder(path, "CLIP", _ADVICE), device
    )
    model = encoder.model
    projection: Tensor = model.text_projection.weight.detach().float()
    logit = float(model.logit_scale.detach())
    scale = math.exp(logit) if logit < _MOST_LOGIT else math.inf
    used = [projection, model.visual_projection.weight, *model.vision_model.parameters()]
    if not (math.isfinite(scale) and all(bool(each.isfinite().all()) for each in used)):
        raise HostError(f"CLIP in '{path}' holds NaN or infinite weights. Get it again.")
    name = fingerprint([projection, model.visual_projection.weight.detach()])
    entries = sampled(model.text_model.get_input_embeddings().weight)
    # Only its picture side is large, and that looks once: a small card needs the room afterwards.
    see, leave = encoder.images, lambda: model.to("cpu")
    return ContrastClip(see, projection.cpu(), scale, name, leave, entries)


def encode_composites(
    clip: ContrastClip,
    composites: Sequence[Composite],
    on_picture: Callable[[int], None] | None = None,
) -> EncodedComposites:
    """Composites as CLIP sees them; `on_picture` hears how many are done."""
    parts: list[Tensor] = []
    for start in range(0, len(composites), _AT_ONCE):
        pictures = [read_image(each.path) for each in composites[start : start + _AT_ONCE]]
        parts.append(clip.images(pictures).float().cpu())
        if on_picture is not None:
            on_picture(min(start + _AT_ONCE, len(composites)))
    clip.leave()
    return EncodedComposites(
        torch.cat(parts),
        tuple(each.text for each in composites),
        tuple(each.held_out for each in composites),
        clip.scale,
    )


def text_features(
    base: Base,
    clip: ContrastClip,
    prompts: Sequence[str],
    words: Mapping[str, Tensor],
    last: Sequence[str] = (),
) -> Tensor:
    """CLIP's features (prompts, dim) of texts as the base's first text encoder reads them.

    Args:
        base: The model.
        clip: Its projection.
        prompts: Texts.
        words: Embeddings (dim,) of concept words.
        last: The words in the order in which they were added; if given, each text is read at the
            first place of the last of them, as the released code does, and not at its end.

    Raises:
        PromptError: If a word lies beyond the token limit.
    """
    row, tokenizer = base.family.encoders[0], base.tokenizers[0]
    names = [(word,) for word in words]
    distinct = list(dict.fromkeys(prompts))
    found = [
        tokenise(tokenizer, text, names, row.max_tokens, pad_id=row.pad_id, quiet=True)
        for text in distinct
    ]
    longest = max(each.end for each in found) + 1  # the encoder is causal
    ids = torch.tensor([each.ids[:longest] for each in found])
    where = [(i, place) for i, each in enumerate(found) for place, _ in each.words]
    vectors = [words[word][None] for each in found for _, word in each.words]
    output = run_encoder(base.text_encoders[0], ids.to(base.device), where, vectors, False)
    order = {word: number for number, word in enumerate(last)}
    places = torch.tensor([_place(each.words, order, each.end) for each in found])
    states = output.last_hidden_state[torch.arange(len(found)), places.to(base.device)]
    with torch.autocast(base.device.type, enabled=False):
        features = states.float() @ clip.text_projection.to(base.device).T
    numbers = {text: number for number, text in enumerate(distinct)}
    return features[torch.tensor([numbers[text] for text in prompts], device=features.device)]


def check_words(base: Base, caption: str, words: Sequence[str]) -> None:
    """Make sure that the first text encoder reads all words of a caption.

    Raises:
        PromptError: If one lies beyond the token limit.
    """
    row = base.family.encoders[0]
    names = [(word,) for word in words]
    tokenise(base.tokenizers[0], caption, names, row.max_tokens, pad_id=row.pad_id, quiet=True)


def _place(words: Sequence[tuple[int, str]], order: Mapping[str, int], end: int) -> int:
    """Where a text is read: at its end, or at the word that was added last."""
    known = [(-order[word], place) for place, word in words if word in order]
    return min(known)[1] if known else end
