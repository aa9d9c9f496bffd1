"""What is likely wrong with photos and captions: one short check each, that says what to do.

None of it stops learning; what does is raised while the photos are read and bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..as_text import listed
from ..calls import Name
from ..masks import told_of_speck
from ..training.data import TrainingSubject
from ..training.views import View
from .attributes import strip
from .pixels import BLURRED, Looks, are_alike

FEWEST = 3
_ENLARGED = 1.1
_LOST = 0.5  # of a photo; a square of 16:9 loses 0.44
_ALL_WHITE = 0.99
_MASK_KEPT = 0.75
_TOKENS_PER_WORD = 1.2  # of CLIP's; 358 plain captions have 1.03, one full of rare words 1.35


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: One word for scripts: "few", "duplicate", "blurred", "small", "shape", "mask",
            "nameless", "long", "same", "attributes", or "told" for what is told while photos are
            read.
        text: What was found and what to do.
        photo: Its number in the list; None for all of them.
    """

    kind: str
    text: str
    photo: int | None = None


@dataclass(frozen=True)
class Reading:
    """How much of a caption the model's text encoder reads.

    Attributes:
        tokens: How many a caption has, with words of the concept as one each.
        most: How many are read.
        is_exact: Whether a tokenizer counts, and not we.
    """

    tokens: Callable[[str], int]
    most: int
    is_exact: bool = True


ESTIMATE = Reading(
    lambda text: round(len(text.replace(",", " ,").split()) * _TOKENS_PER_WORD), 75, False
)
"""Without a tokenizer; 75 is what Stable Diffusion reads."""


def few(count: int) -> list[Finding]:
    """Fewer photos than any method was made for."""
    if count >= FEWEST:
        return []
    text = (
        f"{count} photo{'s' if count > 1 else ''}, where three to five are recommended: pose, "
        "place and light are learned as part of the concept. Add some that differ in them."
    )
    return [Finding("few", text)]


def duplicate(looks: Sequence[Looks], names: Sequence[str]) -> list[Finding]:
    """The last photo shows the same as one before it."""
    *before, last = looks
    photo = len(before)
    for number, other in enumerate(before):
        if other.digest == last.digest:
            text = f"The same picture as {names[number]}: it counts twice. Leave one of them out."
            return [Finding("duplicate", text, photo)]
    for number, other in enumerate(before):
        if are_alike(other, last):
            text = (
                f"Nearly the same as {names[number]}, or a part of it: what they share counts "
                "twice. Take another one instead."
            )
            return [Finding("duplicate", text, photo)]
    return []


def blurred(sharpness: float | None, photo: int) -> list[Finding]:
    """No detail anywhere in the photo."""
    if sharpness is None or sharpness >= BLURRED:
        return []
    text = "Blurred: even its sharpest parts have no detail, and blur is learned too. Replace it."
    return [Finding("blurred", text, photo)]


def small(view: View, photo: int) -> list[Finding]:
    """Fewer pixels than are learned from."""
    scale = view.width / (view.box[2] - view.box[0])
    if scale < _ENLARGED:
        return []
    text = (
        f"Enlarged {scale:.1f} times: what it lacks is learned as softness. Take a larger one, or "
        "a smaller resolution."
    )
    return [Finding("small", text, photo)]


def shape(view: View, size: tuple[int, int], photo: int) -> list[Finding]:
    """So long that a crop shows less than half of it."""
    left, top, right, bottom = view.box
    lost = 1 - (right - left) * (bottom - top) / (size[0] * size[1])
    if lost <= _LOST:
        return []
    text = (
        f"A crop leaves {lost:.0%} of it out. Cut it to what matters, or turn buckets on, which "
        "learn photos in their own shapes."
    )
    return [Finding("shape", text, photo)]


def mask(
    values: NDArray[np.float32], kept: float, view: View, where: str, photo: int
) -> list[Finding]:
    """A mask of nothing or everything, or of something that the crop cuts off.

    Args:
        values: The mask of the photo.
        kept: Sum of what is left of it in the picture that a crop makes.
        view: The crop.
        where: What messages call it.
        photo: The photo's number.
    """
    if told := told_of_speck(values, where):
        return [Finding("mask", told, photo)]
    if values.mean() > _ALL_WHITE:
        text = "Its mask is white everywhere, as if there was none. Paint the rest black."
        return [Finding("mask", text, photo)]
    whole = float(values.sum()) * (view.width / (view.box[2] - view.box[0])) ** 2
    share = kept / whole
    if share >= _MASK_KEPT:
        return []
    text = (
        f"A crop shows {share:.0%} of what its mask marks. Crop the photo around it, or turn "
        "buckets on."
    )
    return [Finding("mask", text, photo)]


def nameless(subject: TrainingSubject, caption: str, photo: int) -> list[Finding]:
    """A caption without the class words."""
    if not subject.is_nameless(caption):
        return []
    text = (
        f"Lacks {subject.class_words!r}, so the concept's words go before it. Write that where the "
        "concept is spoken of."
    )
    return [Finding("nameless", text, photo)]


def long(caption: str, reading: Reading, photo: int) -> list[Finding]:
    """A caption whose end no text encoder reads."""
    count = reading.tokens(caption)
    if count <= reading.most:
        return []
    about = "" if reading.is_exact else "about "
    text = (
        f"The caption has {about}{count} tokens, and the text encoder reads {reading.most}: its "
        "end is not learned. Shorten it."
    )
    return [Finding("long", text, photo)]


def same(captions: Sequence[str]) -> list[Finding]:
    """One caption for all photos."""
    if len(captions) < 2 or len(set(captions)) > 1 or not captions[0]:
        return []
    text = (
        f"All {len(captions)} captions are the same, {captions[0][:60]!r}: what differs between "
        "the photos is then learned as part of the concept. Say of each where it is and what else "
        "is in it."
    )
    return [Finding("same", text)]


def attributes(caption: str, names: Sequence[Name], kind: str, photo: int) -> list[Finding]:
    """Words for what the concept looks like."""
    stripped = strip(caption, names, kind)
    if not stripped.words:
        return []
    words = listed([repr(word.lower()) for word in dict.fromkeys(stripped.words)])
    return [Finding("attributes", f"Says {words}. Suggested: {stripped.caption}", photo)]


def why_attributes(found: Sequence[Finding]) -> list[Finding]:
    """Why these words are told of; once for all photos."""
    count = sum(finding.kind == "attributes" for finding in found)
    if not count:
        return []
    text = (
        f"{count} caption{'s say' if count > 1 else ' says'} what the concept looks like. What a "
        "caption names is learned by that word and not by the concept: strip it, or prompts will "
        "need it too."
    )
    return [Finding("attributes", text)]
