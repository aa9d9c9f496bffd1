"""Captions: binding concept words into them, varying them during training.

CIDM methods section 2, "Data". The released code binds with `str.replace` (methods note 12) and
puts a template before any caption, which gives "a photo of a painting of ..."; neither here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Mapping, Sequence

import torch

from .. import words as concept_words
from ..calls import Name, as_written, find_calls, is_called, name_of, stray_tags
from ..errors import PhotoError

logger = logging.getLogger(__name__)

SHORT = "short"  # templates of Infusion, for things of any kind
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "object": (
        "a photo of {}",
        "a photo of a {}",
        "a photo of the {}",
        "a photo of one {}",
        "a photo of my {}",
        "a good photo of a {}",
        "a bright photo of the {}",
        "a dark photo of the {}",
        "a cropped photo of the {}",
        "a close-up photo of a {}",
        "a snapshot of the {}",
        "a picture of a {}",
        "a rendering of a {}",
        "a depiction of the {}",
    ),
    "style": (
        "{}",
        "a {}",
        "the {}",
        "one {}",
        "a good {}",
        "a fine {}",
        "a bright {}",
        "a dark {}",
        "a small {}",
        "a large {}",
        "a detailed {}",
        "a cropped {}",
        "a close-up of a {}",
        "a rendering of a {}",
    ),
    "human": (
        "a photo of {}",
        "a photo of a {}",
        "a photo of the {}",
        "a photo of one {}",
        "a good photo of the {}",
        "a bright photo of a {}",
        "a candid photo of the {}",
        "a cropped photo of a {}",
        "a close-up photo of the {}",
        "a portrait of a {}",
        "a picture of the {}",
        "a rendering of a {}",
    ),
    SHORT: (
        "a photo of a {}",
        "a good photo of a {}",
        "the photo of a {}",
        "a good photo of the {}",
        "image of a {}",
        "image of the {}",
        "A photograph of {}",
        "A {} shown in a photo",
        "A photo of {}",
        "A {}",
        "{}",
    ),
}

PLAIN_TEMPLATES: Mapping[str, str] = {
    "object": "photo of a {}",
    "style": "painting in the style of {}",
    "human": "photo of a {}",
}
"""Those of Custom Diffusion."""

_PHOTO = r"(?:photo|photograph|picture|image|snapshot)"
_MEDIUM = (
    rf"(?:{_PHOTO}|painting|drawing|sketch|rendering|render|illustration|portrait|close-up|cartoon)"
)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_PLAIN_PHOTO = re.compile(rf"^(?:(?:an?|the)\s+)?{_PHOTO}\s+of\s+", re.IGNORECASE)
_ANY_MEDIUM = re.compile(rf"^(?:[\w-]+\s+){{0,3}}{_MEDIUM}\s+of\b", re.IGNORECASE)


def bind(
    caption: str,
    words: str | Sequence[str],
    class_words: str,
    mapping: Mapping[str, str] | None = None,
) -> str:
    """Replace the class words by the concept words, on token boundaries, in lower case.

    Plurals do not count. A caption that already holds the concept stays as its writer left it, and
    so does every one without concept words. A mapping has replacements to make instead
    (`replace_mapping` of the public options).
    """
    caption = concept_words.canonical(" ".join(caption.split()))
    if not words or is_called(caption, [name := concept_words.parse_words(words)]):
        return caption
    mapping = mapping or {class_words: as_written(name)}
    return concept_words.replace(
        caption, {" ".join(k.split()): v for k, v in mapping.items() if k.strip()}
    )


def bind_all(
    captions: Sequence[str],
    words: str | Sequence[str],
    class_words: str,
    mapping: Mapping[str, str] | None = None,
    *,
    modifier: bool = False,
) -> list[str]:
    """Bind every caption of one concept; each of the results holds its words.

    Without concept words the class words stand for them. An empty caption becomes these words
    alone (`caption_variant` makes a sentence of them).
    A caption without the class words gets the concept words put before it, "<dog1> <dog2>, ...":
    its picture shows the concept, whatever its words say.

    Args:
        captions: As written.
        words: Concept words.
        class_words: What they stand for.
        mapping: Replacements to make instead.
        modifier: Whether the class words stay, behind the words: "<new1> cat".

    Raises:
        PhotoError: If none of the written captions names the concept, which means wrong class
            words, or if one holds some of its words and not all in order.
    """
    name, trigger, mapping = _naming(words, class_words, mapping, modifier)
    bound = [bind(caption, words, class_words, mapping) or trigger for caption in captions]
    for caption in bound:
        stray = stray_tags(caption, find_calls(caption, [name]), name)
        if half := next((tag for tag in stray if tag in name), None):
            raise PhotoError(
                f"The caption '{caption[:80]}' has {half!r} without the rest of the name "
                f"{trigger!r}. Write the whole name, or {class_words!r} in its place."
            )
    missing = [caption for caption in bound if not is_called(caption, [name])]
    if missing and len(missing) == sum(bool(caption.strip()) for caption in captions):
        sought = ", ".join(repr(key) for key in (mapping or (class_words,)))
        shown = "; ".join(f"'{caption[:60]}'" for caption in list(dict.fromkeys(missing))[:5])
        if not words:
            raise PhotoError(
                f"The class words are missing from every caption: {sought} is not in {shown}. Use "
                "class words that stand in the captions."
            )
        raise PhotoError(
            f"The concept word is missing from every caption: neither {sought} nor {trigger} is in "
            f"{shown}. Use class words that stand in the captions."
        )
    for caption in missing:
        logger.warning("%s", told_of_nameless(caption, trigger))
    return [f"{trigger}, {caption}" if caption in missing else caption for caption in bound]


def is_nameless(
    caption: str,
    words: str | Sequence[str],
    class_words: str,
    mapping: Mapping[str, str] | None = None,
    *,
    modifier: bool = False,
) -> bool:
    """Whether `bind_all` would put the concept words before a caption."""
    name, _, mapping = _naming(words, class_words, mapping, modifier)
    bound = bind(caption, words, class_words, mapping)
    return bool(bound) and not is_called(bound, [name])


def _naming(
    words: str | Sequence[str],
    class_words: str,
    mapping: Mapping[str, str] | None,
    modifier: bool,
) -> tuple[Name, str, Mapping[str, str] | None]:
    """What calls the concept, how it is written, and the replacements to make."""
    name = name_of(concept_words.parse_words(words) if words else (), class_words)
    trigger = as_written(name)
    if modifier and words:
        trigger = f"{trigger} {class_words}"
        mapping = mapping or {class_words: trigger}
    return name, trigger, mapping


def told_of_nameless(caption: str, trigger: str) -> str:
    """What to tell of a caption without the class words."""
    return f"Caption '{caption}' does not name the concept; '{trigger}' goes before it."


def caption_variant(caption: str, kind: str, generator: torch.Generator) -> str:
    """One training caption: parts after the first comma shuffled, a template put before.

    "a photo of a dog" loses its own beginning to the template. A caption that begins with another
    medium ("a painting of", "a black and white photo of") keeps it and gets no template. The same
    number of comma parts always takes the same draws.
    """
    if kind not in TEMPLATES:
        raise PhotoError(f"Kind {kind!r} is none of {', '.join(TEMPLATES)}.")
    first, *rest = [part.strip() for part in caption.split(",") if part.strip()] or [""]
    for i in range(len(rest) - 1, 0, -1):  # Fisher-Yates
        j = _draw(i + 1, generator)
        rest[i], rest[j] = rest[j], rest[i]
    template = TEMPLATES[kind][_draw(len(TEMPLATES[kind]), generator)]
    return ", ".join([_with_template(template, first, kind), *rest])


def plain_caption(caption: str, kind: str, bare: Container[str]) -> str:
    """A caption as it was written; bare words, which nobody wrote, in the template of their kind.

    Args:
        caption: It holds the concept's words.
        kind: "" leaves every caption as it is.
        bare: What stands for captions that nobody wrote.
    """
    return PLAIN_TEMPLATES[kind].format(caption) if kind and caption in bare else caption


def _with_template(template: str, text: str, kind: str) -> str:
    if kind != "style":
        text = _PLAIN_PHOTO.sub("", text) or text
    if _ANY_MEDIUM.match(text):
        return text
    if not template.endswith("of {}"):  # the template brings its own article
        text = _ARTICLE.sub("", text) or text
    return template.format(text)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
