"""The whole demo, as `cidm demo` runs it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bank import Bank
from ..diffusers_host.load import load_base
from ..diffusers_host.pipeline import make_plan
from ..errors import CidmError
from ..mini.looks import DEMO_LOOKS
from ..pictures.files import save_picture
from ..regions import Region
from ..storage.atomic import make_folder, write_atomic
from ..training.progress import Progress
from .page import page
from .studio import WORDS, DemoConcept, Studio

FACTS = "demo.json"
BOXES = {"on the left": (0.02, 0.1, 0.48, 0.9), "on the right": (0.52, 0.1, 0.98, 0.9)}


@dataclass(frozen=True)
class DemoResult:
    """Where things are, and what was measured."""

    folder: Path
    sheet: Path
    bank: Path
    seconds: float
    concepts: tuple[DemoConcept, ...]
    prompt: str

    def summary(self) -> str:
        """For people."""
        changed = any(concept.change for concept in self.concepts)
        same = "compare them" if changed else "equal in every pixel"
        return "\n".join(
            [
                f"Contact sheet  {self.sheet}",
                f"Bank           {self.bank}",
                f"Before and after learning the others, same seeds: {same}.",
                f"Done in {self.seconds:.0f} s. Try next:",
                f"  cidm bank list --bank {self.bank}",
                f'  cidm generate --bank {self.bank} --prompt "{self.prompt}" --out picture.png',
                f"  cidm evaluate --bank {self.bank} --alone --weights released",
            ]
        )

    def to_dict(self) -> dict[str, object]:
        return {
            "contact_sheet": str(self.sheet),
            "bank": str(self.bank),
            "seconds": round(self.seconds, 1),
            "concepts": [
                {"name": c.name, "words": c.words, "seconds": c.seconds, "largest_change": c.change}
                for c in self.concepts
            ],
        }


def run_demo(
    folder: Path,
    *,
    seed: int = 0,
    quick: bool = False,
    model: str = "mini-sd",
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] = lambda _text: None,
) -> DemoResult:
    """Learn three concepts one after another and draw the contact sheet.

    An interrupted demo goes on where it stopped when it is asked for the same again.

    Args:
        folder: For all results; made if it is not there.
        seed: Of photos, training and pictures.
        quick: Only a few steps: shows that it runs, not how well.
        model: A model of mini-sd's family.
        on_progress: Hears every training step.
        on_note: Hears what is being done.

    Raises:
        CidmError: If the folder holds other concepts already or cannot be written.
    """
    started = time.monotonic()
    base = load_base(model)
    asked: dict[str, object] = {"seed": seed, "quick": quick, "model": base.name}
    bank = _open_bank(folder, asked)
    studio = Studio(base, bank, folder, seed, quick)
    learned: list[DemoConcept] = []
    for number, look in enumerate(DEMO_LOOKS, start=1):
        on_note(f"Concept {number} of {len(DEMO_LOOKS)}: {look.name}, {WORDS[look.name]}")
        learned.append(studio.learn(look, on_progress))
    on_note("Drawing all of them again, from the same seeds")
    for each in learned:
        each.after_last.extend(studio.draw(each.words, each.kind))
    # The words say the place too: mini-sd never drew a thing for a bare prompt at the border.
    regions = [
        Region(f"a {each.words} {place}", box=box)
        for each, (place, box) in zip(learned, BOXES.items(), strict=False)
    ]
    prompt = " and ".join(region.prompt for region in regions) + ", green background"
    on_note("Two concepts in one picture, each in its region")
    pairs = studio.compose(prompt, regions)
    plan = make_plan(base, bank, prompt, regions, studio.sampling())
    sheet = folder / "contact_sheet.png"
    save_picture(page(studio, learned, regions, pairs, plan), sheet)
    result = DemoResult(
        folder, sheet, bank.path, time.monotonic() - started, tuple(learned), prompt
    )
    _write_facts(folder, asked | result.to_dict())
    return result


def _open_bank(folder: Path, asked: Mapping[str, object]) -> Bank:
    """The demo's bank: a new one, or that of an earlier demo which asked for the same."""
    bank = Bank(make_folder(folder) / "bank")
    if len(bank):
        try:
            found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        if not isinstance(found, dict) or {**found, **asked} != found:
            raise CidmError(
                f"'{bank.path}' holds {', '.join(bank)} already, and not from this same demo. "
                "Give the demo a new folder, or remove that one."
            )
    _write_facts(folder, asked)
    return bank


def _write_facts(folder: Path, facts: Mapping[str, object]) -> None:
    write_atomic(folder / FACTS, json.dumps(facts, indent=2).encode())
