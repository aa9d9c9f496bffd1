"""The same pictures in both hosts: latents of ComfyUI against those of the diffusers host.

parity.py FAMILY CHECKPOINT TOKENIZER [CASES]
"""

import sys
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import comfy.sd
import concepts
import node_helpers
import small
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from concepts import random
from inside import ROOT, pack, report
from parity_cases import CASES, OF_FAMILY, TEXTS

sys.path.append(str(ROOT / "tests"))
import update_kinds
from remembering import remembering

family, checkpoint, tokenizer, *wanted = sys.argv[1:]
torch.set_num_threads(1)
torch.set_grad_enabled(False)

Region = pack("cidm_core.regions").Region
SampleConfig = pack("cidm_core.config").SampleConfig
apply, guider_node, sockets = (
    pack("nodes.sampling.apply"),
    pack("nodes.regions.guider"),
    pack("nodes.host.sockets"),
)
patches, sampler = (
    pack("cidm_core.diffusers_host.patches"),
    pack("cidm_core.diffusers_host.sampler"),
)
pipeline = pack("cidm_core.diffusers_host.pipeline")
prompts = pack("nodes.sampling.prompts")
ConceptStrengths = pack("nodes.bank.strengths").ConceptStrengths

PX, SIGMAS, SCALE = 64, (10.0, 0.0), 5.0


opened = partial(small.opened, family, checkpoint)
# In single precision: a delta added to weights in half precision would be rounded with them.
model, clip = opened(dtype=torch.float32)
base = pack("cidm_core.diffusers_host.load").load_base(
    checkpoint, device="cpu", dtype="fp32", tokenizer=tokenizer
)
bank = concepts.bank(base)
for kinds in (update_kinds.KINDS, update_kinds.INFUSED):
    for concept in update_kinds.concepts(base, pack, kinds).values():
        bank.add(concept)


def region(prompt, mask=None, **rest):
    return Region(prompt, mask=mask and torch.linspace(0, 1, 24).repeat(32, 1), **rest)


Remembering = remembering(pipeline.DiffusersEncoder, identity=lambda c: (c.name, c.strength))
pipeline.DiffusersEncoder = Remembering


@cache
def applied(bare, text, strengths, *settings):
    names = dict(zip(apply._SETTINGS, settings, strict=True))
    held = ConceptStrengths.execute(bank, strengths).args[0]
    return apply.ApplyConceptBank.execute(bare, text, held, **names).args


@cache
def encode(words, text):
    return concepts.encode(words, text)


def told_sizes(config):
    """What CLIP Text Encode (SDXL) puts into a conditioning."""
    named = {"width": "original_width_px", "height": "original_height_px"}
    named |= {"crop_w": "crop_left_px", "crop_h": "crop_top_px"}
    named |= {"target_width": "target_width_px", "target_height": "target_height_px"}
    given = {theirs: getattr(config, ours) for theirs, ours in named.items()}
    return {name: value for name, value in given.items() if value is not None}


def comfy_latents(prompt, regions, config, noise, bare=model, text=clip, sigmas=SIGMAS):
    settings = [getattr(config, name) for name in ("strengths", *apply._SETTINGS)]
    taught, words = applied(bare, clip, *settings)[0], applied(model, text, *settings)[1]
    texts = prompt, config.negative_prompt
    positive, negative = (
        node_helpers.conditioning_set_values(encode(words, text), told_sizes(config))
        for text in texts
    )
    if regions:
        held = tuple(
            sockets.RegionPrompt(
                r, encode(words, r.prompt), encode(words, r.negative) if r.negative else None
            )
            for r in regions
        )
        settings = {k: getattr(config, k) for k in guider_node._SETTINGS}
        guider = guider_node.RegionalNoiseGuider.execute(
            taught, positive, negative, held, config.guidance_scale, **settings
        ).args[0]
    else:
        guider = concepts.plain_guider(taught, positive, negative, config.guidance_scale)
    return model.model.latent_format.process_in(concepts.sample(guider, noise, sigmas))


def diffusers_latents(
    prompt, regions, config, noise, execution="auto", bare=model, own=base, sigmas=SIGMAS
):
    plan = pipeline.make_plan(own, bank, prompt, regions, config)
    timestep = bare.get_model_object("model_sampling").timestep
    x = noise * sigmas[0]
    with patches.attach(own, plan, execution) as attached:
        estimate = sampler._Estimate(own, attached, len(x), tuple(x.shape[-2:]), config)
        for sigma, following in pairwise(sigmas):
            t = timestep(torch.tensor([sigma]))[0]
            seen = x / (sigma**2 + 1) ** 0.5
            found = estimate(seen, t)
            if own.prediction_type == "v_prediction":  # v to clean latents, as ComfyUI has it
                clean = (seen - found * sigma) / (sigma**2 + 1) ** 0.5
                found = (x - clean) / sigma
            x = x + found * (following - sigma)
    return x


