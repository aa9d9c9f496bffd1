"""Load the pack as ComfyUI does, from a symlink of an odd name; say what it brings."""

import asyncio
import sys
import tempfile
from pathlib import Path

import inside

import nodes  # the host's; brings torch and all the host needs

HEAVY = {"diffusers", "transformers", "peft", "accelerate"}


def main(root: str) -> None:
    folder = Path(tempfile.mkdtemp()) / "x y-1"
    folder.symlink_to(root, target_is_directory=True)
    import folder_paths

    folder_paths.models_dir = tempfile.mkdtemp()
    for name in [name for name in sys.modules if name.partition(".")[0] in HEAVY]:
        del sys.modules[name]  # whoever runs this script has imported them already
    before = set(sys.modules)
    if not asyncio.run(nodes.load_custom_node(str(folder))):
        raise SystemExit("ComfyUI refused the pack.")
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    ids = [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("CIDM_")]
    inside.report({"ids": ids, "heavy": sorted(HEAVY & new)})


main(sys.argv[1])
