"""The half of gpu.py that is timed: one process that learns or draws; prints one line of JSON."""

import itertools
import json
import resource
import statistics
import sys
import time
from pathlib import Path

started = time.perf_counter()

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from cidm_core.bank import Bank  # noqa: E402
from cidm_core.config import SampleConfig  # noqa: E402
from cidm_core.diffusers_host.load import load_base  # noqa: E402
from cidm_core.diffusers_host.pipeline import generate  # noqa: E402
from cidm_core.diffusers_host.train import train_concept  # noqa: E402
from cidm_core.methods import config_for  # noqa: E402
from cidm_core.regions import Region  # noqa: E402
from cidm_core.training.data import Photo  # noqa: E402
from cidm_core.training.loop import Stopped  # noqa: E402

WORDS, PHOTOS = "<dog1> <dog2>", 4
_WARM = 5  # steps that are not counted


def peak_gb(device):
    """The most memory that tensors took at once, and what the allocator held for them."""
    if device.type != "cuda":
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"peak_gb": rss / 1e9}
    allocated, held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak_gb": allocated / 1e9, "peak_reserved_gb": held / 1e9}


def step_ms(times):
    """Median milliseconds between two moments, the first few left out."""
    gaps = [b - a for a, b in itertools.pairwise(times)]
    gaps = gaps[_WARM:] or gaps
    return statistics.median(gaps) * 1e3 if gaps else None


def learn(told, base):
    """One concept of noise pictures; where time is short it stops early and says at which step."""
    picture = Image.effect_noise((told["px"], told["px"]), 60).convert("RGB")
    photos = [Photo.from_image(picture.rotate(90 * i), "a dog") for i in range(PHOTOS)]
    config = config_for(
        "cidm",
        base.family,
        steps=told["steps"],
        variants=min(16, told["steps"] // 10 + 1),  # not to look at photos for longer than to learn
        batch_size=1,
        resolution_px=told["px"],
        precision=told["dtype"],
        gradient_checkpointing=told["checkpointing"],
    )
    times = []

    def note(event):
        if event.phase != "preparing":  # the loop has read the losses: the device is done
            times.append(time.perf_counter())

    def late():
        return time.perf_counter() - started > told["seconds"]

    given = {"words": WORDS, "class_words": "dog", "config": config}
    bank = Bank(told["bank"])
    try:
        train_concept(base, bank, photos, on_progress=note, should_stop=late, **given)
        file = next(Path(told["bank"]).glob("*.safetensors")).stat().st_size
    except Stopped:
        file = 0
    return {
        "steps": len(times),
        "asked_steps": told["steps"],
        "step_ms": step_ms(times),
        "first_step_at_seconds": times[0] - started if times else None,
        "saved_at_seconds": time.perf_counter() - started if file else None,
        "concept_mb": file / 1e6,
    }


def draw(told, base):
    """A picture with the concept, and one with two regions, each a second time when warm."""
    bank = Bank(told["bank"]) if Path(told["bank"]).is_dir() else {}
    word = WORDS if len(bank) else "dog"
    regions = [Region(f"a {word}", box=(0, 0, 0.5, 1)), Region("a cat", box=(0.5, 0, 1, 1))]
    settings = {"steps": told["steps"], "width_px": told["px"], "height_px": told["px"]}
    found = {"steps": told["steps"], "asked_steps": told["steps"], "with_concept": bool(len(bank))}
    for name, asked in (("one prompt", []), ("two regions", regions)):
        for turn in ("cold", "warm"):
            moments = []
            begun = time.perf_counter()
            generate(
                base,
                bank,
                f"a photo of a {word}",
                asked,
                SampleConfig(**settings),
                on_step=lambda *_, moments=moments: moments.append(now(base.device)),
            )
            found[f"{name}, {turn}"] = {
                "picture_seconds": now(base.device) - begun,
                "step_ms": step_ms(moments),
            }
    return found


def now(device):
    """The time when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main():
    told = json.loads(sys.argv[1])
    base = load_base(told["model"], device=told["device"], dtype=told["dtype"])
    loaded = time.perf_counter() - started
    found = draw(told, base) if told["draws"] else learn(told, base)
    print(json.dumps({"loaded_at_seconds": loaded, **found, **peak_gb(base.device)}))


if __name__ == "__main__":
    main()
