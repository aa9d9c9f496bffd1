"""Measure Over-fitting on mini-sd with real CLIP_VISION objects of the host, small and random."""

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as memory
import concepts
import folder_paths
import inside
import torch
from inside import ROOT, pack

sys.path.append(str(ROOT / "tests"))
sys.path.append(str(ROOT / "tests" / "host"))
import update_kinds
from browser.tiny_vision import TinyVision

torch.set_num_threads(1)
keep = torch.inference_mode()  # as the host runs nodes
keep.__enter__()
folder = Path(tempfile.mkdtemp())
folder_paths.set_temp_directory(str(folder / "temp"))
folder_paths.set_input_directory(str(folder / "input"))
measuring, host = pack("nodes.evaluation.over_fitting"), pack("nodes.host.comfy")
core = pack("cidm_core.evaluation.over_fitting")
pack("cidm_core.evaluation.divergence").TIMESTEPS = 2  # instead of 10
model, clip, vae = pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
eye = TinyVision.execute().args[0]
facts = pack("nodes.host.model").model_facts(model)
bank = concepts.bank(facts, count=1)
look = update_kinds.concepts(facts, pack, ("infused",))["infused"]
bank.add(replace(look, method="infusion"))
photo = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(4))
picture = pack("nodes.host.pictures").to_pictures(photo)[0]
for name in ("c1", "infused"):
    (folder / "input" / "photos" / name).mkdir(parents=True)
    picture.save(folder / "input" / "photos" / name / "1.png")
(folder / "input" / "others").mkdir()
told = []
host.show_progress = lambda done, of, shown, node_id: told.append((done, of))


class Node(measuring.MeasureOverFitting):
    hidden = SimpleNamespace(unique_id=None, prompt=None)


def measure(**inputs):
    given = {"model": model, "clip": clip, "vae": vae, "bank": bank, "clip_vision": eye}
    given |= {"photo_folder": "photos", "pictures": 8, "seed": 5, "steps": 2, **inputs}
    return Node.execute(**{name: [value] for name, value in given.items()})


def error_of(**inputs):
    try:
        measure(**inputs)
    except ValueError as error:
        return str(error)
    return "accepted"


def here(name):
    """The same by the other host, with the same encoder."""
    base = pack("cidm_core.diffusers_host.load").load_base("mini-sd", device="cpu", dtype="fp32")
    given = {"seed": 5, "steps": 2}
    config = pack("cidm_core.config").SampleConfig.for_family(base.family.sampling, **given)
    encoder = pack("nodes.evaluation.encoders").HostEncoder(eye)
    fitting = core.OverFittings(base, encoder, 8, config)
    return asdict(fitting.of(bank[name], [picture], lambda _: None))


def weights():
    return [value.clone() for value in model.model.state_dict().values()]


held = weights()
made = measure()
table, plot, numbers, *means = made.args
measured = json.loads(numbers)
found = {
    "table": table,
    "plot": list(plot.shape),
    "shown": len(made.ui["images"]),
    "measured": measured,
    "means": means,
    "progress": told[:],
    "kept": all(map(torch.equal, held, weights())),
    "loaded": len(memory.current_loaded_models),
    "other host": [here(each["concept"]) for each in measured],
}

# Cancelled in the middle of drawing: the host's own interruption, at once.
told.clear()
calls = []


def cancel_at_third():
    calls.append(1)
    return len(calls) == 3


kept_check, host.is_interrupted = host.is_interrupted, cancel_at_third
try:
    measure()
except memory.InterruptProcessingException:
    found["cancelled"] = [len(calls), len(told)]
host.is_interrupted = kept_check

other = concepts.bank(facts, count=0)
strange = concepts.bank(facts, count=0)
strange.add(replace(bank["c1"], base=bank["c1"].base.replace(":", ":9")))
found["single"] = measure(
    photo_folder="", references=photo, concepts="<v11> <v12>", width_px=64, height_px=32
).args[0]
found["wrong"] = {
    "both": error_of(references=photo),
    "none": error_of(photo_folder=""),
    "several": error_of(photo_folder="", references=photo),
    "folder": error_of(photo_folder="others"),
    "name": error_of(concepts="c1, c2"),
    "few": error_of(pictures=7),
    "empty": error_of(bank=other),
    "size": error_of(width_px=33),
    "base": error_of(bank=strange, photo_folder="", references=photo),
    "base allowed": error_of(
        bank=strange, photo_folder="", references=photo, allow_other_base=True
    ),
}
before = Node.fingerprint_inputs(photo_folder=["photos"])
picture.save(folder / "input" / "photos" / "c1" / "2.png")
found["fingerprint"] = [before != Node.fingerprint_inputs(photo_folder=["photos"])]
found["fingerprint"].append(Node.fingerprint_inputs() == Node.fingerprint_inputs(photo_folder=[""]))
inside.report(found)
