"""Concepts of every kind in ComfyUI: its own LoRA loader, what does not fit, what a recipe sets."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.utils
import concepts
import torch
from inside import ROOT, pack, report

sys.path.append(str(ROOT / "tests"))
import update_kinds

torch.set_num_threads(1)
torch.set_grad_enabled(False)
Bank, Region = pack("cidm_core.bank").Bank, pack("cidm_core.regions").Region
FullRank = pack("cidm_core.updates").FullRank
apply, guider_node = pack("nodes.sampling.apply"), pack("nodes.regions.guider")
host, sockets = pack("nodes.host.model"), pack("nodes.host.sockets")
model, clip, vae = pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
facts = host.facts_of_pair(model, clip)
made = update_kinds.concepts(facts, pack)
FOLDER = Path(tempfile.mkdtemp())
found = {}


def bank_of(*held):
    bank = Bank(tempfile.mkdtemp(dir=FOLDER))
    for concept in held:
        bank.add(concept)
    return bank


# ComfyUI's Load LoRA on a concept file.


def changed(patcher):
    """Change of every patched weight, by its name in the host."""
    weights = {key: host.base_weight(patcher, key) for key in patcher.patches}
    zeros = {key: torch.zeros_like(weight, dtype=torch.float32) for key, weight in weights.items()}
    return {
        key: comfy.lora.calculate_weight(patcher.patches[key], zero, key)
        for key, zero in zeros.items()
    }


def loaded(concept):
    """Largest error among the deltas that Load LoRA applies, and whether it applies no other."""
    (entry,) = bank_of(concept).entries()
    file = comfy.utils.load_torch_file(str(entry.path), safe_load=True)
    patched, taught = comfy.sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
    deltas = changed(patched) | changed(taught.patcher)
    held = {path: u for path, u in concept.updates.items() if hasattr(u, "delta")}
    expected = {
        facts.encoder_key(path)
        if path.startswith("text_encoder")
        else f"diffusion_model.{facts.host_path(path)}.weight": update.delta
        for path, update in held.items()
    }
    biases = {path: u.bias for path, u in held.items() if getattr(u, "bias", None) is not None}
    expected |= {f"diffusion_model.{facts.host_path(p)}.bias": bias for p, bias in biases.items()}
    errors = [float((deltas[key] - delta).abs().max()) for key, delta in expected.items()]
    return {"error": max(errors, default=0.0), "keys": sorted(deltas) == sorted(expected)}


found["load lora"] = {kind: loaded(concept) for kind, concept in made.items()}

# A concept with its words, exported for stock nodes, and as Custom Diffusion and back.
exchange = pack("nodes.bank.exchange")
PLACES = {name: FOLDER / (name or "output") for name in ("loras", "embeddings", "")}
exchange.host.export_places = lambda: PLACES
exchange.host.find_file = lambda name, _kinds: PLACES[""] / "full" / name
bank = bank_of(made["full"])


def drawn(of_model, of_clip, text):
    prompts = [concepts.encode(of_clip, each) for each in (text, "ugly")]
    guider = concepts.plain_guider(of_model, *prompts, 3.0)
    return concepts.sample(guider, concepts.random(1, 8, 8, 8, seed=1), (8.0, 3.0, 0.0))


exchange.ExportConcept.execute(bank, "full", file_format="webui")
file = comfy.utils.load_torch_file(str(PLACES["loras"] / "full.safetensors"), safe_load=True)
stock = comfy.sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
stock[1].tokenizer.clip_l.embedding_directory = str(PLACES["embeddings"])
applied = apply.ApplyConceptBank.execute(model, clip, bank).args
ours = drawn(*applied, "a photo of a <k2>")
theirs = drawn(*stock, "a photo of a embedding:k2")
found["stock nodes"] = {
    "error": concepts.differ(ours, theirs) / float(ours.std()),
    "concept": concepts.differ(ours, drawn(model, clip, "a photo of a")) / float(ours.std()),
}
try:
    exchange.ExportConcept.execute(bank, "full", file_format="webui")
except Exception as error:
    found["overwritten"] = str(error)
# Several subjects of CLIF: a LoRA of self- and cross-attention, a file of words for each.
pair = bank_of(*update_kinds.concepts(facts, pack, update_kinds.CLIF).values())
exchange.ExportConcept.execute(pair, "clif", file_format="pivotal-tuning")
file = comfy.utils.load_torch_file(str(PLACES["loras"] / "clif.safetensors"), safe_load=True)
stock = comfy.sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
stock[1].tokenizer.clip_l.embedding_directory = str(PLACES["embeddings"])
applied = apply.ApplyConceptBank.execute(model, clip, pair).args
ours = drawn(*applied, "a <pur1> <pur2> and a <tea1> <tea2>")
theirs = drawn(*stock, "a embedding:pur_emb and a embedding:tea_emb")
found["stock nodes, clif"] = {
    "error": concepts.differ(ours, theirs) / float(ours.std()),
    "concept": concepts.differ(ours, drawn(model, clip, "a cat and a cat")) / float(ours.std()),
}
exchange.ExportConcept.execute(bank, "full", file_format="diffusers-custom-diffusion", model=model)
weights = "pytorch_custom_diffusion_weights.safetensors"
given = {"file": weights, "class_words": "vase", "name": "back"}
exchange.ImportConcept.execute(bank_of(), model=model, **given)
back = Bank(sorted(FOLDER.glob("*/back.safetensors"))[0].parent)["back"]
found["back"] = {
    "words": list(back.words),
    "rows": torch.equal(back.rows["text_encoder"], made["full"].rows["text_encoder"]),
    "error": max(
        concepts.differ(update.delta, made["full"].updates[path].delta)
        for path, update in back.updates.items()
    ),
    "paths": back.updates.keys() == made["full"].updates.keys(),
}

# What does not fit is refused before anything is encoded.
encoded = []
encode_tokens = clip.cond_stage_model.encode_token_weights
clip.cond_stage_model.encode_token_weights = lambda t: encoded.append(1) or encode_tokens(t)
layer = facts.names[0]
UNFIT = {
    "attn2": {f"{layer}.to_k": FullRank(torch.zeros(96, 96))},
    "attn1": {f"{layer.replace('attn2', 'attn1')}.to_k": FullRank(torch.zeros(3, 3))},
    "encoder": {"text_encoder.text_model.encoder.layers.0.mlp.fc1": FullRank(torch.zeros(3, 3))},
    "absent": {"text_encoder.text_model.encoder.layers.70.mlp.fc1": FullRank(torch.zeros(3, 3))},
}


def refusal(concept, text="a <k1> <l1>", **settings):
    """Where a concept is refused, and how often text was encoded until then."""
    encoded.clear()
    stage = "apply"
    try:
        _, words = apply.ApplyConceptBank.execute(model, clip, bank_of(concept), **settings).args
        stage = "encode"
        concepts.encode(words, text)
    except Exception as error:
        return [stage, type(error).__name__, str(error), len(encoded)]
    return None


low = made["low"]
found["unfit"] = {name: refusal(replace(low, updates=u)) for name, u in UNFIT.items()}
narrow = {"text_encoder": low.rows["text_encoder"][..., :5].clone()}
found["unfit"]["rows"] = refusal(replace(low, rows=narrow))
short = tuple(facts.names[:-1])
found["other layers"] = refusal(replace(low, layers=short, updates={}, rows={}))
found["other base"] = refusal(replace(low, base="9x9:" + ",".join(["1"] * 32)))
found["fits"] = refusal(low)

# A baked model still draws words of a concept that changes the text encoder.
taught, words = apply.ApplyConceptBank.execute(model, clip, bank_of(made["encoder"])).args
prompt = concepts.encode(words, "a <k5> <l5>")
baked = pack("nodes.sampling.bake").BakeConcepts.execute(taught, prompt).args[0]
guider = concepts.plain_guider(baked, prompt, concepts.encode(words, ""), 3.0)
found["baked"] = concepts.error_of(
    concepts.sample, guider, concepts.random(1, 8, 8, 8, seed=1), (8.0, 0.0)
)

# One word for every choice; "auto" in the guider follows the bank's.
bank = bank_of(*made.values())


def chosen(recipe, given=None, **settings):
    """What Apply Concept Bank and a guider of its MODEL settle on."""
    both = apply.ApplyConceptBank.execute(model, clip, bank, recipe=recipe, **settings)
    taught, words = both.args
    region = sockets.RegionPrompt(Region("r", box=(0, 0, 1, 1)), concepts.encode(words, "a <k2>"))
    prompt = concepts.encode(words, "a <k1>")
    guider = guider_node.RegionalNoiseGuider.execute(
        taught, prompt, prompt, [region], 2.0, **(given or {})
    ).args[0]
    one, two = words.concept_text.config, guider.regional.config
    own = guider.original_conds["region_0"][0]["cidm_row"].inserts[0][1] != ()
    return [one.weights, one.encoding, two.region_weights, two.region_mode, own]


AUTO = {"region_weights": "auto", "region_mode": "auto"}
found["recipes"] = {recipe: chosen(recipe, AUTO) for recipe in ("ours", "paper", "released")}
found["a widget that sent nothing"] = chosen("paper")
found["single settings"] = chosen(
    "released",
    {"region_mode": "partition", "region_weights": "auto"},
    weights="gate",
    encoding="auto",
)
report(found)
