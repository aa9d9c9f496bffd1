"""Concepts from and to other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import find_entry, listing
from ...cidm_core.errors import BankError
from ...cidm_core.exporters.export import contents, write_all
from ...cidm_core.exporters.formats import FILE_ENDINGS, FORMATS, LORA
from ...cidm_core.importers.concept_import import ENDINGS, check_class_words, import_concept
from ...cidm_core.importers.settings import ImportConfig
from ...cidm_core.storage.names import file_stem
from ...cidm_core.storage.tensor_file import SUFFIX
from ..host import comfy as host
from ..host.inputs import inputs_of, passes, settings_from, text_input
from ..host.model import model_weights
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema
from .banks import concept_input

_NONE = "(none)"
_FOLDERS = ("loras", "embeddings", host.BANKS)


class ImportConcept(io.ComfyNode):
    """A concept file of ours or of another program, into a bank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ImportConcept",
            display_name="Import Concept",
            description="Copies a concept into a bank: one of this pack, an edlora_model-*.pth "
            "that CIFC or Mix-of-Show learned, a delta of Custom Diffusion in any of its layouts, "
            "a checkpoint of Infusion, what CLIF's script wrote, or a textual inversion "
            "(embedding).",
            search_aliases=[
                *("textual inversion", "embedding", "Mix-of-Show", "CIFC", "edlora"),
                *("Custom Diffusion", "delta", "Infusion", "CLIF"),
            ],
            is_output_node=True,
            inputs=[
                bank_input(),
                io.Combo.Input(
                    "file",
                    [_NONE, *host.list_files(_FOLDERS, ENDINGS)],
                    default=_NONE,
                    tooltip="A concept, a .pth file, a delta of Custom Diffusion or an embedding, "
                    "in the input directory, models/loras, models/embeddings or "
                    "models/concept_banks.",
                ),
                *inputs_of(ImportConfig),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For files of other programs: the model they were learned on. By "
                    "default that of the bank's other concepts; Custom Diffusion needs it.",
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
        weights = None if model is None else model_weights(model)
        concept, note = import_concept(_chosen(file), bank, config, weights)
        text = "\n".join(filter(None, [f"{concept.name}: {concept.phrase}", note, listing(bank)]))
        return io.NodeOutput(Bank(bank.path), concept.phrase, ui=shown(cls, text=text))


class ExportConcept(io.ComfyNode):
    """A concept as files for stock nodes and other programs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ExportConcept",
            display_name="Export Concept",
            description="Writes a concept for Load LoRA and other programs: its weights as a LoRA, "
            "with an embedding for each word, or as files of Custom Diffusion.",
            search_aliases=["save LoRA", "export LoRA", "embedding", "Custom Diffusion", "CIDM"],
            is_output_node=True,
            inputs=[
                bank_input(),
                concept_input(),
                text_input(
                    "file_name",
                    "The name of the file, or of the folder of several, without an ending. By "
                    "default it is the concept's.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace files of that name.",
                ),
                io.Combo.Input(
                    "file_format",
                    list(FORMATS),
                    default=LORA,
                    optional=True,
                    tooltip="lora: the weights, for models/loras. webui: the exact weights there, "
                    "and an embedding for each word in models/embeddings. pivotal-tuning: a LoRA "
                    "and an embedding for each subject there. The others are files of Custom "
                    "Diffusion in output/concepts, for diffusers and the public code.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For files of Custom Diffusion: the model that it was learned on.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "lora_name", tooltip="The file of the weights; a LoRA as Load LoRA lists it."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None = None) -> bool | str:
        return passes(lambda: _stem(file_name or "", "concept"))

    @classmethod
    def execute(
        cls,
        bank: Bank,
        name: str = "",
        file_name: str = "",
        overwrite: bool = False,
        file_format: str = LORA,
        model: Any = None,
    ) -> io.NodeOutput:
        entry = find_entry(bank, name)
        stem = _stem(file_name, entry.name)
        weights = None if model is None else model_weights(model)
        files = contents(bank[entry.name], file_format, stem, weights)
        places = host.export_places()
        # Several files of one format have a folder of their own.
        own = places[""] / ("" if file_format in FILE_ENDINGS else stem)
        own = places["loras"] if file_format == LORA else own
        targets = {_target(places, own, path): data for path, data in files.items()}
        for target in targets:
            if target.exists() and not overwrite:
                raise BankError(
                    f"The file '{target}' is there already. Choose another file_name, or switch "
                    "overwrite on."
                )
        write_all(bank, targets)
        for folder in ("loras", "embeddings"):
            host.refresh_files(folder)
        text = "\n".join(_told(target, places) for target in targets)
        text = f"'{entry.name}' is in\n{text}"
        return io.NodeOutput(next(iter(targets)).name, ui=shown(cls, text=text))


def _chosen(file: str) -> Path:
    if file.strip() in ("", _NONE):
        raise BankError(
            "No file was chosen. Put a concept file into the input directory and choose it in file."
        )
    return host.find_file(file, _FOLDERS)


def _target(places: Mapping[str, Path], own: Path, path: str) -> Path:
    """Where a file goes: into the model folder that its path names, or into a folder of its own."""
    folder, _, name = path.rpartition("/")
    return (places[folder] if folder else own) / name


def _told(path: Path, places: Mapping[str, Path]) -> str:
    """A path as users know it: "models/loras/cat.safetensors"."""
    names = {"loras": "models/loras", "embeddings": "models/embeddings", "": "output/concepts"}
    folder = next(key for key, place in places.items() if path.is_relative_to(place))
    return f"{names[folder]}/{path.relative_to(places[folder]).as_posix()}"


def _stem(file_name: str, default: str) -> str:
    """A file name that stays in its folder on every system."""
    name = file_name.strip().removesuffix(SUFFIX)
    if name and file_stem(name) != name:
        raise BankError(
            f"A file cannot be called {name!r}. Use letters, digits, spaces, - and _, without "
            "a folder."
        )
    return file_stem(name or default)
