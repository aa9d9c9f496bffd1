"""What differs between ComfyUI versions, or lies outside its node API: one short function each."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import html
import logging
import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import comfy.model_management as _management
import folder_paths
import torch
from comfy_api.latest import ComfyAPISync, io
from comfy_execution.utils import get_executing_context

from ...cidm_core.errors import HostError
from ...cidm_core.storage.concept_file import OWN_PREFIX

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

BANKS = "concept_banks"


def bank_roots() -> list[Path]:
    """Folders whose sub-folders are banks; new banks go into the first."""
    if BANKS not in folder_paths.folder_names_and_paths:  # a test, or on_load has not run yet
        return [Path(folder_paths.models_dir) / BANKS]
    return [Path(root) for root in folder_paths.get_folder_paths(BANKS)]


def lora_folder() -> Path:
    """Where LoRA files are written: the first of the host's LoRA folders."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def export_places() -> dict[str, Path]:
    """Where files for other programs are written: LoRAs, embeddings, and all else."""
    embeddings = Path(folder_paths.get_folder_paths("embeddings")[0])
    output = Path(folder_paths.get_output_directory()) / "concepts"
    return {"loras": lora_folder(), "embeddings": embeddings, "": output}


def refresh_files(kind: str) -> None:
    """Let the next listing of a model folder see a file written a moment ago."""
    folder_paths.filename_list_cache.pop(kind, None)


def find_file(name: str, kinds: Sequence[str]) -> Path:
    """A file under the input directory or one of the model folders, by its relative path.

    Raises:
        HostError: If there is none, or the name leads out of those folders.
    """
    clean = name.strip().removesuffix(" [input]")
    root = Path(folder_paths.get_input_directory())
    found = [inside(root, clean)]
    known = [kind for kind in kinds if kind in folder_paths.folder_names_and_paths]
    # The host looks below its folders only, whatever the name says.
    found += [Path(path) for kind in known if (path := folder_paths.get_full_path(kind, clean))]
    for path in found:
        if path is not None and path.is_file():
            return path
    raise HostError(
        f"There is no file {name!r} in the input directory '{root}'"
        f"{''.join(f' or the {kind} folder' for kind in known)}. Put it there and give its name, "
        "with the sub-folder if it lies in one."
    )


def inside(root: Path, name: str) -> Path | None:
    """`root / name`, or None if that leads out of `root` or is no path at all."""
    if not name or "\0" in name:
        return None
    top, target = os.path.realpath(root), os.path.realpath(os.path.join(root, name))
    return Path(target) if target.startswith(os.path.join(top, "")) else None


