"""Pictures of the tab Concepts for README and docs, from a real ComfyUI in a browser.

    cidm demo --out demo
    python tests/tools/make_gallery_pictures.py demo

The demo's bank, of which one concept is then taught again; needs what the browser tests need.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "host")]

import server as host  # noqa: E402
from browser import shots  # noqa: E402
from browser.page import Page  # noqa: E402

IMAGES = host.ROOT / "docs" / "images"
BANK = "my_bank"
SIZE = (1280, 800)
TAB = ".cidm-concepts-tab-button"
SHOW = "async (api) => { await app.loadApiJson(api, 'Concepts'); }"
AIM = """() => {
  const node = app.graph.nodes.find((each) => each.type === "CLIPTextEncode");
  document.querySelector(`[data-node-id="${node.id}"] textarea`).dataset.aim = "";
}"""
# Beside the tab, which covers the left of the canvas and with it the loaders.
PLACE = """(places) => {
  const { ds } = app.canvas;
  for (const [id, place] of Object.entries(places)) app.graph.getNodeById(id).pos = place;
  ds.scale = 0.58;
  ds.offset = [410 / ds.scale, 150 / ds.scale];
  app.canvas.setDirty(true, true);
}"""
PLACES = {
    **{"1": [-600, 0], "2": [-600, 520], "3": [0, 0], "4": [0, 330]},
    **{"5": [440, 0], "6": [440, 270], "7": [440, 540]},
    **{"8": [880, 0], "9": [880, 620], "10": [880, 760], "11": [1170, 0]},
}


def node(class_type: str, **inputs: object) -> dict[str, object]:
    return {"class_type": class_type, "inputs": inputs}


def drawing(text: str) -> dict[str, dict[str, object]]:
    """Four pictures with the bank."""
    return {
        "1": node("CIDM_LoadMiniModel", model="mini-sd"),
        "2": node("CIDM_LoadConceptBank", bank=BANK, new_name=""),
        "3": node("CIDM_ConceptStrengths", bank=["2", 0], strengths="harbour = 0.8"),
        "4": node("CIDM_ApplyConceptBank", model=["1", 0], clip=["1", 1], bank=["3", 0]),
        "5": node("CLIPTextEncode", clip=["4", 1], text=text),
        "6": node("CLIPTextEncode", clip=["4", 1], text=""),
        "7": node("EmptyLatentImage", width=32, height=32, batch_size=1),
        "8": node(
            "KSampler",
            **{"model": ["4", 0], "positive": ["5", 0], "negative": ["6", 0]},
            **{"latent_image": ["7", 0], "seed": 3, "steps": 30, "cfg": 4.0},
            **{"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        ),
        "9": node("VAEDecode", samples=["8", 0], vae=["1", 2]),
        "10": node("ImageScaleBy", image=["9", 0], upscale_method="nearest-exact", scale_by=8.0),
        "11": node("SaveImage", images=["10", 0], filename_prefix="gallery"),
    }


def again(steps: int) -> dict[str, dict[str, object]]:
    """The purple cat taught again, in the place of the one that is there."""
    return {
        "1": node("CIDM_LoadMiniModel", model="mini-sd"),
        "2": node("CIDM_LoadConceptBank", bank=BANK, new_name=""),
        "3": node("CIDM_MiniPhotos", look="purple cat"),
        "4": node(
            "CIDM_TrainConcept",
            **{"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "bank": ["2", 0]},
            **{"images": ["3", 0], "captions": ["3", 1], "words": "<pip1> <pip2>"},
            **{"class_words": "cat", "kind": "object", "preset": "Balanced", "photo_folder": ""},
            **{"name": "purple-cat", "steps": steps, "seed": 2, "again": "replace"},
        ),
    }


def cards(page: Page) -> None:
    """The tab beside a graph; a concept's words go into the prompt by a click."""
    page.evaluate(
        "async (api) => { await app.loadApiJson(api, 'Concepts'); }", drawing("a photo of a")
    )
    page.evaluate("() => app.graph.arrange()")
    page.click_on(TAB)
    page.evaluate(PLACE, PLACES)
    time.sleep(2)
    page.evaluate(AIM)
    page.click_on("[data-aim]")
    page.press("Control+End")
    page.click_on('[data-name="teal-cat"] .cidm-words button')
    page.type(", ")
    page.click_on('[data-name="harbour"] .cidm-words button')
    shots.run(page, 120)
    page.picture(IMAGES / "gallery-cards.png", x=0, y=40, width=SIZE[0], height=SIZE[1] - 40)


def concept(page: Page) -> None:
    """One concept's page with a version, light."""
    page.click_on('[data-name="purple-cat"] .cidm-open')
    page.click_on(".cidm-rows button")
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    time.sleep(2)
    page.resize(SIZE[0], 1590)
    page.evaluate("() => { document.querySelector('.cidm-body').scrollTop = 0; }")
    time.sleep(1)
    page.picture(IMAGES / "gallery-concept.png", x=0, y=40, width=376, height=1430)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shutil.copytree(Path(sys.argv[1]) / "bank", base / "models" / "concept_banks" / BANK)
        with host.running(base) as running:
            result = running.run(again(150), timeout=600)
            assert result.status == "success", result.error
            page = Page(*SIZE)
            page.open(running, **{"Comfy.VueNodes.Enabled": True, "Comfy.Minimap.Visible": False})
            try:
                cards(page)
                concept(page)
            finally:
                page.stop()


if __name__ == "__main__":
    main()
