"""Concepts that drawing asks for: a phrase of the prompt stands for a concept, "cat=my_cat".

A concept that acts at plain words of a prompt would otherwise take part wherever these stand. It is
asked for by name; bound to its phrases it is a concept that they call, like any other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..calls import Name, as_written, find_calls, name_of
from ..concept import Concept, Subject
from ..config import SampleConfig
from ..errors import ConceptError, PromptError
from ..text import TextContext
from .concept_weights import known_in
from .parts import QUOTED, bare, parts_of, quoted, unknown

_REQUEST = re.compile(rf'(?:(.*)=)?\s*({QUOTED}|[^="]+)')


@dataclass(frozen=True)
class Requests:
    """The concept that each phrase asked for calls, by its name in the bank."""

    callers: Mapping[Name, str]

    @classmethod
    def of(cls, text: str, bank: Mapping[str, Concept]) -> Requests:
        """What `SampleConfig.infuse` asks for.

        Args:
            text: "phrase=concept" or a concept's name alone, for its own class words; several with
                commas, semicolons or line ends between them. Either side may stand in double
                quotes, which are doubled inside.
            bank: The concepts there are; of a `Bank` only the headers are read.

        Raises:
            PromptError: If there is no such concept, or a phrase would call two.
        """
        if not text.strip():  # of a large bank even the table of names takes its time
            return cls({})
        known = known_in(bank)
        taken = {call: name for name, each in known.items() for call in each.names}
        callers: dict[Name, str] = {}
        for part in parts_of(text):
            phrase, name = _sides(part)
            if name not in known:
                raise PromptError(unknown("infuse", name, bank))
            class_words = known[name].subjects[0].class_words
            call = name_of((), class_words if phrase is None else phrase)
            if not any(character.isalnum() for character in call[0]):
                raise _malformed(part)
            if (other := callers.get(call) or taken.get(call)) not in (None, name):
                raise PromptError(
                    f"{as_written(call)!r} would call two concepts, {other!r} and {name!r}. Give "
                    f"one of them another phrase, such as 'my {as_written(call)}={quoted(name)}', "
                    "and write that into the prompt."
                )
            callers[call] = name
        return cls(callers)

    def phrases_of(self, name: str) -> tuple[str, ...]:
        """The phrases that are to call a concept."""
        return tuple(call[0] for call, called in self.callers.items() if called == name)

    def bind(self, concept: Concept) -> Concept:
        """The concept, called by the phrases that ask for it as well.

        Raises:
            ConceptError: If it changes more than single words of a prompt.
        """
        phrases = self.phrases_of(concept.name)
        if not phrases:
            return concept
        if not concept.at_tokens_alone:
            raise ConceptError(
                f"{concept.name!r} cannot be asked for by infuse, because it changes more than "
                f"single words of a prompt. Write {concept.phrase!r} into the prompt instead."
            )
        own = concept.names
        asked = [Subject((), each, concept.kind) for each in phrases if (each,) not in own]
        return replace(concept, subjects=(*concept.subjects, *asked))

    def check_kinds(self, bank: Mapping[str, Concept]) -> None:
        """Whether each concept is one that can be asked for.

        Raises:
            ConceptError: If one is not.
        """
        for name in set(self.callers.values()):
            self.bind(bank[name])

    def check_said(self, texts: Sequence[str]) -> None:
        """Whether each phrase stands in one of the texts that are drawn.

        Raises:
            PromptError: If one does not.
        """
        said = [found.name[0] for text in texts for found in find_calls(text, self.callers)]
        if told := self.unsaid(said, f"the prompt {texts[0]!r}"):
            raise PromptError(told)

    def unsaid(self, said: Collection[str], where: str) -> str:
        """What to tell of a phrase that is not among those said; "" if all are."""
        for call, name in self.callers.items():
            if call[0] not in said:
                return (
                    f"infuse asks for the concept {name!r} where {as_written(call)!r} stands, and "
                    f"that is not in {where}. Write it there, on its own and not within another "
                    f"word or phrase, or tie the concept to one that is: PHRASE={quoted(name)}."
                )
        return ""

    def check_read(self, prompt: str, text: TextContext) -> None:
        """Whether the text encoder has read the phrases of a prompt.

        Raises:
            PromptError: If one lies beyond its limit.
        """
        spans = text.spans
        for found in find_calls(prompt, self.callers):
            at = spans.triggers.get(found.name[0], ())
            if not any(place in spans.ends for place in at):
                raise PromptError(
                    f"{as_written(found.name)!r} lies beyond what the text encoder reads of the "
                    f"prompt {prompt[:60]!r}... Move it nearer to the start."
                )


def asking_for(config: SampleConfig, concept: Concept) -> SampleConfig:
    """The settings with which a prompt that holds a concept's class words draws that concept.

    What the settings ask for otherwise, for other prompts, is left out.
    """
    own = [part for part in parts_of(config.infuse) if _sides(part)[1] == concept.name]
    if not own and concept.on_request:
        own = [quoted(concept.name)]
    return replace(config, infuse=", ".join(own))


def _sides(part: str) -> tuple[str | None, str]:
    """The phrase of a request, None for the class words, and the concept's name.

    Raises:
        PromptError: If it is no request.
    """
    match = _REQUEST.fullmatch(part)
    if match is None:
        raise _malformed(part)
    phrase = match[1] and bare(match[1])
    return phrase, bare(match[2])


def _malformed(part: str) -> PromptError:
    return PromptError(
        f"infuse has {part!r}. Write PHRASE=CONCEPT, or CONCEPT alone; in double quotes what holds "
        "a comma, a semicolon or an equals sign itself."
    )
