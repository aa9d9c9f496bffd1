"""What only SDXL has in ComfyUI: two texts, pooled text, sizes; what is refused; learning."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy.lora
import comfy.patcher_extension
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.utils
import comfy_extras.nodes_clip_sdxl as sdxl_nodes
import concepts
import small
import torch
from concepts import differ, encode, error_of, plain_guider, random
from inside import pack, report
from safetensors.torch import save_file

import nodes as stock

torch.set_num_threads(1)
torch.set_grad_enabled(False)
Region, RegionPrompt = pack("cidm_core.regions").Region, pack("nodes.host.sockets").RegionPrompt
Apply, Guider = (
    pack("nodes.sampling.apply").ApplyConceptBank,
    pack("nodes.regions.guider").RegionalNoiseGuider,
)
host, core = pack("nodes.host.model"), pack("cidm_core.concept")
LowRank = pack("cidm_core.updates").LowRank
prompt_in = pack("nodes.sampling.prompts").prompt_in
checkpoint, tokenizer = sys.argv[1:]
model, clip = small.opened("SDXL", checkpoint, dtype=torch.float32)
facts = host.facts_of_pair(model, clip)
bank = concepts.bank(facts, count=1)
NOISE, SIGMAS = random(1, 4, 8, 8, seed=7), (8.0, 0.0)
LAYERS = len(facts.layers)
found = {}


def twin(name, word, plain, layers, noise=0.0):
    """A concept whose word has the rows of a plain word, in both encoders, and changes nothing."""
    rows = {}
    for each in facts.encoders:
        table = each.module(clip).transformer.get_input_embeddings().weight
        (number,) = each.tokenizer(clip)(plain, add_special_tokens=False).input_ids
        rows[each.row.name] = table[number].float().repeat(1, layers, 1)
        if noise:
            rows[each.row.name] += noise * random(1, layers, each.row.dim, seed=5)
    path = f"{facts.layers[0].path}.to_k"
    out, into = facts.shape_of(path)
    return core.Concept(
        name=name,
        subjects=(core.Subject((word,), plain),),
        family=facts.family.name,
        base=facts.fingerprint,
        layers=facts.names,
        updates={path: LowRank(torch.zeros(1, into), torch.zeros(out, 1), 1.0)},
        rows=rows,
    )


bank.add(twin("dog", "<dog>", "dog", LAYERS))
bank.add(twin("cat", "<cat>", "cat", 1))
bank.add(twin("fox", "<fox>", "fox", LAYERS, noise=0.05))
file = Path(tempfile.mkdtemp()) / "pup.safetensors"
names = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
save_file({k: bank["dog"].rows[name][:, 0].contiguous() for k, name in names.items()}, file)
told = pack("cidm_core.importers.settings").ImportConfig(class_words="dog", words="<pup>")
pack("cidm_core.importers.concept_import").import_concept(file, bank, told, facts)
taught, words = Apply.execute(model, clip, bank).args


def pooled(conditioning):
    return conditioning[0][1]["pooled_output"]


def unlike(a, b):
    """Of two conditionings: text, and pooled text."""
    return [differ(a[0][0], b[0][0]), differ(pooled(a), pooled(b))]


def two_texts(of, text_g, text_l):
    sizes = {"width": 640, "height": 512, "crop_w": 8, "crop_h": 16}
    sizes |= {"target_width": 96, "target_height": 80}
    return sdxl_nodes.CLIPTextEncodeSDXL.execute(of, **sizes, text_g=text_g, text_l=text_l).args[0]


# A word with a plain word's rows reads as that word, and pooled text stays where the prompt ends.
PAIRS = {
    "one": ("a <dog> on a hill", "a dog on a hill"),
    "textual inversion": ("a <pup> on a hill", "a dog on a hill"),
    "one row for all layers": ("a <cat>, asleep", "a cat, asleep"),
    "weighted": ("a (<dog>:1.3) on a (hill:0.7)", "a (dog:1.3) on a (hill:0.7)"),
    "long": ("a red house on a hill " * 13 + "<dog>", "a red house on a hill " * 13 + "dog"),
}
found["twins"] = {k: unlike(encode(words, w), encode(clip, p)) for k, (w, p) in PAIRS.items()}
for layer in (-1, -2, -3):
    skip = stock.CLIPSetLastLayer().set_last_layer
    pairs = zip((words, clip), PAIRS["one"], strict=True)
    skipped = [encode(skip(of, layer)[0], text) for of, text in pairs]
    found["twins"][f"clip skip {layer}"] = unlike(*skipped)
for place, texts in {"g": ("a <dog>", "a red hill"), "l": ("a red hill", "a <dog>")}.items():
    plain = [text.replace("<dog>", "dog") for text in texts]
    found["twins"][f"two texts, {place}"] = unlike(
        two_texts(words, *texts), two_texts(clip, *plain)
    )
texts = "a <dog> on a hill " * 13, "a <cat>"
plain = [text.replace("<", "").replace(">", "") for text in texts]
found["twins"]["two texts of two lengths"] = unlike(
    two_texts(words, *texts), two_texts(clip, *plain)
)

# Whose concepts take part, and where their words stand, is told by either text.
both = prompt_in(two_texts(words, "<v11> <v12> red", "a big <dog>")[0][1])
found["either"] = {
    "concepts": [concept.name for concept in both.concepts.values()],
    "triggers": {k: list(v) for k, v in both.text.spans.triggers.items()},
    "plain": list(both.text.spans.plain),
}

# Pooled text is the mean of all versions, and equal versions are encoded once.
sections = []
whole = clip.cond_stage_model.clip_g
count = whole.register_forward_hook(lambda _, given, __: sections.append(len(given[0])))
mixed = encode(words, "a <fox>")
found["sections"] = sections[:1]
sections.clear()
encode(words, "a <dog>")
found["sections"] += sections[:1]
count.remove()
by_layer = []
for layer in range(LAYERS):
    fox = bank["fox"]
    rows = {name: own[:, layer : layer + 1].clone() for name, own in fox.rows.items()}
    alone = pack("cidm_core.bank").Bank(tempfile.mkdtemp())
    alone.add(replace(fox, rows=rows))
    by_layer.append(pooled(encode(Apply.execute(model, clip, alone).args[1], "a <fox>")))
found["mean pooled"] = differ(pooled(mixed), torch.stack(by_layer).mean(0))
found["versions differ"] = differ(by_layer[0], by_layer[1])

# What the UNet is told beside the text, in whatever order of rows.
told = []


def watch(executor, x, t, context, y=None, *rest, **more):
    told.append(y.clone())
    return executor(x, t, context, y, *rest, **more)


taught.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "watch", watch)
NEGATIVE = encode(words, "")


def sizes_of(*numbers):
    return torch.cat([model.model.embedder(torch.tensor([float(n)])) for n in numbers], 1)


def drawn(positive, regions=(), **settings):
    told.clear()
    if not regions:
        return concepts.sample(plain_guider(taught, positive, NEGATIVE, 3.0), NOISE, SIGMAS)
    boxes = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    held = [RegionPrompt(Region("r", box=b), c) for b, c in zip(boxes, regions, strict=False)]
    given = {"alpha": 0.1, "feather": 0.05, "region_mode": "partition", **settings}
    given |= {"region_weights": "per_region", "noise_estimation": True}
    guider = Guider.execute(taught, positive, NEGATIVE, held, 3.0, **given).args[0]
    return concepts.sample(guider, NOISE, SIGMAS)


def rows_told(expected):
    """Largest difference between the vectors that the UNet got and those expected of them."""
    (rows,) = told
    wanted = torch.stack([torch.cat([text[0], size[0]]) for text, size in expected])
    apart = (rows[:, None] - wanted).abs().amax(-1)
    return len(rows), float(torch.maximum(apart.amin(0).max(), apart.amin(1).max()))


PICTURE, INSIDE = encode(words, "a <v11> <v12>"), encode(words, "a <dog>")
own, asked = sizes_of(64, 64, 0, 0, 64, 64), sizes_of(512, 640, 16, 8, 80, 96)
sized = two_texts(words, "a <v11> <v12>", "a <v11> <v12>")
found["told"] = {}
drawn(PICTURE)
found["told"]["plain"] = rows_told([(pooled(NEGATIVE), own), (pooled(PICTURE), own)])
drawn(sized)
found["told"]["sizes"] = rows_told([(pooled(NEGATIVE), own), (pooled(PICTURE), asked)])
drawn(sized, [INSIDE], regional_attention=False)
found["told"]["region"] = rows_told(
    [(pooled(NEGATIVE), own), (pooled(PICTURE), asked), (pooled(INSIDE), asked)]
)
drawn(sized, [INSIDE, sized], regional_attention=True)
found["told"]["regional attention"] = rows_told(
    [(pooled(NEGATIVE), own), *[(pooled(PICTURE), asked)] * 3]
)
found["told"]["pooled differ"] = differ(pooled(PICTURE), pooled(INSIDE))
PLAIN = encode(words, "a thing")
combined = stock.ConditioningCombine().combine(PICTURE, PLAIN)[0]
found["combined"] = differ(drawn(combined), drawn(PLAIN))
zero = stock.ConditioningZeroOut().zero_out(PLAIN)[0]
NEGATIVE = zero
found["zeroed negative"] = bool(drawn(PICTURE).isfinite().all())
found["changed"] = error_of(drawn, stock.ConditioningAverage().addWeighted(PICTURE, PLAIN, 0.5)[0])

# ComfyUI's Load LoRA on the file of an SDXL concept.


def low_rank(path, seed):
    out, into = facts.shape_of(path)
    return LowRank(random(2, into, seed=seed), random(out, 2, seed=seed), 3.0)


at = [f"{row.name}.text_model.encoder.layers.0.mlp.fc1" for row in facts.family.encoders]
updates = {path: low_rank(path, i) for i, path in enumerate([*bank["c1"].updates, *at])}
wide = pack("cidm_core.bank").Bank(tempfile.mkdtemp())
wide.add(replace(bank["c1"], updates=updates))
file = comfy.utils.load_torch_file(str(wide.entries()[0].path), safe_load=True)
parts = comfy.sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
deltas = {}
for patcher in (parts[0], parts[1].patcher):
    for key, patches in patcher.patches.items():
        zeros = torch.zeros_like(host.base_weight(patcher, key), dtype=torch.float32)
        deltas[key] = comfy.lora.calculate_weight(patches, zeros, key)
expected = {
    facts.encoder_key(path)
    if path in at
    else f"diffusion_model.{facts.host_path(path)}.weight": update.delta
    for path, update in updates.items()
}
found["load lora"] = {
    "keys": sorted(deltas) == sorted(expected),
    "error": max(differ(deltas[key], delta) for key, delta in expected.items()),
}

# What does not belong together.


def with_encoders(made):
    return SimpleNamespace(cond_stage_model=made)


mini, mini_clip, _ = pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
few = small.ENCODERS["SDXL"]
sd15 = with_encoders(comfy.sd1_clip.SD1ClipModel(model_options=few))
refiner = with_encoders(comfy.sdxl_clip.SDXLRefinerClipModel(model_options=few))
state = comfy.utils.load_torch_file(checkpoint)
half = {k: v for k, v in state.items() if not k.startswith("conditioner.embedders.1.")}
_, one_encoder, *_ = comfy.sd.load_state_dict_guess_config(
    half, output_vae=False, output_model=False, te_model_options=few
)
mini_facts = host.facts_of_pair(mini, mini_clip)
other = concepts.bank(mini_facts, count=1)
found["refused"] = {
    name: error_of(Apply.execute, *sockets)
    for name, sockets in {
        "SD 1.5's CLIP": (model, sd15, bank),
        "a refiner's CLIP": (model, refiner, bank),
        "mini-sd's CLIP": (model, mini_clip, bank),
        "SDXL's CLIP": (mini, clip, other),
        "no second encoder": (model, one_encoder, bank),
        "no CLIP": (model, None, bank),
        "another family's bank": (model, clip, other),
        "SDXL's bank": (mini, mini_clip, bank),
    }.items()
}

# A base to learn on, from the sockets.
latents = model.get_model_object("latent_format")
vae = SimpleNamespace(spacial_compression_decode=lambda: 8, latent_channels=4)
load = pack("cidm_core.diffusers_host.load").load_base
read = load(checkpoint, device="cpu", dtype="fp32", tokenizer=tokenizer)
with pack("nodes.host.base").base_of(model, clip, vae, "fp32") as taken:
    parts = [(taken.unet, read.unet), *zip(taken.text_encoders, read.text_encoders, strict=True)]
    found["base"] = {
        "same": [
            all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))
            for a, b in parts
        ],
        "heads": [
            [m.heads for m in a.unet.modules() if hasattr(m, "heads")] for a in (taken, read)
        ],
        "names": [taken.family.name, taken.fingerprint == read.fingerprint],
        "tokenizers": [
            [t("a red dog!").input_ids for t in each.tokenizers] for each in (taken, read)
        ],
        "text heads": [e.config.num_attention_heads for e in taken.text_encoders],
    }
report(found)
