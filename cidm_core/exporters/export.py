"""A concept of a bank as files for other programs, in the chosen format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..bank import Bank
from ..concept import Concept
from ..errors import BankError
from ..storage.atomic import make_folder, write_atomic
from ..storage.compatibility import BaseWeights, check_fit
from ..storage.names import file_stem
from ..storage.stock_lora import lora_bytes, lora_metadata, lora_tensors
from ..storage.tensor_file import SUFFIX, pack
from . import custom_diffusion, whole
from .formats import COMPVIS, DIFFUSERS, FILE_ENDINGS, LORA, PIVOTAL, WEBUI


def export_concept(
    bank: Bank, name: str, out: Path, file_format: str = LORA, model: BaseWeights | None = None
) -> list[Path]:
    """Write a concept for other programs.

    Args:
        bank: Where it is.
        name: Its name there.
        out: A file, with the format's ending; a folder for formats of several files.
        file_format: One of `formats.FORMATS`.
        model: The model it was learned on; needed for the formats of Custom Diffusion.

    Returns:
        The files, that of the weights first.

    Raises:
        CidmError: If such files cannot hold the concept, or cannot be written there.
    """
    if (ending := FILE_ENDINGS.get(file_format)) and out.suffix.lower() != ending:
        raise BankError(f"'{out}' should end in {ending}. Rename it.")
    concept = bank[name]
    files = contents(concept, file_format, file_stem(concept.name), model)
    targets = {out if ending else out / path: data for path, data in files.items()}
    return write_all(bank, targets)


def contents(
    concept: Concept, file_format: str, stem: str, model: BaseWeights | None = None
) -> dict[str, bytes]:
    """What to write, by relative path.

    Raises:
        CidmError: If such files cannot hold the concept, or it is of another model.
    """
    if file_format == LORA:
        return {f"{stem}{SUFFIX}": lora_bytes(concept)}
    if file_format == WEBUI:
        whole.check_weights(concept)
        files = {f"embeddings/{path}": data for path, data in whole.word_files(concept).items()}
        weights = pack(lora_tensors(concept), lora_metadata(concept))
        return {f"loras/{stem}{SUFFIX}": weights} | files
    if file_format == PIVOTAL:
        whole.check_weights(concept)
        files = {f"embeddings/{path}": data for path, data in whole.subject_files(concept).items()}
        return {f"loras/{stem}{SUFFIX}": lora_bytes(concept)} | files
    if model is None:
        raise BankError(
            f"Files of format {file_format} hold whole matrices, {concept.name!r} their change. "
            "Give the model it was learned on (on the command line --model)."
        )
    whole.check_attention(concept)
    check_fit([concept], model)
    if file_format == DIFFUSERS:
        return custom_diffusion.for_diffusers(concept, model)
    if file_format == COMPVIS:
        return {f"{stem}{FILE_ENDINGS[file_format]}": custom_diffusion.for_compvis(concept, model)}
    return {f"{stem}{FILE_ENDINGS[file_format]}": custom_diffusion.for_delta_bin(concept, model)}


def write_all(bank: Bank, files: Mapping[Path, bytes]) -> list[Path]:
    """Write files, each of them completely.

    Raises:
        BankError: If one would harm a concept, or the system refuses.
    """
    for path in files:
        bank.check_outside(path)
    for path, data in files.items():
        make_folder(path.parent, error=BankError)
        write_atomic(path, data, error=BankError)
    return list(files)
