"""What differs between ComfyUI versions, or lies outside its node API: one short function each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import folder_paths
from comfy.conds import CONDRegular as CONDRegular
from comfy.patcher_extension import WrappersMP as WrappersMP
from comfy.samplers import CFGGuider as CFGGuider
from comfy.samplers import calc_cond_batch as calc_cond_batch
from comfy.samplers import cfg_function as cfg_function

from ..cidm_core.errors import HostError

BANKS = "concept_banks"


# Folders.


def bank_roots() -> list[Path]:
    """Folders whose sub-folders are banks; new banks go into the first."""
    if BANKS not in folder_paths.folder_names_and_paths:  # a test, or on_load has not run yet
        return [Path(folder_paths.models_dir) / BANKS]
    return [Path(root) for root in folder_paths.get_folder_paths(BANKS)]


def lora_folder() -> Path:
    """Where LoRA files are written: the first of the host's LoRA folders."""
    return Path(folder_paths.get_folder_paths("loras")[0])


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


# Messages.


def say_on_node(text: str, node_id: object) -> None:
    """Show text on a node; without a browser or a node nothing happens."""
    if node_id is None:
        return
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, str(node_id))
