"""How an applied bank behaves among ComfyUI's own nodes; on mini-sd, because it is quick."""

from contextlib import contextmanager

import comfy.hooks
import comfy.model_management
import comfy.patcher_extension
import comfy.sd
import comfy_extras.nodes_model_advanced as advanced
import concepts
import torch
from concepts import differ, encode, error_of, plain_guider, random
from inside import pack, report

import nodes as stock

torch.set_num_threads(1)
torch.set_grad_enabled(False)
Region = pack("cidm_core.regions").Region
apply, guider_node = pack("nodes.sampling.apply"), pack("nodes.regions.guider")
RegionPrompt, banked = pack("nodes.host.sockets").RegionPrompt, pack("nodes.sampling.banked")
model, clip, vae = pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
facts = pack("nodes.host.model").model_facts(model)
bank = concepts.bank(facts)
SIGMAS, CFG = (8.0, 1.0, 0.0), 3.0
NOISE = random(1, 8, 8, 8, seed=7)
ONE, TWO = "a photo of a <v11> <v12>", "a <v11> <v12> and a <v21> <v22>"
WHERE = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.5, 1.0, 1.0), (0.2, 0.2, 0.8, 0.8)]
found = {}


def applied(bare=model, words=clip, **settings):
    given = {"weights": "gate", "top_k": 4, "strength": 1.0, "encoding": "per_task"}
    given |= {"allow_other_base": False, **settings}
    return apply.ApplyConceptBank.execute(bare, words, bank, **given).args


taught, words = applied()
NEGATIVE = encode(words, "")


def draw(positive, negative=None, bare=None, noise=NOISE, **options):
    guider = plain_guider(bare or taught, positive, negative or NEGATIVE, CFG)
    return concepts.sample(guider, noise, SIGMAS, **options)


def regional(positive, count=2, bare=None, negative=None, noise=NOISE, settings=None, **options):
    regions = tuple(
        RegionPrompt(Region("r", box=box), encode(words, f"a <v{1 + u % 3}1> <v{1 + u % 3}2>"))
        for u, box in enumerate(WHERE[:count])
    )
    given = {"alpha": 0.1, "feather": 0.05, "region_mode": "partition"}
    given |= {"region_weights": "per_region", "regional_attention": True}
    given |= {"noise_estimation": True, **(settings or {})}
    guider = guider_node.RegionalNoiseGuider.execute(
        bare or taught, positive, negative or NEGATIVE, regions, CFG, **given
    ).args[0]
    return concepts.sample(guider, noise, SIGMAS, **options)


