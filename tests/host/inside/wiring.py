"""Wrong wires, several banks, and core's nodes that save, load, merge and compile; on mini-sd."""

import copy
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import comfy.ldm.modules.attention as attention
import comfy.sd
import comfy.utils
import comfy_extras.nodes_dataset as dataset
import comfy_extras.nodes_model_merging as merging
import comfy_extras.nodes_torch_compile as compiling
import concepts
import folder_paths
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from concepts import differ, encode, error_of, plain_guider, random
from inside import pack, report

import nodes as stock

torch.set_num_threads(1)
torch.set_grad_enabled(False)
Bank, Region = pack("cidm_core.bank").Bank, pack("cidm_core.regions").Region
RegionPrompt, facts_of = (
    pack("nodes.host.sockets").RegionPrompt,
    pack("nodes.host.model").model_facts,
)
Apply, prompts = pack("nodes.sampling.apply").ApplyConceptBank, pack("nodes.sampling.prompts")
Guider = pack("nodes.regions.guider").RegionalNoiseGuider
Bake = pack("nodes.sampling.bake").BakeConcepts
Load = pack("nodes.mini.load").LoadMiniModel
NOISE, SIGMAS, CFG = random(1, 8, 8, 8, seed=7), (8.0, 1.0, 0.0), 3.0
FOLDER = Path(tempfile.mkdtemp())
model, clip, vae = Load.execute().args[:3]
facts = facts_of(model)
bank = concepts.bank(facts)
taught, words = Apply.execute(model, clip, bank).args
ONE, OTHER = encode(words, "a photo of a <v11> <v12>"), encode(words, "a blue house")
TWO, NEGATIVE = encode(words, "a <v11> <v12> and a <v21> <v22>"), encode(words, "")
PLAIN, PLAIN_NEGATIVE = encode(clip, "a blue house"), encode(clip, "")
found, said = {}, []


class Told(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())


logging.getLogger(pack("nodes.host.comfy").__name__).addHandler(Told())


def draw(positive=None, negative=None, by=None):
    made = plain_guider(by or taught, positive or ONE, negative or NEGATIVE, CFG)
    return concepts.sample(made, NOISE, SIGMAS)


def guider(regions, positive=TWO, negative=None, by=None, **settings):
    boxes = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    made = [RegionPrompt(Region("r", box=b), *r) for b, r in zip(boxes, regions, strict=False)]
    given = {"alpha": 0.1, "feather": 0.05, "region_mode": "partition"}
    given |= {"region_weights": "per_region", "regional_attention": True, **settings}
    made = Guider.execute(by or taught, positive, negative or NEGATIVE, made, CFG, **given)
    return made.args[0]


def regional(*args, **kwargs):
    return concepts.sample(guider(*args, **kwargs), NOISE, SIGMAS)


def told(function, *args, **kwargs):
    """What a function gives, and what it said meanwhile."""
    said.clear()
    return function(*args, **kwargs), list(said)


one = draw()

# MODEL from the loader, CLIP with a bank.
found["bare model"] = error_of(draw, by=model)
found["bare model, no concept"] = differ(draw(OTHER, by=model), draw(PLAIN, by=model))
joint = Apply.execute(model, clip, bank, weights="paper").args[1]
found["bare model, all concepts"] = error_of(draw, encode(joint, "a house"), by=model)

# One prompt from the loader's CLIP.
found["positive"] = error_of(draw, PLAIN)
found["combined"] = error_of(draw, ONE + PLAIN)
image, telling = told(draw, negative=encode(clip, "a red cat"))
found["negative"] = [differ(image, draw(negative=encode(words, "a red cat"))), telling]
found["region"] = error_of(guider, [(ONE,), (PLAIN,)])
image, telling = told(regional, [(ONE,), (TWO, encode(clip, "a red cat"))])
found["region's negative"] = telling
found["emptied"] = told(draw, negative=stock.ConditioningZeroOut().zero_out(PLAIN)[0])[1]
bare = Apply.execute(model, clip, bank, strength=0.0).args[0]
found["strength 0"] = error_of(draw, PLAIN, PLAIN_NEGATIVE, by=bare)

# Merges.
second = Load.execute().args[0]
for parameter in second.model.diffusion_model.parameters():
    parameter.mul_(1.01)
merge = merging.ModelMergeSimple().merge


