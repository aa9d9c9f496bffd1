"""What the sidebar tab *Concepts* costs: a bank of 1,000 on the page, and ComfyUI's start.

    python -m lab.speed.gallery [--rounds N] [--out FILE] [--quick]

Needs a ComfyUI checkout as lab.speed.comfyui does, and for what the page takes a browser as the
tests do. Concepts have the keys and shapes of SD 1.5 at rank 1 and previews of 512 pixels. The
server is asked over HTTP; ComfyUI's own list of the same files as LoRAs stands beside it. The pack
is loaded in a fresh process each time, as it is and without the tab, in turns.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.families import FAMILIES
from tests.host import server as host
from tests.host.browser.page import Page, absent

from .bank_scale import fill_bank
from .comfyui import COMFY, PYTHON, measured
from .measure import as_table, parse, summary, target, verdict, write
from .models import make_base

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).resolve().with_name("gallery_inside.py")
_TIMING = (
    "wall seconds of requests and in the page, minimum of all rounds; of the start CPU seconds "
    "(time.process_time) of loading the pack, variants interleaved, minimum of all rounds"
)
_OPEN = """async () => {
  const cards = () => document.querySelectorAll(".cidm-card").length;
  const started = performance.now(), spent = {};
  const until = async (name, done) => {
    while (!done()) await new Promise((go) => setTimeout(go, 0));
    spent[name] = (performance.now() - started) / 1000;
  };
  document.querySelector(".cidm-concepts-tab-button").click();
  await until("first cards", cards);
  await until("pictures in view", () => {
    const seen = [...document.querySelectorAll(".cidm-card")].slice(0, 30).filter(
      (each) => each.getBoundingClientRect().top < innerHeight);
    return seen.length && seen.every((each) => each.querySelector("img").complete);
  });
  await until("all cards", () => cards() >= COUNT);
  return spent;
}"""
_SCROLL = """async () => {
  const body = document.querySelector(".cidm-body"), spent = [];
  for (let y = 0; y < body.scrollHeight; y += 600) {
    const started = performance.now();
    body.scrollTop = y;
    body.getBoundingClientRect();
    document.elementsFromPoint(200, 500);  // lays out what is in view now
    spent.push((performance.now() - started) / 1000);
    await new Promise((go) => setTimeout(go, 20));
  }
  return spent;
}"""
_CLOSE = """() => {
  document.querySelector(".cidm-body").scrollTop = 0;
  setTimeout(() => document.querySelector(".cidm-concepts-tab-button").click(), 300);
}"""


def make_bank(folder: Path, count: int) -> Bank:
    """Concepts with a preview each."""
    model = replace(make_base("narrow"), layers=FAMILIES["SD15"].layers)
    bank, _ = fill_bank(model, folder, count, 1)
    rng = np.random.default_rng(0)
    pictures: list[bytes] = []
    for _ in range(8):
        small = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        data = io.BytesIO()
        small.resize((512, 512), Image.Resampling.BICUBIC).save(data, "PNG")
        pictures.append(data.getvalue())
    for i, entry in enumerate(bank.entries()):
        entry.preview.write_bytes(pictures[i % 8])
    return bank


def timed(server: host.Server, path: str) -> tuple[float, bytes]:
    started = time.perf_counter()
    with urllib.request.urlopen(server.url + path, timeout=120) as answer:
        body = answer.read()
    return time.perf_counter() - started, body


def asked(server: host.Server, count: int, rounds: int) -> tuple[dict, dict]:
    """Seconds of requests in turns, and of what happens once."""
    address = "/cidm/concepts?bank=large"
    first, body = timed(server, address)
    concepts = json.loads(body)["concepts"]
    assert len(concepts) == count
    ways = {
        "ComfyUI's list of LoRAs": "/models/loras",
        "the bank, nothing has changed": address,
    }
    raw = {name: [timed(server, path)[0] for _ in range(rounds)] for name, path in ways.items()}

    def thumbnails() -> float:
        fields = [{"bank": "large", "name": each["name"]} for each in concepts]
        paths = [f"/cidm/picture?{urllib.parse.urlencode(each)}" for each in fields]
        return sum(timed(server, path)[0] for path in paths)

    once = {
        "the bank, first time": first,
        "kilobytes of it": len(body) / 1e3,
        "all thumbnails, made": thumbnails(),
        "all thumbnails, once made": thumbnails(),
    }
    return raw, once


def on_the_page(server: host.Server, count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds from the click on the tab's button, the first time too; and of steps of scrolling."""
    page = Page(1400, 900, still=False)
    spent: dict[str, list[float]] = {}
    try:
        page.open(server)
        for _ in range(rounds):
            told = page.evaluate(_OPEN.replace("COUNT", str(count)))
            for name, seconds in told.items():
                spent.setdefault(name, []).append(seconds)
            spent.setdefault("slowest step of scrolling", []).append(max(page.evaluate(_SCROLL)))
            page.evaluate(_CLOSE)
            page.wait("() => !document.querySelector('.cidm-tab')")
    finally:
        page.stop()
    return spent


