"""Concepts from and to other programs: files of the public code in, ordinary LoRA files out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import find_entry, listing
from ...cidm_core.errors import BankError
from ...cidm_core.importers.concept_import import ENDINGS, check_class_words, import_concept
from ...cidm_core.importers.settings import ImportConfig
from ...cidm_core.storage.atomic import make_folder
from ...cidm_core.storage.names import file_stem
from ...cidm_core.storage.tensor_file import SUFFIX
from ..host import comfy as host
from ..host.inputs import inputs_of, passes, settings_from, text_input
from ..host.model import model_facts
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema
from .banks import concept_input

_NONE = "(none)"
_FOLDERS = ("loras", "embeddings", host.BANKS)


class ImportConcept(io.ComfyNode):
    """A concept file of ours, a `.pth` of CIFC or Mix-of-Show, or an embedding, into a bank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ImportConcept",
            display_name="Import Concept",
            description="Copies a concept into a bank: one of this pack, an edlora_model-*.pth "
            "that CIFC or Mix-of-Show learned, or a textual inversion (embedding).",
            search_aliases=["textual inversion", "embedding", "Mix-of-Show", "CIFC", "edlora"],
            is_output_node=True,
            inputs=[
                bank_input(),
                io.Combo.Input(
                    "file",
                    [_NONE, *host.list_files(_FOLDERS, ENDINGS)],
                    default=_NONE,
                    tooltip="A concept, a .pth file or an embedding, in the input directory, "
                    "models/loras, models/embeddings or models/concept_banks.",
                ),
                *inputs_of(ImportConfig),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For files of other programs: the model they were learned on. By "
                    "default that of the bank's other concepts.",
                ),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="The bank with the concept."),
                io.String.Output("words", tooltip="The concept's words, for a prompt."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        """Files are looked up here, so that one copied in after the page was loaded is found."""
        if file is None:  # linked, known only when it runs
            return True
        asked = host.inputs_asked(cls)
        words = None if asked is None else asked.get("class_words", "")
        words = "known later" if words is None else words
        return passes(lambda: check_class_words(_chosen(file), words))

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **_rest: Any) -> str:
        """Changes with the file."""
        facts = os.stat(_chosen(file)) if file else None
        return f"{facts.st_mtime_ns} {facts.st_size}" if facts else ""

    @classmethod
    def execute(cls, bank: Bank, file: str, model: Any = None, **options: Any) -> io.NodeOutput:
        config = settings_from(ImportConfig, options)
        facts = None if model is None else model_facts(model)
        concept, note = import_concept(_chosen(file), bank, config, facts)
        text = "\n".join(filter(None, [f"{concept.name}: {concept.phrase}", note, listing(bank)]))
        return io.NodeOutput(Bank(bank.path), concept.phrase, ui=shown(cls, text=text))


class ExportConcept(io.ComfyNode):
    """A concept's weights as a LoRA file for the stock loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ExportConcept",
            display_name="Export Concept as LoRA",
            description="Writes a concept's weights into models/loras, for Load LoRA and other "
            "programs. Its words stay in the bank, because a LoRA has no place for them.",
            search_aliases=["save LoRA", "export LoRA", "CIDM"],
            is_output_node=True,
            inputs=[
                bank_input(),
                concept_input(),
                text_input(
                    "file_name",
                    "The name of the file in models/loras, without an ending. By default it is "
                    "the concept's.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace a file of that name.",
                ),
            ],
            outputs=[io.String.Output("lora_name", tooltip="The file, as Load LoRA lists it.")],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None = None) -> bool | str:
        return passes(lambda: _stem(file_name or "", "concept"))

    @classmethod
    def execute(
        cls, bank: Bank, name: str = "", file_name: str = "", overwrite: bool = False
    ) -> io.NodeOutput:
        entry = find_entry(bank, name)
        target = host.lora_folder() / f"{_stem(file_name, entry.name)}{SUFFIX}"
        make_folder(target.parent, error=BankError)
        if target.exists() and not overwrite:
            raise BankError(
                f"The file '{target}' is there already. Choose another file_name, or switch "
                "overwrite on."
            )
        bank.export(entry.name, target)
        host.refresh_files("loras")
        text = f"'{entry.name}' is in models/loras as {target.name}."
        return io.NodeOutput(target.name, ui=shown(cls, text=text))


def _chosen(file: str) -> Path:
    if file.strip() in ("", _NONE):
        raise BankError(
            "No file was chosen. Put a concept file into the input directory and choose it in file."
        )
    return host.find_file(file, _FOLDERS)


def _stem(file_name: str, default: str) -> str:
    """A file name that stays in its folder on every system."""
    name = file_name.strip().removesuffix(SUFFIX)
    if name and file_stem(name) != name:
        raise BankError(
            f"A file cannot be called {name!r}. Use letters, digits, spaces, - and _, without "
            "a folder."
        )
    return file_stem(name or default)
