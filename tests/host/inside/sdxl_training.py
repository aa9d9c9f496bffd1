"""Train Concept on a small SDXL, and what ComfyUI draws with what it taught."""

import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import comfy.sd
import concepts
import small
import torch
from inside import pack, report

torch.set_num_threads(1)
keep = torch.inference_mode()  # as the host runs nodes
keep.__enter__()
node, methods = pack("nodes.training.train").TrainConcept, pack("nodes.training.methods")
folder = Path(tempfile.mkdtemp())
model, clip = small.opened("SDXL", sys.argv[1], dtype=torch.float32)
photos = torch.rand(2, 96, 80, 3, generator=torch.Generator().manual_seed(0))


class Node(node):
    hidden = SimpleNamespace(unique_id=None, prompt=None)


def learn(bank, **more):
    settings = {"rank": 2, "resolution_px": 64, "variants": 2, "preview_every": 2, "save_every": 0}
    given = {"model": model, "clip": clip, "vae": concepts.tiny_vae(), "bank": bank}
    given |= {"words": "<dog1> <dog2>", "class_words": "dog", "kind": "object", "steps": 2}
    given |= {"preset": "Low VRAM", "seed": 0, "images": photos, **more}
    given["method"] = methods.MethodCidm.execute(**settings).args[0]
    return Node.execute(**{key: [value] for key, value in given.items()})


bank = pack("cidm_core.bank").Bank(folder / "bank")
_, losses, _, lora, steps, _ = learn(bank).args
(taught,) = bank.values()
facts = pack("nodes.host.model").facts_of_pair(model, clip)
found = {
    "steps": steps,
    "finite": bool(torch.tensor(losses["loss"]).isfinite().all()),
    "family": [taught.family, taught.base == facts.fingerprint],
    "rows": {name: list(rows.shape) for name, rows in taught.rows.items()},
    "listing": pack("cidm_core.catalogue").listing(bank),
    "preview": bank.entries()[0].preview.is_file(),
}
patched, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
found["lora keys"] = [len(patched.patches), len(taught.updates)]

applied, words = pack("nodes.sampling.apply").ApplyConceptBank.execute(model, clip, bank).args
noise, sigmas = concepts.random(1, 4, 8, 8, seed=7), (8.0, 0.0)
prompt, negative = concepts.encode(words, "a <dog1> <dog2>"), concepts.encode(words, "")
drawn = concepts.sample(concepts.plain_guider(applied, prompt, negative, 3.0), noise, sigmas)
found["drawn"] = bool(drawn.isfinite().all())
shutil.rmtree(folder)
report(found)
