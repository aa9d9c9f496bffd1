"""Pictures of every node at work for its help page, from a real ComfyUI in a browser.

    cidm demo --out demo
    python tests/tools/make_help_pictures.py demo [node]

Draws with mini-sd and the demo's bank; needs what the browser tests need.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "host")]

import server as host  # noqa: E402
from browser import canvas, shots  # noqa: E402
from browser.page import Page  # noqa: E402
from help_scenes import JUDGE, SCENES, TALL, WIDE, WIRES_ONLY  # noqa: E402

IMAGES = host.ROOT / "web" / "docs" / "images"


def spec(name: str) -> tuple[dict[str, Any], list[str]]:
    """What `canvas.build` takes, and the ids of the nodes that are shown."""
    api: dict[str, Any] = {}
    columns, shown, number = [], [], {}
    for column in SCENES[name]:
        nodes = column[0] if isinstance(column, tuple) else column
        for key in nodes:
            number[key] = str(len(number) + 1)
        columns.append([number[key] for key in nodes])
        shown += [] if isinstance(column, tuple) else columns[-1]
        for key, (kind, inputs) in nodes.items():
            look = {"width": WIDE.get(kind, 260), "height": TALL.get(kind, 0)}
            api[number[key]] = {"class_type": kind, "inputs": inputs, "_look": look}
    for node in api.values():
        node["inputs"] = {k: _link(v, number) for k, v in node["inputs"].items()}
    stacks = [[{"title": "", "columns": columns}]]
    made = {"api": api, "stacks": stacks, "notes": {}, "subgraphs": {}, "extra": {}}
    return made | {"name": name}, shown


def _link(value: Any, number: dict[str, str]) -> Any:
    key, _, slot = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    return [number[key], int(slot)] if key in number and slot.isdigit() else value


def show(page: Page, name: str) -> None:
    made, shown = spec(name)
    canvas.build(page, made)
    if name not in WIRES_ONLY:
        shots.run(page, 300)
    shots.shoot(page, IMAGES / f"{name}.png", (1500, 900), shown)


def main(demo: str, wanted: str = "") -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("demo", "spare"):
            shutil.copytree(Path(demo) / "bank", base / "models" / "concept_banks" / name)
        inputs = base / "input"
        shutil.copytree(Path(demo) / "photos", inputs / "photos")
        shutil.copytree(Path(demo) / "photos" / "purple-cat", inputs / "purple-cat")
        for photo_of in ("purple", "teal"):
            shutil.copy(Path(demo) / "photos" / f"{photo_of}-cat" / "01.png", inputs)
            (inputs / "01.png").rename(inputs / f"{photo_of}.png")
        (inputs / "common things").mkdir()
        for kind in ("clip_vision", "text_encoders"):  # names to choose; nothing is read
            (base / "models" / kind).mkdir(parents=True, exist_ok=True)
            (base / "models" / kind / JUDGE).touch()
        (base / "custom_nodes").mkdir()
        vision = HERE.parent / "host" / "browser" / "tiny_vision.py"
        host.link(base / "custom_nodes" / vision.name, vision)
        with host.running(base) as running:
            page = Page(1700, 1100)
            off = {"Comfy.VueNodes.Enabled": False, "Comfy.Minimap.Visible": False}
            page.open(running, **off)
            for name in SCENES:
                if wanted.lower() in name.lower():
                    print(name, flush=True)  # noqa: T201
                    show(page, name)
            page.stop()


if __name__ == "__main__":
    main(*sys.argv[1:3])
