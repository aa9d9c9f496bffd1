"""What a concept is to programs that know whole matrices and one embedding per word.

Custom Diffusion's files hold the learned matrices themselves, so that they fit one base model only,
and a word's embedding once per text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from safetensors.torch import save
from torch import Tensor

from ..concept import Concept
from ..errors import BankError
from ..storage.compatibility import BaseWeights
from ..storage.names import default_name, file_stem
from ..updates import FullRank, LowRank

CLIPS = ("clip_l", "clip_g")  # what files of words call the two text encoders of SDXL
KEYS_AND_VALUES = ("to_k", "to_v")
_PIVOTAL = "_emb"  # what its training script calls a file of words
_REST = ("to_q.weight", "to_out.0.weight", "to_out.0.bias")
_INSTEAD = "Export it as lora, without its words."


def words_of(concept: Concept) -> dict[str, tuple[Tensor, ...]]:
    """The embedding of each word in every text encoder, (dim,).

    Raises:
        BankError: If a word has another one in each layer.
    """
    for rows in concept.rows.values():
        if not torch.equal(rows, rows[:, :1].expand_as(rows)):
            raise BankError(
                f"The words of {concept.name!r} have another embedding in each cross-attention "
                f"layer, and other programs know one. {_INSTEAD}"
            )
    # The names of encoders sort in their order.
    held = [rows[:, 0].detach().float() for _, rows in sorted(concept.rows.items())]
    return {word: tuple(each[i].clone() for each in held) for i, word in enumerate(concept.words)}


def word_files(concept: Concept, *, diffusers: bool = False) -> dict[str, bytes]:
    """A safetensors file for each word: named in it for diffusers, by its file for the others.

    Raises:
        BankError: As `words_of`.
    """
    files: dict[str, bytes] = {}
    for word, (first, *others) in words_of(concept).items():
        table = {word: first} if diffusers else {"emb_params": first[None]}
        if others:
            table = {clip: row[None] for clip, row in zip(CLIPS, (first, *others), strict=True)}
        stem = file_stem(word.strip("<>"))
        files[f"{stem}.safetensors"] = save({key: row.clone() for key, row in table.items()})
    if len({name.casefold() for name in files}) < len(concept.words):
        raise BankError(f"Words of {concept.name!r} would have one file. {_INSTEAD}")
    return files


def subject_files(concept: Concept) -> dict[str, bytes]:
    """A safetensors file for each subject with words, as diffusers' pivotal tuning has them.

    The words' embeddings stand in it in order, (words, dim), under a name for each text encoder.

    Raises:
        BankError: As `words_of`.
    """
    held, files = words_of(concept), dict[str, bytes]()
    subjects = [subject for subject in concept.subjects if subject.words]
    for subject in subjects:
        rows = zip(*(held[word] for word in subject.words), strict=True)
        table = {clip: torch.stack(each) for clip, each in zip(CLIPS, rows, strict=False)}
        stem = file_stem(default_name(subject.words, subject.class_words))
        files[f"{stem}{_PIVOTAL}.safetensors"] = save(table)
    if len({name.casefold() for name in files}) < len(subjects):
        raise BankError(
            f"Words of {concept.name!r} would have one file. Export it as webui, a file for each."
        )
    return files


def check_weights(concept: Concept) -> None:
    """Make sure that weights alone are the whole concept.

    Raises:
        BankError: If something acts at single tokens.
    """
    if concept.residuals:
        raise BankError(
            f"{concept.name!r} acts at single words of a prompt (value residuals), which weights "
            "cannot. Draw with it here."
        )


def check_attention(concept: Concept) -> None:
    """Make sure that a concept changes cross-attention alone, as Custom Diffusion does.

    Raises:
        BankError: If it changes something else.
    """
    check_weights(concept)
    for path in concept.updates:
        if path.partition(".attn2.")[0] + ".attn2" not in concept.layers:
            raise BankError(
                f"{concept.name!r} changes {path}, and files of Custom Diffusion hold "
                "cross-attention only. Export it as webui or lora."
            )


def parameters(concept: Concept, model: BaseWeights) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the learned parameters: of all keys and values, and of the rest of
    cross-attention in every layer where the concept changes it in any.
    """
    more = any(not path.endswith(KEYS_AND_VALUES) for path in concept.updates)
    for layer in concept.layers:
        names = [f"{part}.weight" for part in KEYS_AND_VALUES]
        for name in (*names, *(_REST if more else ())):
            path, _, part = f"{layer}.{name}".rpartition(".")
            yield f"{path}.{part}", _learned(concept, model, path, part)


def factors(concept: Concept, layer: str, part: str) -> tuple[Tensor, Tensor] | None:
    """The change of keys or values as u and v; None if it is not of low rank."""
    update = concept.updates.get(f"{layer}.{part}")
    if not isinstance(update, LowRank):
        return None
    up = update.up if update.scale == 1 else update.scale * update.up
    return up.detach().contiguous(), update.down.detach().contiguous()


def is_compressed(concept: Concept) -> bool:
    """Whether all its keys and values change by low rank."""
    own = [u for path, u in concept.updates.items() if path.endswith(KEYS_AND_VALUES)]
    return bool(own) and all(isinstance(update, LowRank) for update in own)


def _learned(concept: Concept, model: BaseWeights, path: str, part: str) -> Tensor:
    base, update = model.parameter(f"{path}.{part}"), concept.updates.get(path)
    change = None
    if part == "bias":
        change = update.bias if isinstance(update, FullRank) else None
    elif isinstance(update, FullRank | LowRank):
        change = update.delta
    return base if change is None else base + change.detach().float()