def few(by, *names):
    """A MODEL that brings some weights only: core's nodes take seconds to merge all of them."""
    by = by.clone()
    patches = by.get_key_patches("diffusion_model.middle_block.")
    by.get_key_patches = lambda _: {key: patches[key] for key in names or patches}
    return by


second, some_taught = few(second), few(taught)
found["merged away"] = error_of(draw, by=merge(second, some_taught, 0.5)[0])
found["merged"] = told(draw, by=merge(taught, second, 0.5)[0])[1]
allowed = Apply.execute(model, clip, bank, allow_other_base=True).args[0]
found["merge allowed"] = told(draw, by=merge(allowed, second, 0.5)[0])[1]
another = Load.execute().args[0]
for name, weight in another.model.diffusion_model.named_parameters():
    if "middle_block" in name:
        weight.add_(random(*weight.shape, seed=5) * weight.std())
elsewhere = Apply.execute(another, clip, concepts.bank(facts_of(another))).args[1]
found["other base"] = error_of(draw, encode(elsewhere, "a <v11> <v12>"))

# Concept words in the second input of nodes that mix.
concat, average = stock.ConditioningConcat().concat, stock.ConditioningAverage().addWeighted
long = encode(words, "a red house on a hill " * 12)
found["mixed"] = {
    "concat": error_of(draw, concat(OTHER, ONE)[0]),
    "concat, a long text first": error_of(draw, concat(long, ONE)[0]),
    "concat of three": error_of(draw, concat(concat(OTHER, long)[0], ONE)[0]),
    "average": error_of(draw, average(OTHER, ONE, 0.7)[0]),
    "average with nothing of the first": error_of(draw, average(OTHER, ONE, 0.0)[0]),
    "average, a long text first": error_of(draw, average(long, ONE, 0.3)[0]),
    "in the negative": error_of(draw, ONE, concat(NEGATIVE, ONE)[0]),
    "in a region": error_of(regional, [(ONE,), (concat(OTHER, ONE)[0],)]),
}
found["concat to the loader's"] = error_of(draw, concat(PLAIN, ONE)[0])
thing = encode(words, "a photo of a thing")
found["harmless"] = {
    "concat": error_of(draw, concat(OTHER, thing)[0]),
    "average": error_of(draw, average(thing, OTHER, 0.5)[0]),
    "average with none of the second": error_of(draw, average(OTHER, ONE, 1.0)[0]),
    "multiply": error_of(draw, stock.ConditioningMultiply().multiply(OTHER, 1.3)[0]),
    "combine": error_of(draw, ONE + thing),
}

# Two banks with a concept of the same name and words.
mine = concepts.concept(facts, 1, ("<v11>", "<v12>"))
theirs = replace(concepts.concept(facts, 9, ("<v11>", "<v12>")), name="c1")
renamed = replace(concepts.concept(facts, 9, ("<x1>", "<x2>")), name="x")
banks = [Bank(tempfile.mkdtemp()) for _ in range(3)]
for held, group in zip(banks, ([mine], [theirs], [mine, renamed]), strict=True):
    for each in group:
        held.add(each)
found["two banks"] = {}
for routing in ("prompt", "token"):
    given = {"key_value_routing": routing}
    first, a = Apply.execute(model, clip, banks[0], **given).args
    chained, b = Apply.execute(first, clip, banks[1], **given).args
    both, c = Apply.execute(model, clip, banks[2], **given).args
    text, negative = "a <v11> <v12> on grass", encode(c, "")
    wanted = regional([(encode(c, "a <x1> <x2>"),)], encode(c, text), negative, both)
    got = regional([(encode(b, "a <v11> <v12>"),)], encode(a, text), negative, chained)
    swapped = regional([(encode(a, "a <v11> <v12>"),)], encode(a, text), negative, chained)
    found["two banks"][routing] = [differ(wanted, got), differ(wanted, swapped)]

# Core's nodes that save a conditioning, and copies.
folder_paths.set_output_directory(str(FOLDER))
latents = [{"samples": NOISE}] * 2
dataset.SaveTrainingDataset.execute(latents, [ONE, OTHER], ["set"], [10])
_, loaded = dataset.LoadTrainingDataset.execute("set").args
found["dataset"] = [differ(one, draw(loaded[0])), differ(draw(OTHER), draw(loaded[1]))]
found["deep copy"] = differ(one, draw(copy.deepcopy(ONE)))
prompts._known.clear()  # as in another session
found["dataset later"] = differ(one, draw(loaded[0]))
prompts._known.clear()
bank.remove("c1")
found["concept gone"] = error_of(draw, loaded[0])
bank.add(replace(mine, facts={"again": True}))
found["taught again"] = error_of(
    draw,
    [
        [
            loaded[0][0][0],
            {
                **loaded[0][0][1],
                "cidm_prompt": {
                    **loaded[0][0][1]["cidm_prompt"],
                    "concepts": [(str(bank.path), "c1", "0", "1999-01-01", "1.0")],
                },
            },
        ]
    ],
)
taught, words = Apply.execute(model, clip, bank).args
ONE, NEGATIVE = encode(words, "a photo of a <v11> <v12>"), encode(words, "")
one = draw()

