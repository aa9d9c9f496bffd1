"""A concept: what one training taught. Its subjects, their words, and what changes in the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .calls import Name, as_written, name_of
from .config import KINDS as KINDS
from .config import MOST_STRENGTH
from .errors import ConceptError
from .updates import BIASED, TEXT_ENCODERS, TEXT_SIDE, FullRank, LowRank, Update, ValueResidual
from .words import parse_words

_PATH = re.compile(r"(?:text_encoder(?:_2)?|down_blocks|mid_block|up_blocks)\.[A-Za-z0-9_.]{1,200}")


@dataclass(frozen=True)
class Subject:
    """One thing that a concept is about.

    Attributes:
        words: Concept words, identity first, class noun last; may be none.
        class_words: The plain words they stand for, e.g. "dog". Without words they call it.
        kind: One of `KINDS`.
        modifier: Whether the words go before the class words, "<new1> cat", and not in their place.
        on_request: Without words: whether its class words call it only where drawing asks for it
            (`SampleConfig.infuse`), and not in every prompt that holds them.
    """

    words: tuple[str, ...]
    class_words: str
    kind: str = "object"
    modifier: bool = False
    on_request: bool = False

    def __post_init__(self) -> None:
        if self.words:
            object.__setattr__(self, "words", parse_words(self.words))
        elif not any(character.isalnum() for character in self.class_words):
            raise ConceptError("A subject has neither words nor class words. Give one of them.")
        if self.kind not in KINDS:
            raise ConceptError(f"Kind {self.kind[:40]!r} is none of {', '.join(KINDS)}.")

    @property
    def triggers(self) -> tuple[str, ...]:
        """What calls it in a prompt: its words; without any, its class words as one phrase."""
        return name_of(self.words, self.class_words)

    @property
    def phrase(self) -> str:
        """What a caption calls it: its words, and behind those that modify them its class words."""
        name = as_written(self.triggers)
        return f"{name} {self.class_words}" if self.modifier and self.words else name


@dataclass(frozen=True)
class Concept:
    """What a training taught: the task learner Z_g of CIDM, or another method's (section 4.1).

    Attributes:
        name: Name in the bank.
        subjects: What it is about; at least one.
        family: Row of the families table.
        base: Fingerprint of the base model (`fingerprints.fingerprint`).
        layers: diffusers paths of the model's attn2 modules in execution order.
        updates: Changes by path of a linear layer (see `updates`).
        rows: Embeddings of all subjects' words by encoder name, (words, layers or 1, dim).
        method: How it was learned.
        config: Settings it was learned with, as provenance.
        index: Place in the learning order; set by the bank.
        created: ISO time; set by the bank.
        facts: Further provenance: steps done, final loss, seconds, photos, base name ...
        two_streams: Whether a row that calls it attends with the queries of a row beside it that
            knows nothing of it, and so with the base model's attention maps (Infusion).
        last_piece: Whether its value residuals act at the last token of a name only.
        strength: Factor on all that its updates change, in drawing; no file has it.
    """

    name: str
    subjects: tuple[Subject, ...]
    family: str
    base: str
    layers: tuple[str, ...]
    updates: Mapping[str, Update]
    rows: Mapping[str, Tensor]
    method: str = "cidm"
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    index: int = -1
    created: str = ""
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    two_streams: bool = False
    last_piece: bool = False
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.subjects:
            raise ConceptError(f"{self.name!r} has no subject. Say what it is about.")
        check_strength(self.name, self.strength)
        if self.words:
            parse_words(self.words)
        for encoder, rows in self.rows.items():
            words, layers = len(self.words), len(self.layers)
            if rows.ndim != 3 or rows.shape[0] != words or rows.shape[1] not in (1, layers):
                raise ConceptError(
                    f"Tokens of {self.name!r} for {encoder} are {tuple(rows.shape)}; expected "
                    f"{words} words x {layers} layers (or 1) x embedding width."
                )
            if not torch.isfinite(rows).all():
                raise ConceptError(f"{self.name!r} holds NaN or infinite tokens for {encoder}.")
        for path, update in self.updates.items():
            if problem := _problem(path, update):
                raise ConceptError(f"{self.name!r} {problem}")

    @property
    def words(self) -> tuple[str, ...]:
        """The words of all subjects, in the order of `rows`."""
        return tuple(word for subject in self.subjects for word in subject.words)

    @property
    def triggers(self) -> tuple[str, ...]:
        """All words and phrases of its `names`."""
        return tuple(each for name in self.names for each in name)

    @property
    def names(self) -> tuple[Name, ...]:
        """What calls it in any prompt: for each subject, its triggers in order."""
        return tuple(each.triggers for each in self.subjects if each.words or not each.on_request)

    @property
    def on_request(self) -> bool:
        """Whether nothing calls it unless drawing asks for it."""
        return not self.names

    @property
    def trigger(self) -> str:
        """The triggers as one phrase, e.g. "<dog1> <dog2>"."""
        return " ".join(self.triggers)

    @property
    def phrase(self) -> str:
        """What a prompt calls its subjects, joined by "and", e.g. "<new1> cat and <new2> dog"."""
        return " and ".join(subject.phrase for subject in self.subjects)

    @property
    def class_words(self) -> str:
        """The class words of its subjects, joined by "and"."""
        return " and ".join(subject.class_words for subject in self.subjects)

    @property
    def kind(self) -> str:
        """The kind of its first subject."""
        return self.subjects[0].kind

    @property
    def residuals(self) -> dict[str, ValueResidual]:
        """Its value residuals by path."""
        return {path: u for path, u in self.updates.items() if isinstance(u, ValueResidual)}

    @property
    def at_tokens_alone(self) -> bool:
        """Whether all it changes is at its own tokens: there are no weights to be weighed."""
        return bool(self.updates) and len(self.residuals) == len(self.updates)

    @property
    def low_rank(self) -> dict[str, LowRank]:
        """Its low-rank updates by path."""
        return {path: u for path, u in self.updates.items() if isinstance(u, LowRank)}


def check_strength(name: str, strength: float) -> None:
    """Whether a concept can be drawn at a strength.

    Raises:
        ConceptError: If it is out of its limits.
    """
    if not 0 <= strength <= MOST_STRENGTH:
        raise ConceptError(
            f"The strength of {name!r} is {strength:g}; allowed is 0 to {MOST_STRENGTH:g}."
        )


def _problem(path: str, update: Update) -> str:
    """What forbids an update at a path; "" if nothing does."""
    if not _PATH.fullmatch(path):
        return f"has weights for {path[:80]!r}, no linear layer."
    if isinstance(update, ValueResidual) and not path.endswith(TEXT_SIDE):
        return (
            f"has a value residual for {path}, which sees no tokens of a prompt. It belongs to "
            "to_k or to_v of cross-attention."
        )
    biased = isinstance(update, FullRank) and update.bias is not None
    if biased and (path.startswith(TEXT_ENCODERS) or not path.endswith(f".{BIASED}")):
        return (
            f"changes the bias of {path}; a bias can change in {BIASED} of the UNet's attention "
            "only."
        )
    if not all(torch.isfinite(tensor).all() for tensor in update.tensors().values()):
        return f"holds NaN or infinite weights in {path}."
    return ""
