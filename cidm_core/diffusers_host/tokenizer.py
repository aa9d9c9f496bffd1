"""Finding a CLIP tokenizer on this machine; single-file checkpoints do not carry one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from ..errors import HostError
from ..families import TextEncoderRow

logger = logging.getLogger(__name__)

CLIP_L = "openai/clip-vit-large-patch14"
_END = "<|endoftext|>"


def load_tokenizer(folder: Path, given: Path | None, vocabulary: int, row: TextEncoderRow) -> Any:
    """The tokenizer of a text encoder.

    Args:
        folder: Where to look for a folder `tokenizer` (for the second encoder of SDXL first for
            `tokenizer_2`): the model folder, or the folder a checkpoint lies in.
        given: The user's choice, a folder or a `tokenizer.json`; looked at first and alone.
        vocabulary: Number of embeddings of the text encoder.
        row: The text encoder, with its token limit. Tokenizer folders may claim more (ComfyUI's
            says 8192), the text encoder cannot.

    Raises:
        HostError: If there is none, or it has tokens the text encoder does not know.
    """
    own = row.name.replace("text_encoder", "tokenizer")
    folders = [folder / name for name in dict.fromkeys((own, "tokenizer"))]
    candidates = [given] if given else [*folders, *_cached()]
    for path in candidates:
        if (kind := _kind(path)) is None:
            continue
        tokenizer = _open(path, kind, row)
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest >= vocabulary:
            raise HostError(
                f"The tokenizer in {path} has token {largest}, the text encoder ends at "
                f"{vocabulary - 1}. They do not belong together; give the model's own tokenizer."
            )
        if largest < vocabulary - 1:
            logger.warning("Tokenizer %s knows %d of %d tokens.", path, largest + 1, vocabulary)
        return tokenizer
    raise HostError(_how_to_get_one(candidates))


def _kind(path: Path) -> str | None:
    if path.is_file() and path.suffix == ".json":
        return "file"
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return "clip"
    return "fast" if (path / "tokenizer.json").is_file() else None


def _open(path: Path, kind: str, row: TextEncoderRow) -> Any:
    try:
        if kind == "clip":
            # "!" as the token to pad with would no longer be read as OpenCLIP reads it.
            told: dict[str, Any] = {"pad_token": _END, "added_tokens_decoder": {}}
            return CLIPTokenizer.from_pretrained(
                str(path),
                local_files_only=True,
                model_max_length=row.max_tokens,
                **(told if row.pad_id is not None else {}),
            )
        file = path if kind == "file" else path / "tokenizer.json"
        return PreTrainedTokenizerFast(
            tokenizer_file=str(file),
            model_max_length=row.max_tokens,
            bos_token="<|startoftext|>",
            eos_token=_END,
            unk_token=_END,
            pad_token=_END,
        )
    except Exception as error:  # tokenizers raises bare Exception
        raise HostError(
            f"The tokenizer in {path} cannot be read ({error}). It needs vocab.json and "
            "merges.txt, or a tokenizer.json, of a CLIP model."
        ) from error


def _cached() -> Iterator[Path]:
    """The tokenizer of CLIP-L in the local Hugging Face cache, if it was ever fetched."""
    for name in ("merges.txt", "tokenizer.json"):
        found = try_to_load_from_cache(CLIP_L, name)
        if isinstance(found, str):
            yield Path(found).parent


def _how_to_get_one(looked: list[Path]) -> str:
    places = ", ".join(str(path) for path in looked)
    return (
        f"No tokenizer found in {places}. A folder with vocab.json and merges.txt is needed. Any "
        "of these will do: put the folder `tokenizer` of a Stable Diffusion 1.x model beside the "
        "checkpoint; give its path as tokenizer=... (--tokenizer), in a ComfyUI installation it "
        f"is comfy/sd1_tokenizer; or fetch it once with `hf download {CLIP_L} vocab.json "
        "merges.txt tokenizer_config.json`."
    )
