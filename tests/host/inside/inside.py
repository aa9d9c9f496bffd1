"""What a script run by `in_host` may use: the pack as ComfyUI loads it, and its way to answer."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
NAME = "/base/custom_nodes/ComfyUI-CIDM"  # ComfyUI names a pack by its path


def pack(part: str = "") -> Any:
    """The pack, or a module of it ("nodes.mini.load", "cidm_core.bank")."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"{NAME}.{part}") if part else sys.modules[NAME]


def report(found: Any) -> None:
    """Print the answer; the last line of the output is what the test gets."""
    print(json.dumps(found), flush=True)  # noqa: T201