# Save Checkpoint and Bake Concepts.


def saved(by, name):
    path = str(FOLDER / f"{name}.safetensors")
    _, telling = told(comfy.sd.save_checkpoint, path, by)
    return comfy.utils.load_torch_file(path), telling


start = "model.diffusion_model."
base, _ = saved(model, "bare")
plain, telling = saved(taught, "plain")
found["save"] = [max(differ(plain[k], base[k]) for k in base), telling]
layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
lora = {f"{layer}.lora_up.weight": random(96, 2, seed=1)}
lora[f"{layer}.lora_down.weight"] = random(2, 96, seed=2)
clone = comfy.sd.load_lora_for_models(taught, None, lora, 0.1, 0.0)[0]
found["save a clone"] = saved(clone, "clone")[1]
baked = Bake.execute(taught, ONE).args[0]
image, telling = told(draw, by=baked)
found["baked"] = [differ(one, image), differ(one, draw(thing, NEGATIVE)), telling]
weights, telling = saved(baked, "baked")
(held,) = prompts.prompt_in(ONE[0][1]).concepts.values()
expected = {
    f"{start}{facts.host_path(path)}.weight": base[f"{start}{facts.host_path(path)}.weight"]
    + update.delta
    for path, update in held.updates.items()
}
found["baked file"] = [
    max(differ(weights[key], weight) for key, weight in expected.items()),
    max(differ(weights[key], base[key]) for key in base.keys() - expected.keys()),
    telling,
]
# Its words again, with what was loaded from such a file.
third = Load.execute().args[0]
third.model.diffusion_model.load_state_dict(
    {k.removeprefix(start): w for k, w in weights.items() if k.startswith(start)}
)
third, own = Apply.execute(third, clip, bank, strength=0.0, allow_other_base=True).args
again = draw(encode(own, "a photo of a <v11> <v12>"), encode(own, ""), by=third)
found["baked file, words"] = differ(one, again)
found["baked, the loader's words"] = error_of(draw, PLAIN, PLAIN_NEGATIVE, by=baked)
some = next(key for key in expected if "middle_block" in key)
key = some.removeprefix("model.")
patches = merging.ModelSubtract().merge(baked, few(model, key), 1.0)[0].patches[key]
delta = comfy.lora.calculate_weight(patches, base[some].clone(), some)
found["difference"] = differ(delta, expected[some] - base[some])
found["two prompts"] = error_of(Bake.execute, taught, ONE + encode(words, "a house"))
found["bake nothing"] = error_of(Bake.execute, taught, OTHER)
found["bake bare"] = error_of(Bake.execute, model, ONE)
routed, routed_words = Apply.execute(model, clip, bank, key_value_routing="token").args
found["bake tokens"] = error_of(Bake.execute, routed, encode(routed_words, "a <v11> <v12>"))

# A compiled block (all of the UNet would take ten times as long to trace) with attention as on a
# GPU (what a CPU has by itself takes three times as long), with the guards that TorchCompileModel
# leaves out.
attention.optimized_attention = attention.optimized_attention_masked = attention.attention_pytorch
compiled = taught.clone()
filtered = {"guard_filter_fn": compiling.skip_torch_compile_dict}
block = "diffusion_model.middle_block.1.transformer_blocks.0"
set_torch_compile_wrapper(model=compiled, backend="eager", options=filtered, keys=[block])
pair = encode(words, "a <v21> <v22> and a <v31> <v32>")
found["compiled"] = [
    differ(one, draw(by=compiled)),
    differ(draw(pair), draw(pair, by=compiled)),
    differ(one, draw(by=compiled)),
    differ(*(regional([(ONE,), (pair,)], pair, by=by) for by in (taught, compiled))),
]
found["left behind"] = [
    n for n, m in model.model.diffusion_model.named_modules() if "forward" in m.__dict__
]
report(found)