@contextmanager
def counted():
    """Rows of every UNet call."""
    calls = []

    def count(executor, x, *args, **kwargs):
        calls.append(len(x))
        return executor(x, *args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    taught.add_wrapper_with_key(kind, "count", count)
    try:
        yield calls
    finally:
        taught.remove_wrappers_with_key(kind, "count")


def steps(calls):
    return {"calls": len(calls) / (len(SIGMAS) - 1), "rows": max(calls)}


# Without concept words everything is stock, to the bit.
stock_positive, stock_negative = encode(clip, "a red cat"), encode(clip, "")
plain = draw(stock_positive, stock_negative, bare=model)
found["stock"] = differ(plain, draw(encode(words, "a red cat")))
one = draw(encode(words, ONE))
found["effect"] = differ(one, draw(encode(words, "a photo of a thing")))
before = {k: v.clone() for k, v in model.model.state_dict().items()}

# Rows and calls.
found["rows"] = {}
for count in (1, 2, 3, 4):
    with counted() as calls:
        regional(encode(words, TWO), count)
    found["rows"][count] = steps(calls)
with counted() as calls:
    regional(encode(words, TWO), 2, settings={"noise_estimation": False})
found["rows"]["attention only"] = steps(calls)
two = regional(encode(words, TWO))
required = model.model.memory_required
model.model.memory_required = lambda shape, **_: 1e30 if shape[0] > 1 else 0
with counted() as calls:
    found["split"] = {"difference": differ(two, regional(encode(words, TWO))), **steps(calls)}
model.model.memory_required = required

# What a region means.
same = draw(encode(words, TWO))
found["alpha 1"] = differ(
    same, regional(encode(words, TWO), settings={"alpha": 1.0, "regional_attention": False})
)
batch = torch.cat([NOISE, random(1, 8, 8, 8, seed=8)])
both = regional(encode(words, TWO), noise=batch)
found["batch"] = differ(both[:1], two)
wide = random(1, 8, 6, 12, seed=9)
found["non-square"] = bool(regional(encode(words, TWO), noise=wide).isfinite().all())

# Words, weights, clip skip, length.
found["weighted"] = differ(one, draw(encode(words, "a photo of a (<v11> <v12>:1.3)")))
tokens = words.tokenize("a (<V11> <v12>:1.3), embedding:x castle")["l"][0]
found["tagged"] = [(t.concept_word, w) for t, w in tokens if isinstance(t, torch.Tensor)]
skipped = stock.CLIPSetLastLayer().set_last_layer(words, -2)[0]
found["clip skip"] = differ(one, draw(encode(skipped, ONE)))
first = applied(words=stock.CLIPSetLastLayer().set_last_layer(clip, -2)[0])[1]
found["clip skip before"] = differ(draw(encode(skipped, ONE)), draw(encode(first, ONE)))
long = draw(encode(words, "a red house on a hill " * 12 + ONE))
found["long"] = differ(long, draw(encode(words, "a red house on a hill " * 12 + "a thing")))
found["unknown word"] = error_of(encode, words, "a <v11> <v13> in a garden")
found["other tags"] = error_of(encode, words, "a <lora:detail:0.8> cat")
found["all placeholders"] = error_of(
    encode, words, " ".join([*pack("nodes.sampling.tokens").PLACEHOLDERS, ONE])
)

# Stock conditioning nodes.
positive, other = encode(words, ONE), encode(words, "a blue house")
combined = stock.ConditioningCombine().combine(positive, other)[0]
area = stock.ConditioningSetArea().append(positive, 16, 32, 0, 0, 1.0)[0]
masked = stock.ConditioningSetMask().append(positive, torch.ones(1, 8, 8), "default", 1.0)[0]
ranged = stock.ConditioningSetTimestepRange().set_range(positive, 0.0, 0.5)[0]
combine = stock.ConditioningCombine().combine
found["kept"] = {
    name: differ(draw(cond), draw(encode(words, "a photo of a thing")))
    for name, cond in {
        "combine": combined,
        "area": combine(area, other)[0],
        "mask": masked,
        "range": combine(ranged, other)[0],
    }.items()
}
found["area regional"] = bool(regional(combine(other, area)[0]).isfinite().all())
found["only area regional"] = bool(regional(area).isfinite().all())
found["zero-out"] = error_of(draw, positive, stock.ConditioningZeroOut().zero_out(other)[0])
found["zero-out inherits"] = differ(
    draw(positive, stock.ConditioningZeroOut().zero_out(other)[0]),
    draw(positive, stock.ConditioningZeroOut().zero_out(stock_negative)[0]),
)
found["concat"] = error_of(draw, stock.ConditioningConcat().concat(positive, other)[0])
found["average"] = error_of(draw, stock.ConditioningAverage().addWeighted(positive, other, 0.5)[0])
found["harmless concat"] = error_of(draw, stock.ConditioningConcat().concat(other, other)[0])
found["bare clip"] = error_of(draw, stock_positive, stock_negative)
found["bare model"] = error_of(regional, positive, bare=model)

# Other packs: attention patches, CFG patches, ControlNet.
seen = set()
patched = taught.clone()


def spy(n, context, value, extra):
    seen.add((extra["block"], float(context[0].sum())))
    return n, context, value


patched.set_model_attn2_patch(spy)
draw(positive, bare=patched)
found["contexts seen"] = len(seen)
replaced = taught.clone()
replaced.set_model_attn2_replace(
    lambda n, context, value, extra: comfy.ldm.modules.attention.optimized_attention(
        n, context, value, extra["n_heads"]
    ),
    "middle",
    0,
)
found["attn2 replace"] = differ(one, draw(positive, bare=replaced))
found["attn2 replace regional"] = differ(two, regional(encode(words, TWO), bare=replaced))
rescaled = advanced.RescaleCFG().patch(taught, 0.7)[0]
found["rescale cfg"] = differ(two, regional(encode(words, TWO), bare=rescaled))
again, words_again = applied(taught, words)
found["applied twice"] = differ(one, draw(encode(words_again, ONE), bare=again))
lora = {}
for name, into in (
    ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0", 96),
    ("lora_te_text_model_encoder_layers_1_self_attn_v_proj", 128),
):
    lora[f"{name}.lora_up.weight"] = random(into, 2, seed=21)
    lora[f"{name}.lora_down.weight"] = random(2, into, seed=22) * 2.0
before_apply = applied(*comfy.sd.load_lora_for_models(model, clip, lora, 0.8, 0.8))
after_apply = comfy.sd.load_lora_for_models(taught, words, lora, 0.8, 0.8)
ways = [draw(encode(w, ONE), encode(w, ""), bare=m) for m, w in (before_apply, after_apply)]
only_unet = draw(encode(words, ONE), bare=after_apply[0])
found["lora"] = {
    "effect": differ(one, only_unet),
    "text effect": differ(only_unet, ways[1]),
    "order": differ(*ways),
}
found["one again"] = differ(one, draw(encode(words, ONE)))
control, hint = concepts.control_net(model)
controlled, uncontrolled = stock.ControlNetApplyAdvanced().apply_controlnet(
    encode(words, TWO), NEGATIVE, control, hint, 1.0, 0.0, 1.0
)
with counted() as calls:
    with_net = regional(controlled, negative=uncontrolled)
found["controlnet"] = {"effect": differ(two, with_net), **steps(calls)}

# Inpainting: what the mask keeps is kept.
mask = torch.zeros(1, 1, 8, 8)
mask[..., 4:] = 1
image = random(1, 8, 8, 8, seed=11)
inpainted = regional(encode(words, TWO), latent_image=image, denoise_mask=mask)
found["inpaint"] = {
    "kept": differ(inpainted[..., :4], image[..., :4]),
    "redrawn": differ(inpainted[..., 4:], image[..., 4:]),
}

# The model is as it was, also after an interruption in the middle of a UNet call.


def stop(n, context, value, extra):
    raise comfy.model_management.InterruptProcessingException


broken = taught.clone()
broken.set_model_attn2_output_patch(lambda n, extra: stop(n, None, None, extra))
try:
    draw(positive, bare=broken)
except comfy.model_management.InterruptProcessingException:
    found["interrupted"] = True
found["left behind"] = [
    n for n, m in model.model.diffusion_model.named_modules() if "forward" in m.__dict__
]
after = model.model.state_dict()
found["weights changed"] = [k for k, v in before.items() if not torch.equal(v, after[k])]
found["bare again"] = differ(plain, draw(stock_positive, stock_negative, bare=model))
found["options left"] = [k for k in taught.model_options["transformer_options"] if k == banked.KEY]
report(found)
