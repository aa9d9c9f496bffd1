"""Prompts with a gap for the concept, and prompts with the concept words written back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..calls import Name, as_written, is_called
from ..concept import Subject
from ..errors import PromptError
from ..words import replace

GAPS = ("<TOK>", "{}")
PROMPTS: dict[str, tuple[str, ...]] = {
    "object": ("a photo of a {}", "a {} on the left", "a {} on the right", "a {} on grass"),
    "human": ("a photo of a {}", "a {} on the left", "a {} on the right", "a {} on grass"),
    "style": ("a {} of a cat", "a {} of a house", "a {} of a fish", "a {} of a flower"),
}


class Named(Protocol):
    """A concept or its entry in the bank."""

    @property
    def subjects(self) -> tuple[Subject, ...]: ...

    @property
    def names(self) -> tuple[Name, ...]: ...

    @property
    def phrase(self) -> str: ...


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one per line.

    Raises:
        PromptError: If the file cannot be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"Prompts '{path}' cannot be read as UTF-8 text ({error}).") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise PromptError(f"Prompts '{path}' hold no line. Write one prompt per line.")
    return prompts


def fill(prompt: str, concept: Named) -> str:
    """The prompt with the concept's words in its gap.

    Raises:
        PromptError: If there is neither a gap nor the concept's name.
    """
    for gap in GAPS:
        if gap in prompt:
            return prompt.replace(gap, concept.phrase)
    if is_called(prompt, [subject.triggers for subject in concept.subjects]):
        return prompt
    raise PromptError(
        f"The prompt {prompt!r} does not say where {concept.phrase!r} goes. "
        f"Mark the place with {' or '.join(GAPS)}."
    )


def write_back(prompt: str, concepts: Sequence[Named]) -> str:
    """The prompt in plain words: concept words become their class words, as CLIP knows those."""
    subjects = [subject for concept in concepts for subject in concept.subjects]
    table = {word: subject.class_words for subject in subjects for word in subject.words}
    table |= {as_written(each.triggers): each.class_words for each in subjects}
    table |= {subject.phrase: subject.class_words for subject in subjects}
    return replace(prompt, table)


def prompts_of_pictures(text: str, pictures: int, concepts: Sequence[Named] = ()) -> list[str]:
    """The prompt of each picture in plain words, from one line for all or for each equal part.

    Raises:
        PromptError: If there is no line, or their number does not divide the pictures.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or pictures % len(lines):
        found = f"{len(lines)} lines for {pictures} pictures" if lines else "no line"
        raise PromptError(
            f"The input prompts has {found}. For TA write one line for all pictures, or one for "
            "each; or disconnect clip."
        )
    plain = [write_back(line, concepts) for line in lines]
    return [line for line in plain for _ in range(pictures // len(lines))]