@contextmanager
def packs():
    """The pack as it is, and the same without the tab: folders by name."""
    with tempfile.TemporaryDirectory() as folder:
        without = Path(folder) / "without"
        without.mkdir()
        for path in ROOT.iterdir():
            if path.name[0] != "." and path.name not in ("nodes", "web"):
                (without / path.name).symlink_to(path)
        shutil.copytree(ROOT / "nodes", without / "nodes")
        shutil.copytree(ROOT / "web", without / "web", ignore=shutil.ignore_patterns("concepts*"))
        shutil.rmtree(without / "nodes" / "gallery")
        (without / "nodes" / "gallery").mkdir()
        stub = "def add_routes() -> None:\n    pass\n"
        (without / "nodes" / "gallery" / "routes.py").write_text(stub)
        yield {"without the tab": without, "with it": ROOT}


def loading(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of loading the pack, in fresh processes that take turns."""
    with packs() as folders:
        seconds: dict[str, list[float]] = {name: [] for name in folders}
        for turn in range(rounds):
            for name in list(folders)[:: 1 if turn % 2 else -1]:
                found = measured({"pack": str(folders[name])}, INSIDE)
                assert bool(found["routes"]) == (name == "with it")
                seconds[name].append(found["seconds"])
    return seconds


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gallery", description=__doc__.splitlines()[0])
    options, command = parse(parser, argv)
    if not (COMFY / "main.py").is_file() or not PYTHON.is_file():
        raise SystemExit(f"No ComfyUI at {COMFY} with {PYTHON}. Set COMFYUI_PATH, COMFYUI_PYTHON.")
    count = 20 if options.quick else 1000
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_bank(base / "models" / "concept_banks" / "large", count)
        with host.running(base) as server:
            requests, once = asked(server, count, options.rounds)
        with host.running(base) as server:  # which has not opened the bank
            shown = {} if absent() else on_the_page(server, count, options.rounds)
    starts = loading(options.rounds)
    report(options, command, {"requests": requests, "page": shown, "start": starts}, once)


def report(options: argparse.Namespace, command: str, raw: dict, once: dict) -> None:
    requests = summary(raw["requests"], "ComfyUI's list of LoRAs")
    start = summary(raw["start"], "without the tab")
    print(as_table("request", requests, "LoRAs"), end="\n\n")
    print(as_table("loading the pack (CPU)", start, "without"), end="\n\n")
    page = {
        name: {"first": seconds[0], "least": min(seconds), "median": statistics.median(seconds)}
        for name, seconds in raw["page"].items()
    }
    print(json.dumps({"once, seconds": once, "page, seconds": page}, indent=1))
    added = min(raw["start"]["with it"]) - min(raw["start"]["without the tab"])
    targets = [
        target("listing the bank the first time, seconds", once["the bank, first time"], 0.5),
        target("added to ComfyUI's start, CPU seconds", added, 0.1),
    ]
    bars = {"pictures in view": 0.5, "slowest step of scrolling": 1 / 30}
    first = "the first time after a start, seconds"
    targets += [target(f"{n}, {first}", page[n]["first"], bar) for n, bar in bars.items() if page]
    print(verdict(targets))
    body = {"timing": _TIMING, "rounds": options.rounds, "targets": targets}
    body |= {"results": {"requests": requests, "start": start, "page": page, "once": once}}
    write(options.out, "gallery", command, {**body, "raw_seconds": raw})


if __name__ == "__main__":
    main()
