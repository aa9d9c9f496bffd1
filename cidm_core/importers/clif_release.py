"""What CLIF's script writes: a LoRA without its words, and the words in whole text encoders.

Lin et al. 2024, https://arxiv.org/abs/2405.06914. Stage B2 writes `OUT/pytorch_lora_weights` and
beside it the pipeline `OUT_full_model`, the only place of the words; stages A and B1 write nothing
but tokenizers and text encoders.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..families import FAMILIES, TextEncoderRow
from ..storage.names import default_name, name_of_subjects
from ..updates import LowRank
from .custom_diffusion import Told, chosen, plain
from .tables import load_table

METHOD = "clif"
_LORAS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_ENCODERS = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
_WHOLE = "_full_model"
_EMBEDDINGS = "embeddings.token_embedding.weight"
_ADDED = "added_tokens.json"
_CLIPS_OWN = 49408  # entries of CLIP's vocabulary
_MOST_BYTES = 10_000_000
_KEY = re.compile(r"unet\.(.+\.attn[12])\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")
_EXTRA = re.compile(r"(.+)_\d+")  # further vectors of a word, which no prompt of the script holds


@dataclass(frozen=True)
class Release:
    """Where a training's results lie: the file of its LoRA, the folder of its text encoders."""

    lora: Path | None
    encoders: Path | None

    @property
    def origin(self) -> str:
        """What messages call it."""
        found = self.lora or self.encoders
        assert found is not None
        return f"{found.parent.name}/{found.name}" if self.lora else found.name


def matches(table: Mapping[str, object]) -> bool:
    """Whether a table is a LoRA in the layout that the script writes."""
    return any(_KEY.fullmatch(str(key)) for key in table)


def release_in(folder: Path) -> Release | None:
    """Results of the script in a folder, or in the other one of the two; None if there are none."""
    pair = folder, folder.with_name(f"{folder.name}{_WHOLE}")
    if folder.name.endswith(_WHOLE):
        pair = folder, folder.with_name(folder.name.removesuffix(_WHOLE))
    loras = (each / name for each in pair for name in _LORAS)
    lora = next((path for path in loras if path.is_file()), None)
    encoders = next((each for each in pair if (each / "tokenizer" / _ADDED).is_file()), None)
    return Release(lora, encoders) if lora or encoders else None


def concept_of(
    release: Release, told: Told, family: str, base: str, layers: tuple[str, ...]
) -> Concept:
    """The concept of a training's results.

    Args:
        release: Where they lie.
        told: Class words, one for all subjects or "dog+cat"; which words to take.
        family: Of the model it was learned on.
        base: Fingerprint of that model.
        layers: Its attn2 modules.

    Raises:
        CidmError: If they lack something, are malformed, or what is told does not fit.
    """
    origin, row = release.origin, FAMILIES.get(family)
    if row is None:
        raise BankError(f"{origin} cannot be of family {family}, which is unknown here.")
    if release.encoders is None:
        whole = f"{release.lora.parent.name}{_WHOLE}" if release.lora else ""
        raise BankError(
            f"{origin} is a LoRA in diffusers' older layout, without words; CLIF's script keeps "
            f"them in a folder beside it, '{whole}', with tokenizer and text_encoder. Put it there."
        )
    held, extras = _words(release.encoders, row.encoders, origin)
    names, vectors = chosen(held, told.words, origin)
    updates, left = _updates(release.lora, origin)
    left_out = {**left, **({"extra tokens": extras} if extras else {})}
    try:
        subjects = _subjects(names, told, origin)
        return Concept(
            name=name_of_subjects(subjects),
            subjects=subjects,
            family=family,
            base=base,
            layers=layers,
            updates=updates,
            rows={
                each.name: torch.stack([rows[i] for rows in vectors])[:, None]
                for i, each in enumerate(row.encoders)
            },
            method=METHOD,
            facts={"imported": origin, **({"left_out": left_out} if left_out else {})},
        )
    except ConceptError as caught:
        raise BankError(f"{origin}: {caught}") from caught


def _words(
    folder: Path, encoders: Sequence[TextEncoderRow], origin: str
) -> tuple[dict[str, tuple[Tensor, ...]], int]:
    """Added words with a row of every encoder, and how many further tokens were added."""
    tables = [_added(folder, each, origin) for each in encoders]
    first = tables[0]
    if any(table.keys() != first.keys() for table in tables):
        raise BankError(
            f"{origin}: the tokenizers of its text encoders know other words. Get it again."
        )
    own = [word for word in first if not ((m := _EXTRA.fullmatch(word)) and m[1] in first)]
    if not own:
        raise BankError(f"{origin}: no word was added to its tokenizer. Choose another folder.")
    return {word: tuple(t[word] for t in tables) for word in own}, len(first) - len(own)