def list_files(kinds: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Relative names of files in the input directory and the model folders, for a menu."""
    found, _ = folder_paths.recursive_search(folder_paths.get_input_directory(), [".git"])
    for kind in kinds:
        if kind in folder_paths.folder_names_and_paths:
            found = [*found, *folder_paths.get_filename_list(kind)]
    return sorted({name for name in found if name.lower().endswith(tuple(endings))})


def file_stamps(folder: Path, nested: bool = False) -> list[tuple[str, int, int]]:
    """Name, time and size of the visible files of a folder, to see whether one has changed."""
    found: list[tuple[str, int, int]] = []
    for path in sorted(folder.glob("**/[!.]*" if nested else "[!.]*")):
        with contextlib.suppress(OSError):  # gone meanwhile
            facts = path.stat()
            found.append((path.name, facts.st_mtime_ns, facts.st_size))
    return found


def node_id_of(cls: Any) -> object:
    """The id of the node that runs; None outside a prompt."""
    return getattr(getattr(cls, "hidden", None), "unique_id", None)


# The prompt of the request that is answered; several can be checked at a time.
_asked: ContextVar[Mapping[str, Any]] = ContextVar("asked")


def remember_prompts() -> None:
    """Keep each prompt while it is checked, for `inputs_asked`."""
    from server import PromptServer

    def remember(request: dict[str, Any]) -> dict[str, Any]:
        _asked.set(request.get("prompt") or {})
        return request

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(remember)


def inputs_asked(cls: Any) -> dict[str, Any] | None:
    """All inputs of the node that is being checked; None for a link, whose value comes later.

    The host shows what a check complains of once for each input that the check names, so ours
    name one and look the others up here. None if the prompt did not come by the host's server.
    """
    node = _asked.get({}).get(str(node_id_of(cls)))
    if node is None:
        return None
    inputs = node.get("inputs", {}).items()
    return {name: None if isinstance(value, list) else value for name, value in inputs}


def say_less_of_rows() -> None:
    """Keep the host's LoRA loader from counting up what it rightly leaves aside in our files."""
    start = f"lora key not loaded: {OWN_PREFIX}"
    logging.getLogger().addFilter(lambda record: not record.getMessage().startswith(start))


def say_on_node(text: str, node_id: object) -> None:
    """Show text on a node; without a browser or a node nothing happens."""
    if node_id is None:
        return
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and hasattr(server, "send_progress_text"):
        # The frontend shows it as HTML, where <dog1> would be a tag and vanish, and in one of its
        # two forms line breaks too.
        shown = html.escape(text, quote=False).replace("\n", "<br>")
        server.send_progress_text(shown, str(node_id))


def warn(text: str) -> None:
    """Tell the user in the log, and on the node that runs."""
    logger.warning("%s", text)
    running = get_executing_context()
    say_on_node(text, running and running.node_id)


def shows_result() -> dict[str, bool]:
    """Schema options of a node that shows something on itself without being an output node."""
    known = {f.name for f in dataclasses.fields(io.Schema)}
    return {"has_intermediate_output": True} if "has_intermediate_output" in known else {}


def encode_text(clip: Any, text: str) -> list[Any]:
    """CONDITIONING of a prompt, as the stock text encode node makes it.

    Raises:
        HostError: If no text encoder is connected.
    """
    if clip is None:
        raise HostError(
            "There is no CLIP: this checkpoint has no text encoder. Load one with Load CLIP."
        )
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def torch_device() -> torch.device:
    """Where the host computes."""
    return _management.get_torch_device()


def memory() -> tuple[int, int]:
    """Memory of the host's device in bytes: all of it, and what is free without its models."""
    device = torch_device()
    free = int(_management.get_free_memory(device))
    if device.type != "cpu":  # where they would only move within the same memory
        held = [each for each in _management.current_loaded_models if each.device == device]
        free += sum(int(each.model_loaded_memory()) for each in held)
    return int(_management.get_total_memory(device)), free


def unload_models() -> None:
    """Take all of the host's models off the device; the host loads them again when needed."""
    _management.unload_all_models()
    _management.soft_empty_cache()


def free_memory() -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    _management.soft_empty_cache()


def is_interrupted() -> bool:
    """Whether the user pressed Cancel; the host's flag stays as it is."""
    return _management.processing_interrupted()


def is_interruption(error: BaseException) -> bool:
    """Whether an exception is the host's way of ending a prompt."""
    return isinstance(error, _management.InterruptProcessingException)


def interrupt() -> NoReturn:
    """End the prompt as the host's own nodes do when the user cancels; clears the flag."""
    _management.throw_exception_if_processing_interrupted()
    raise _management.InterruptProcessingException


def show_progress(done: int, of: int, picture: Image | None, node_id: object) -> None:
    """Move a node's progress bar, and show a picture on it; outside a prompt nothing happens."""
    if node_id is None:
        return
    ComfyAPISync().execution.set_progress(done, of, node_id=str(node_id), preview_image=picture)


def input_folders() -> list[str]:
    """Sub-folders of the input directory, relative to it, with forward slashes."""
    root = folder_paths.get_input_directory()
    found: list[str] = []
    for place, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.relpath(os.path.join(place, name), root) for name in folders]
    return sorted(name.replace(os.sep, "/") for name in found)


def input_folder(name: str) -> Path:
    """A sub-folder of the input directory.

    Raises:
        HostError: If there is none of that name, or the name leads out of the directory.
    """
    root = Path(folder_paths.get_input_directory())
    found = inside(root, name.strip())
    if found is None or not found.is_dir():
        raise HostError(
            f"There is no folder {name!r} in the input directory '{root}'. Put the photos into a "
            "sub-folder there and give its name."
        )
    return found
