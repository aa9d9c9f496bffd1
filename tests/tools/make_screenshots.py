"""Pictures of the pack at work for README and docs, from a real ComfyUI in a browser.

    cidm demo --out demo
    python tests/tools/make_screenshots.py demo

Draws with mini-sd and the demo's bank; needs what the browser tests need.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "host")]

import server as host  # noqa: E402
from browser import canvas, shots  # noqa: E402
from browser.page import Page  # noqa: E402
from browser.small import mini_instead  # noqa: E402

IMAGES = host.ROOT / "docs" / "images"
# The demo's words instead of the workflow's, also in its boxes.
WORDS = {
    "<dog1> <dog2>, sitting": "<pip1> <pip2> on the left",
    "<cat1> <cat2>, sitting": "<tia1> <tia2> on the right",
}
SET = """(values) => {
  for (const [type, id, name, value] of values) {
    const nodes = app.graph.nodes.filter((n) => n.type === type && (!id || String(n.id) === id));
    for (const node of nodes) node.widgets.find((each) => each.name === name).value = value;
  }
}"""
# A 32-pixel picture is shown as sharp squares, not as the browser blurs it.
ENLARGE = """() => {
  const latent = app.graph.nodes.find((n) => n.type === "EmptyLatentImage");
  for (const name of ["width", "height"]) {
    latent.disconnectInput(latent.findInputSlot(name));
    latent.widgets.find((each) => each.name === name).value = 32;
  }
  const save = app.graph.nodes.find((n) => n.type === "SaveImage");
  const decode = app.graph.nodes.find((n) => n.type === "VAEDecode");
  const larger = LiteGraph.createNode("ImageScaleBy");
  app.graph.add(larger);
  larger.flags.collapsed = true;
  larger.pos = [save.pos[0], save.pos[1] + save.size[1] + 40];
  larger.widgets.find((each) => each.name === "upscale_method").value = "nearest-exact";
  larger.widgets.find((each) => each.name === "scale_by").value = 8;
  decode.connect(0, larger, 0);
  larger.connect(0, save, 0);
}"""


def workflow(word: str) -> tuple[str, dict[str, Any]]:
    (path,) = host.ROOT.glob(f"workflows/*{word}*.json")
    text = path.read_text()
    for shipped, ours in WORDS.items():
        text = text.replace(shipped, ours)
    return path.stem, json.loads(text)


def show(page: Page, word: str, values: list[tuple[str, str, str, Any]]) -> None:
    name, data = workflow(word)
    missing = canvas.open_workflow(page, mini_instead(data), name)
    assert not missing, missing
    page.evaluate(SET, values)


def shoot(page: Page, name: str, seconds: float) -> None:
    shots.run(page, seconds)
    shots.shoot(page, IMAGES / f"{name}.png", (1520, 830))


def main() -> None:
    demo = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        running = host.Server(base)
        shutil.copytree(demo / "bank", base / "models" / "concept_banks" / "my_bank")
        running.wait()
        page = Page(1620, 1010)
        page.open(running, **{"Comfy.VueNodes.Enabled": True, "Comfy.Minimap.Visible": False})
        try:
            regions(page)
            weights(page)
            learning(page)
        finally:
            page.stop()
            running.stop()


def regions(page: Page) -> None:
    values = [
        ("BasicScheduler", "", "steps", 30),
        ("CIDM_RegionalNoiseGuider", "", "cfg", 4.0),
        ("CLIPTextEncode", "4", "text", "a <pip1> <pip2> and a <tia1> <tia2>, green background"),
        ("CLIPTextEncode", "5", "text", ""),
    ]
    show(page, "4 Several", values)
    page.evaluate(ENLARGE)
    shoot(page, "comfyui-regions", 120)


def weights(page: Page) -> None:
    show(page, "new scenes", [("KSampler", "", "cfg", 4.0)])
    prompts = "() => app.graph.nodes.filter((n) => n.type === 'CLIPTextEncode').map((n) => n.id)"
    first, *_ = page.evaluate(prompts)
    text = "a <harbour1> <harbour2> of a <tia1> <tia2>"
    page.evaluate(SET, [("CLIPTextEncode", str(first), "text", text)])
    page.evaluate(ENLARGE)
    shoot(page, "comfyui-scenes", 120)


def learning(page: Page) -> None:
    show(page, "Try it", [("CIDM_LoadConceptBank", "", "new_name", "try_it")])
    shoot(page, "comfyui-learning", 400)


if __name__ == "__main__":
    main()