def predicting_v(**settings):
    """The model on both sides, as one that predicts v, and where both round alike."""
    [patched] = ModelSamplingDiscrete().patch(model, "v_prediction", **settings)
    sigmas = patched.get_model_object("model_sampling").sigmas
    schedule = pack("cidm_core.checkpoints.schedule").schedule_of(sigmas, "v_prediction")
    both = {"bare": patched, "sigmas": (2.0, 0.0)}
    return both, {**both, "own": replace(base, scheduler_config=schedule)}


def with_lora():
    """An ordinary LoRA on the ComfyUI side, its delta in the weights of the diffusers side."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0"
    file, deltas = {}, {}
    for part in ("attn1.to_q", "attn2.to_k", "attn2.to_out.0"):
        linear = base.unet.mid_block.attentions[0].transformer_blocks[0].get_submodule(part)
        out, into = linear.weight.shape
        up, down = random(out, 2, seed=1) * 0.05, random(2, into, seed=2) * 0.05
        name = f"{key}.{part}".replace("diffusion_model.", "lora_unet_").replace(".", "_")
        file |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        file[f"{name}.alpha"] = torch.tensor(2.0)
        deltas[part] = (linear, up @ down)
    # ComfyUI's names of LoRA keys are those of diffusers modules.
    file = {
        k.replace("middle_block_1_", "mid_block_attentions_0_"): value for k, value in file.items()
    }
    patched, _ = comfy.sd.load_lora_for_models(model, None, file, 1.0, 1.0)
    return patched, list(deltas.values())


def text_difference(prompt, config):
    """Of what both sides read for a prompt, per layer and pooled."""
    settings = [getattr(config, name) for name in ("strengths", *apply._SETTINGS)]
    ((_, options),) = encode(applied(model, clip, *settings)[1], prompt)
    ours = prompts.prompt_in(options).text
    (theirs,) = (text for key, text in Remembering.known.items() if key[0] == prompt)
    found = {"states": difference(ours.states, theirs.states)}
    if theirs.pooled is not None:
        found["pooled"] = difference(options["pooled_output"][0], theirs.pooled)
    return found


def difference(a, b):
    """Largest difference as a share of the latents' spread."""
    return float((a - b).abs().max() / b.std())


def settings_of(**given):
    return SampleConfig(guidance_scale=SCALE, width_px=PX, height_px=PX, **given)


found = {}
texts = {}
noise = random(1, 4, PX // 8, PX // 8, seed=7)
bare = diffusers_latents("a cat", (), settings_of(), noise)
for name in wanted or OF_FAMILY[family]:
    prompt, regions, settings = CASES[name]
    regions = tuple(region(**each) for each in regions)
    config = settings_of(**settings)
    ours = comfy_latents(prompt, regions, config, noise)
    theirs = diffusers_latents(prompt, regions, config, noise)
    found[name] = {"difference": difference(ours, theirs), "effect": difference(theirs, bare)}
    if name in TEXTS:
        texts[name] = text_difference(prompt, config)
    if name == "one":
        merged = diffusers_latents(prompt, regions, config, noise, "merged")
        found["merged"] = {"difference": difference(ours, merged)}
        per_row = diffusers_latents(prompt, regions, config, noise, "per_sample")
        found["per_row"] = {"difference": difference(ours, per_row)}
    if name == "own negative":
        for kind, zsnr in (("v", False), ("v without signal", True)):
            mine, other = predicting_v(zsnr=zsnr)
            ours = comfy_latents(prompt, regions, config, noise, **mine)
            as_v = diffusers_latents(prompt, regions, config, noise, **other)
            found[kind] = {"difference": difference(ours, as_v), "effect": difference(as_v, theirs)}
    if name == "encoder" and family == "SD15":
        half = comfy_latents(prompt, regions, config, noise, text=opened(dtype=torch.float16)[1])
        found["encoder in half precision"] = {"difference": difference(half, theirs)}
    if name == "regions":
        without, patched, deltas = theirs, *with_lora()
        ours = comfy_latents(prompt, regions, config, noise, patched)
        for linear, delta in deltas:
            linear.weight += delta
        theirs = diffusers_latents(prompt, regions, config, noise)
        for linear, delta in deltas:
            linear.weight -= delta
        found["lora"] = {
            "difference": difference(ours, theirs),
            "effect": difference(theirs, without),
        }
found["texts"] = texts
found["left behind"] = [
    name for name, m in model.model.diffusion_model.named_modules() if "forward" in m.__dict__
]
report(found)
