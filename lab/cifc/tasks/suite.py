"""What the forgetting benchmark asks: concepts to learn, prompts, scenes of several, orders."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from cidm_core.concept import KINDS, Concept, Subject
from cidm_core.errors import CidmError
from cidm_core.evaluation.prompts import GAPS, fill, write_back
from cidm_core.regions import Region
from cidm_core.training.data import Photo
from cidm_core.words import overlap, parse_words


@dataclass(frozen=True)
class Naming:
    """How prompts name a concept; as a concept of these subjects has it."""

    subjects: tuple[Subject, ...]
    names = Concept.names
    phrase = Concept.phrase


@dataclass(frozen=True)
class SuiteTask:
    """One concept to learn, and what it is asked for afterwards.

    Attributes:
        name: Name of the concept in the bank.
        kind: "object", "human" or "style".
        words: Its concept words, such as "<v1a> <v1b>".
        class_words: What the captions call it, such as "dog".
        photos: Reference pictures with captions that hold the class words.
        prompts: With a gap `<TOK>` (or `{}`) where the concept goes.

    Raises:
        CidmError: If the kind is unknown, words are unusable, a prompt has no gap, or anything
            is missing.
    """

    name: str
    kind: str
    words: str
    class_words: str
    photos: tuple[Photo, ...]
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        parse_words(self.words)
        if self.kind not in KINDS:
            raise CidmError(
                f"Task {self.name!r}: kind {self.kind!r} is none of {', '.join(KINDS)}."
            )
        if not self.class_words.strip():
            raise CidmError(f"Task {self.name!r} has no class words. Give some, such as 'dog'.")
        if not self.photos or not self.prompts:
            missing = "prompts" if self.photos else "photos"
            raise CidmError(f"Task {self.name!r} has no {missing}. Give at least one.")
        if bare := [p for p in self.prompts if not any(gap in p for gap in GAPS)]:
            raise CidmError(
                f"Task {self.name!r}: the prompt {bare[0]!r} does not say where the concept "
                f"goes. Mark the place with {' or '.join(GAPS)}."
            )

    @property
    def trigger(self) -> str:
        """The words as one phrase, as the prompts name the concept."""
        return " ".join(parse_words(self.words))

    @property
    def naming(self) -> Naming:
        """What the functions of `evaluation.prompts` want to know of a concept."""
        return Naming((Subject(parse_words(self.words), self.class_words, self.kind),))

    @property
    def filled(self) -> tuple[str, ...]:
        """The prompts with the concept's words."""
        return tuple(fill(prompt, self.naming) for prompt in self.prompts)

    @property
    def plain(self) -> tuple[str, ...]:
        """The prompts with the class words, as text alignment reads them."""
        return tuple(plain_words(prompt, [self]) for prompt in self.filled)


@dataclass(frozen=True)
class ScenePart:
    """One concept of a scene.

    Attributes:
        task: Name of its task.
        region: Box and prompt; the prompt holds the concept's words.
    """

    task: str
    region: Region


@dataclass(frozen=True)
class SuiteScene:
    """A picture of several concepts.

    Attributes:
        prompt: The global prompt, naming all concepts by their words.
        parts: Each concept in its box.
        width_px: Size of the picture; None: the family's.
        height_px: As `width_px`.
    """

    prompt: str
    parts: tuple[ScenePart, ...]
    width_px: int | None = None
    height_px: int | None = None

    @property
    def regions(self) -> list[Region]:
        return [part.region for part in self.parts]


@dataclass(frozen=True)
class Suite:
    """Everything one run of the benchmark needs.

    Attributes:
        name: "mini", "long" or the folder's name.
        tasks: The concepts, in the order of the paper's table.
        orders: In which orders they are learned: permutations of the tasks' indices.
        scenes: Pictures of several concepts; may be empty.
        negative_prompt: Shared by all pictures.
        perfect: Draws, without any model, what a prompt of a task asks for; None: nobody can.

    Raises:
        CidmError: If tasks share a name or words, an order is no permutation, or a scene names
            a task that is not there.
    """

    name: str
    tasks: tuple[SuiteTask, ...]
    orders: tuple[tuple[int, ...], ...]
    scenes: tuple[SuiteScene, ...] = ()
    negative_prompt: str = ""
    perfect: Callable[[SuiteTask, str, random.Random], Image.Image] | None = None

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        _check_distinct(self.tasks)
        for order in self.orders:
            if sorted(order) != list(range(len(names))):
                raise CidmError(
                    f"Suite {self.name!r}: the order {list(order)} does not name each of the "
                    f"{len(names)} tasks once. Count from 0."
                )
        if not self.orders:
            raise CidmError(f"Suite {self.name!r} has no order. Give at least one.")
        for part in (part for scene in self.scenes for part in scene.parts):
            if part.task not in names:
                raise CidmError(
                    f"Suite {self.name!r}: a scene asks for {part.task!r}, which is no task; "
                    f"there are {', '.join(names)}."
                )

    def task(self, name: str) -> SuiteTask:
        """The task of that name.

        Raises:
            CidmError: If there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        names = ", ".join(task.name for task in self.tasks)
        raise CidmError(f"There is no task {name!r} in {self.name!r}; there are {names}.")

    def plain(self, prompt: str) -> str:
        """A prompt with every concept's words written back as its class words."""
        return plain_words(prompt, self.tasks)


def plain_words(prompt: str, tasks: Sequence[SuiteTask]) -> str:
    """A prompt with the concept words written back as class words; the text is lower-cased."""
    return write_back(prompt, [task.naming for task in tasks])


def _check_distinct(tasks: Sequence[SuiteTask]) -> None:
    if not tasks:
        raise CidmError("A suite needs at least one task.")
    names: set[str] = set()
    taken: list[str] = []
    for task in tasks:
        words = parse_words(task.words)
        shared = overlap(words, taken)
        if task.name in names or shared is not None:
            what = "name" if task.name in names else f"word {shared!r}"
            raise CidmError(f"Task {task.name!r}: its {what} is another task's already. Rename it.")
        names.add(task.name)
        taken += words