def _added(folder: Path, row: TextEncoderRow, origin: str) -> dict[str, Tensor]:
    """What was added to a tokenizer, with the encoder's rows, in the order of their numbers."""
    tokenizer = folder / row.name.replace("text_encoder", "tokenizer")
    added = _numbers(tokenizer / _ADDED, origin)
    vocabulary = tokenizer / "vocab.json"
    start = len(_numbers(vocabulary, origin)) if vocabulary.is_file() else _CLIPS_OWN
    places = ((folder / row.name / name) for name in _ENCODERS)
    if (weights := next((path for path in places if path.is_file()), None)) is None:
        raise BankError(
            f"{origin} has no {row.name} with {_ENCODERS[0]}. Get the folder again; a model of "
            "another family has other encoders."
        )
    table = load_table(weights)
    table = table if isinstance(table, Mapping) else {}
    keys = [key for key in table if str(key).endswith(_EMBEDDINGS)]
    if len(keys) != 1:
        raise BankError(f"{origin}: {row.name} has no table of embeddings. Get the folder again.")
    rows = plain(table[keys[0]], str(keys[0]), origin)
    words = {w: n for w, n in sorted(added.items(), key=lambda each: each[1]) if n >= start}
    if rows.ndim != 2 or rows.shape[1] != row.dim or any(n >= len(rows) for n in words.values()):
        raise BankError(
            f"{origin}: embeddings of {row.name} are {tuple(rows.shape)}; expected a row {row.dim} "
            f"wide for each of {max(words.values(), default=0) + 1} tokens. Give the model it was "
            "learned on."
        )
    return {word: rows[number].float().clone() for word, number in words.items()}


def _numbers(path: Path, origin: str) -> dict[str, int]:
    """A table of tokens and their numbers."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(type(n) is int for n in found.values()):
            raise ValueError("it is no table of numbers")
    except (OSError, ValueError, RecursionError) as error:
        place = f"{path.parent.name}/{path.name}"
        raise BankError(
            f"{origin}: {place} cannot be read ({error}). Get the folder again."
        ) from error
    return found


def _subjects(names: Sequence[str], told: Told, origin: str) -> tuple[Subject, ...]:
    """Words with one stem are one subject's, `<joe1> <joe2>`; a pair under one class is, too."""
    classes = [part.strip() for part in told.class_words.split("+")]
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(default_name((name,)), []).append(name)
    groups = list(stems.values())
    if len(classes) == 1:
        groups = [list(names)] if len(names) <= 2 else groups
        classes *= len(groups)
    elif len(classes) != len(groups) and not len(names) % len(classes):
        each = len(names) // len(classes)
        groups = [list(names[k : k + each]) for k in range(0, len(names), each)]
    if len(classes) != len(groups):
        found = "; ".join(" ".join(group) for group in groups)
        raise BankError(
            f"{origin} holds {len(groups)} subjects ({found}) for {len(classes)} class words. Give "
            "one for each, in this order, such as 'dog+cat', or one for all; or take some of them "
            "by words."
        )
    pairs = zip(groups, classes, strict=True)
    return tuple(Subject(tuple(words), known, told.kind) for words, known in pairs)


def _updates(lora: Path | None, origin: str) -> tuple[dict[str, LowRank], dict[str, int]]:
    """The LoRA's factors, whose alpha is their rank, and how many tensors of what else there is."""
    table = {} if lora is None else load_table(lora)
    if not isinstance(table, Mapping):
        raise BankError(f"{origin} holds no table of tensors. Get the file again.")
    factors: dict[str, dict[str, Tensor]] = {}
    left: Counter[str] = Counter()
    for key in table:
        if (match := _KEY.fullmatch(str(key))) is None:
            left[str(key).partition(".")[0][:40]] += 1
            continue
        path = f"{match[1]}.to_{'out.0' if match[2] == 'out' else match[2]}"
        factors.setdefault(path, {})[match[3]] = plain(table[key], str(key), origin)
    found: dict[str, LowRank] = {}
    for path, pair in factors.items():
        down, up = pair.get("down"), pair.get("up")
        if down is None or up is None or down.ndim != 2 or up.shape[1:] != down.shape[:1]:
            raise BankError(f"{origin}: {path} has no down and up that fit. Get the file again.")
        found[path] = LowRank(down, up, float(len(down)))
    return found, dict(left)
