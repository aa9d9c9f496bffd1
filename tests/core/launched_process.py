"""What each process of a launched run does; see test_distributed.py."""

import json
import os
from dataclasses import replace

from contrasted import contrast_for
from learning_samples import learn, photos, state_digest

from cidm_core.bank import Bank
from cidm_core.diffusers_host.load import load_base
from cidm_core.errors import CidmError
from lab.cifc import command, sizes

GIVEN = {"steps": 5, "batch_size": 4, "seed": 2}
SYSTEMS = ("sequential", "c_lora")
TASKS = (0, 2)
COMMAND = ("--quick", "--train-steps", "1", "--steps", "1", "--images", "1")
SHARED = (*COMMAND, "--systems", *SYSTEMS, "--only", "main", "--device", "cpu", "--quiet")


def run(base, bank, stop_at=10**6, **options):
    """Learn, and tell what this process saw of it."""
    steps: list[int] = []
    found = {"steps": steps}
    try:
        concept = learn(
            Bank(bank),
            base=base,
            **{"given": GIVEN, **options},
            on_progress=lambda e: steps.append(e.step) if e.phase == "learning" else None,
            should_stop=lambda: len(steps) >= stop_at,
        )
        found["digest"] = state_digest(concept)
    except CidmError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def told_apart(base):
    """Photos with masks, settings and what words are contrasted by."""
    given = {**GIVEN, "steps": 1, "contrast": True, "contrast_steps": 2, "lr_contrast": 1e-2}
    return {"photos": photos(masks=True), "given": given, "contrast": contrast_for(base)}


def work(model, folder):
    """Learn whole and in parts, share a benchmark; what was seen goes to `rank-<n>.json`."""
    base = load_base(model, device="cpu", dtype="fp32")
    found = {"whole": run(base, folder / "whole"), "stopped": run(base, folder / "bank", 2)}
    found["left"] = [path.name for path in (folder / "bank").glob("*.safetensors")]
    found["resumed"] = run(base, folder / "bank")
    found["contrast"] = run(base, folder / "contrast", **told_apart(base))
    sizes.QUICK_RUN = replace(sizes.QUICK_RUN, tasks=TASKS)
    found["benchmark"] = command.main([*SHARED, "--out", str(folder / "cifc")])
    rank = int(os.environ["RANK"])
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
