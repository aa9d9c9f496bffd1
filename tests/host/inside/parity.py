"""The same pictures in both hosts: latents of ComfyUI against those of the diffusers host."""

import sys
from functools import cache
from itertools import pairwise
from typing import ClassVar

import comfy.sd
import concepts
import torch
from concepts import random
from inside import ROOT, pack, report
from parity_cases import CASES

sys.path.append(str(ROOT / "tests"))
import update_kinds

checkpoint, tokenizer, *wanted = sys.argv[1:]
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

PX, SIGMAS, SCALE = 64, (10.0, 0.0), 5.0


def opened(**options):
    """MODEL and CLIP. One of CLIP's twelve layers on both sides: text takes most of the time."""
    options = {"clip_l_model_config": {"num_hidden_layers": 1}, **options}
    model, clip = comfy.sd.load_checkpoint_guess_config(
        checkpoint, output_vae=False, te_model_options=options
    )[:2]
    slim(clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].mlp)
    return model, clip


def slim(mlp, width=128):
    """The first of 3072 features in the middle of a layer, two thirds of the work on a text."""
    for layer, name in ((mlp.fc1, "weight"), (mlp.fc1, "bias"), (mlp.fc2, "weight")):
        held = getattr(layer, name)
        cut = held[:, :width] if layer is mlp.fc2 else held[:width]
        setattr(layer, name, torch.nn.Parameter(cut.clone(), requires_grad=False))


# In single precision: a delta added to weights in half precision would be rounded with them.
model, clip = opened(dtype=torch.float32)
base = pack("cidm_core.diffusers_host.load").load_base(
    checkpoint, device="cpu", dtype="fp32", tokenizer=tokenizer
)
encoder = base.text_encoders[0].encoder
encoder.layers = encoder.layers[:1]
slim(encoder.layers[0].mlp)
bank = concepts.bank(base)
for concept in update_kinds.concepts(base, pack).values():
    bank.add(concept)


def region(prompt, mask=None, **rest):
    return Region(prompt, mask=mask and torch.linspace(0, 1, 24).repeat(32, 1), **rest)


class Remembering(pipeline.DiffusersEncoder):
    """Encodes nothing twice: text encoding takes nearly all of this script's time."""

    known: ClassVar[dict] = {}

    def prompts(self, prompts, concepts):
        return [self.remember(text, concepts) for text in prompts]

    def remember(self, text, concepts):
        called = (c.name for c in concepts if any(w in text.lower() for w in c.triggers))
        key = text, tuple(called), self._strength
        if key not in self.known:
            (self.known[key],) = super().prompts([text], concepts)
        return self.known[key]


pipeline.DiffusersEncoder = Remembering


@cache
def applied(bare, text, *settings):
    names = dict(zip(apply._SETTINGS, settings, strict=True))
    return apply.ApplyConceptBank.execute(bare, text, bank, **names).args


@cache
def encode(words, text):
    return concepts.encode(words, text)


def comfy_latents(prompt, regions, config, noise, bare=model, text=clip):
    taught, words = applied(bare, text, *(getattr(config, k) for k in apply._SETTINGS))
    positive, negative = encode(words, prompt), encode(words, config.negative_prompt)
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
    return concepts.sample(guider, noise, SIGMAS) * 0.18215


def diffusers_latents(prompt, regions, config, noise, execution="auto"):
    plan = pipeline.make_plan(base, bank, prompt, regions, config)
    timestep = model.get_model_object("model_sampling").timestep
    x = noise * SIGMAS[0]
    with patches.attach(base, plan, execution) as attached:
        estimate = sampler._Estimate(base, attached, len(x), tuple(x.shape[-2:]), config)
        for sigma, following in pairwise(SIGMAS):
            t = timestep(torch.tensor([sigma]))[0]
            eps = estimate(x / (sigma**2 + 1) ** 0.5, t)
            x = x + eps * (following - sigma)
    return x


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


def difference(a, b):
    """Largest difference as a share of the latents' spread."""
    return float((a - b).abs().max() / b.std())


def settings_of(**given):
    return SampleConfig(guidance_scale=SCALE, width_px=PX, height_px=PX, **given)


found = {}
noise = random(1, 4, PX // 8, PX // 8, seed=7)
bare = diffusers_latents("a cat", (), settings_of(), noise)
for name in wanted or CASES:
    prompt, regions, settings = CASES[name]
    regions = tuple(region(**each) for each in regions)
    config = settings_of(**settings)
    ours = comfy_latents(prompt, regions, config, noise)
    theirs = diffusers_latents(prompt, regions, config, noise)
    found[name] = {"difference": difference(ours, theirs), "effect": difference(theirs, bare)}
    if name == "one":
        merged = diffusers_latents(prompt, regions, config, noise, "merged")
        found["merged"] = {"difference": difference(ours, merged)}
        per_row = diffusers_latents(prompt, regions, config, noise, "per_sample")
        found["per_row"] = {"difference": difference(ours, per_row)}
    if name == "encoder":
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
found["left behind"] = [
    name for name, m in model.model.diffusion_model.named_modules() if "forward" in m.__dict__
]
report(found)
