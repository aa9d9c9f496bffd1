"""Concepts from and to other programs: files of the public code in, ordinary LoRA files out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.concept import KINDS
from ...cidm_core.errors import BankError, CidmError
from ...cidm_core.storage.names import file_stem
from ..host import comfy as host
from ..host.pictures import shown
from ..host.sockets import CATEGORY, BankSocket
from .banks import bank_input, name_input
from .facts import find_entry, listing
from .imports import base_of, from_pth, holds, left_out, own_file, picture_beside

_NONE = "(none)"
_FOLDERS = ("loras", host.BANKS)
_ENDINGS = (".pth", ".safetensors")


class ImportConcept(io.ComfyNode):
    """A concept file of ours, or a `.pth` of CIFC or Mix-of-Show, into a bank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.list_files(_FOLDERS, _ENDINGS)
        return io.Schema(
            node_id="CIDM_ImportConcept",
            display_name="Import Concept",
            category=CATEGORY,
            description="Copy a concept into a bank: one of ours, or an edlora_model-*.pth that "
            "CIFC or Mix-of-Show learned.",
            search_aliases=["Mix-of-Show", "CIFC", "edlora", "pth", "load concept file", "CIDM"],
            is_output_node=True,
            inputs=[
                bank_input(),
                io.Combo.Input(
                    "file",
                    [_NONE, *files],
                    default=_NONE,
                    tooltip="A .safetensors concept or a .pth file, in the input directory, "
                    "models/loras or models/concept_banks.",
                ),
                name_input("Its name in the bank. Default: its own, or from its words."),
                io.String.Input(
                    "class_words",
                    default="",
                    optional=True,
                    tooltip="For .pth files: what it is in plain words, such as 'dog'.",
                ),
                io.Combo.Input(
                    "kind",
                    list(KINDS),
                    default=KINDS[0],
                    optional=True,
                    tooltip="For .pth files: what it is.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="For .pth files: which of its words to take. Default: all.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    optional=True,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="For .pth files: their alpha; 1.0 is as trained.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For .pth files: the model it was learned on. Default: that of the "
                    "bank's other concepts.",
                ),
                io.Boolean.Input(
                    "allow_other_base",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Take a concept that was learned on another model of the family.",
                ),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="The bank with the concept."),
                io.String.Output("words", tooltip="The concept's words, for a prompt."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None, class_words: str | None = None) -> bool | str:
        """Files are looked up here, so that one copied in after the page was loaded is found."""
        if file is None:
            return True
        try:
            path = _chosen(file)
        except CidmError as error:
            return str(error)
        if class_words is not None and _needs_class(path, class_words):
            return _CLASS_MISSING
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **_rest: Any) -> str:
        """Changes with the file."""
        facts = os.stat(_chosen(file)) if file else None
        return f"{facts.st_mtime_ns} {facts.st_size}" if facts else ""

    @classmethod
    def execute(
        cls,
        bank: Bank,
        file: str,
        name: str = "",
        class_words: str = "",
        kind: str = KINDS[0],
        words: str = "",
        scale: float = 1.0,
        model: Any = None,
        allow_other_base: bool = False,
    ) -> io.NodeOutput:
        path = _chosen(file)
        if _needs_class(path, class_words):
            raise BankError(_CLASS_MISSING)
        if path.suffix.lower() == ".pth":
            family, base = base_of(bank, model)
            concept = from_pth(path, name, class_words, kind, words, scale, family, base)
        else:
            concept = own_file(path, name)
        note = "It was in the bank already."
        if not holds(bank, concept):
            bank.add(concept, picture_beside(path), allow_other_base=allow_other_base)
            note = left_out(concept)
        text = "\n".join(filter(None, [f"{concept.name}: {concept.trigger}", note, listing(bank)]))
        return io.NodeOutput(Bank(bank.path), concept.trigger, ui=shown(cls, text=text))


class ExportConcept(io.ComfyNode):
    """A concept's weights as a LoRA file for the stock loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CIDM_ExportConcept",
            display_name="Export Concept as LoRA",
            category=CATEGORY,
            description="Write a concept's weights into models/loras for Load LoRA and other "
            "programs. Its words stay in the bank: a LoRA has no place for them.",
            search_aliases=["save LoRA", "export LoRA", "CIDM"],
            is_output_node=True,
            inputs=[
                bank_input(),
                name_input("Which concept; empty: the last one learned."),
                io.String.Input(
                    "file_name",
                    default="",
                    optional=True,
                    tooltip="Name of the file in models/loras, without an ending. Default: the "
                    "concept's.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace a file of that name.",
                ),
            ],
            outputs=[io.String.Output("lora_name", tooltip="As Load LoRA lists it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None = None) -> bool | str:
        try:
            _stem(file_name or "", "concept")
        except CidmError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, bank: Bank, name: str = "", file_name: str = "", overwrite: bool = False
    ) -> io.NodeOutput:
        entry = find_entry(bank, name)
        target = host.lora_folder() / f"{_stem(file_name, entry.name)}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not overwrite:
            raise BankError(
                f"The file '{target}' is there already. Choose another file_name, or switch "
                "overwrite on."
            )
        bank.export(entry.name, target)
        host.refresh_files("loras")
        text = f"'{entry.name}' is in models/loras as {target.name}."
        return io.NodeOutput(target.name, ui=shown(cls, text=text))


_CLASS_MISSING = (
    "A .pth file does not say what its concept is. Write it into class_words, such as 'dog'."
)


def _chosen(file: str) -> Path:
    if file.strip() in ("", _NONE):
        raise BankError(
            "No file was chosen. Put a concept file into the input directory and choose it in file."
        )
    path = host.find_file(file, _FOLDERS)
    if path.suffix.lower() not in _ENDINGS:
        raise BankError(f"{path.name} is none of {' and '.join(_ENDINGS)}. Choose another file.")
    return path


def _needs_class(path: Path, class_words: str) -> bool:
    return path.suffix.lower() == ".pth" and not class_words.strip()


def _stem(file_name: str, default: str) -> str:
    """A file name that stays in its folder on every system."""
    name = file_name.strip().removesuffix(".safetensors")
    if name and file_stem(name) != name:
        raise BankError(
            f"A file cannot be called {name!r}. Use letters, digits, spaces, - and _, without "
            "a folder."
        )
    return file_stem(name or default)
