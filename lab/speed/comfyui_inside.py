"""The half of comfyui.py that runs inside ComfyUI's python; prints one line of JSON.

The UNet is SD 1.5's with random weights; its prompts are random too, so that no text encoder is
needed. Concepts are rank 4 on all 64 linear layers of cross-attention.
"""

import importlib
import importlib.util
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch

OPTIONS = json.loads(sys.argv[1])
_NAME = "/base/custom_nodes/ComfyUI-CIDM"  # ComfyUI names a pack by its path
SIGMAS = torch.tensor((10.0, 4.0, 1.0, 0.0))
torch.set_num_threads(1)
torch.set_grad_enabled(False)


def of_pack(part):
    if _NAME not in sys.modules:
        root = Path(__file__).resolve().parents[2]
        spec = importlib.util.spec_from_file_location(
            _NAME, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        sys.modules[_NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_NAME])
    return importlib.import_module(f"{_NAME}.{part}")


def random(*shape, seed=0, size=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def sd15(width):
    """SD 1.5's UNet, `width` channels at its first level."""
    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": width,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": (1, 2, 4, 4),
            "num_heads": 8,
            "use_spatial_transformer": True,
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "context_dim": 768,
            "use_linear_in_transformer": False,
            "use_checkpoint": False,
            "legacy": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config)
    for i, parameter in enumerate(model.parameters()):
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.copy_(random(*parameter.shape, seed=i, size=0.5 * fan**-0.5))
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def concept(facts, number, rank=4):
    updates = {}
    for i, layer in enumerate(facts.layers):
        for j, projection in enumerate(("to_q", "to_k", "to_v", "to_out.0")):
            out, into = layer.shape(projection)
            seed = 1000 * number + 10 * i + j
            updates[f"{layer.path}.{projection}"] = of_pack("cidm_core.updates").LowRank(
                random(rank, into, seed=seed, size=into**-0.5),
                random(out, rank, seed=seed + 5, size=0.05),
                float(rank),
            )
    tokens = random(2, len(facts.layers), facts.family.context_dim, seed=number, size=0.05)
    return of_pack("cidm_core.concept").Concept(
        name=f"c{number}",
        subjects=(of_pack("cidm_core.concept").Subject((f"<v{number}>", f"<w{number}>"), "thing"),),
        family=facts.family.name,
        base=facts.fingerprint,
        layers=facts.names if hasattr(facts, "names") else tuple(x.path for x in facts.layers),
        updates=updates,
        rows={"text_encoder": tokens},
    )


def look(facts):
    """A concept of Infusion, which "cat" calls."""
    core, updates = of_pack("cidm_core.concept"), of_pack("cidm_core.updates")
    layers = facts.layers
    return core.Concept(
        name="look",
        subjects=(core.Subject((), "cat"),),
        family=facts.family.name,
        base=facts.fingerprint,
        layers=tuple(layer.path for layer in layers),
        updates={
            f"{layer.path}.to_v": updates.ValueResidual(random(layer.width, seed=i))
            for i, layer in enumerate(layers)
        },
        rows={},
        two_streams=True,
    )


def conditioning(facts, concepts, seed, triggers=None):
    """A CONDITIONING as an encode node with an applied bank makes it."""
    prompts = of_pack("nodes.sampling.prompts")
    context = random(len(facts.layers), 77, 768, seed=seed)
    plain = context.mean(0, keepdim=True)
    weights = torch.full((len(facts.layers), len(concepts)), 1 / max(1, len(concepts)))
    held = context if concepts else plain
    names = "words" if concepts else ""
    encoded = of_pack("cidm_core.text")
    held = encoded.TextContext(held, None, encoded.Spans(triggers or {}))
    bank = SimpleNamespace(path="none")  # of concepts that no file holds
    known = {prompts.concept_id(bank, concept): concept for concept in concepts}
    prompt = prompts.ConceptPrompt(names, held, plain, known, weights, facts.names)
    return [[plain, prompt.options()]]


class Timed:
    """A guider whose UNet calls are timed: CPU seconds and rows of each but the first."""

    def __init__(self, guider, size):
        self.guider, self.noise = guider, random(1, 4, size, size, seed=1)
        self.seconds, self.rows = [], []
        guider.model_options = {**guider.model_options, "model_function_wrapper": self.call}

    def call(self, apply_model, args):
        started = time.process_time()
        found = apply_model(args["input"], args["timestep"], **args["c"])
        self.seconds.append(time.process_time() - started)
        self.rows.append(len(args["input"]))
        return found

    def run(self):
        self.seconds, self.rows = [], []
        sampler = comfy.samplers.sampler_object("euler")
        start = torch.zeros_like(self.noise)
        self.guider.sample(self.noise, start, sampler, SIGMAS, seed=0, disable_pbar=True)
        return self.seconds[1:]


def plain_guider(model, positive, negative):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(5.0)
    return guider


def interleaved(variants, rounds):
    names, seconds = list(variants), {name: [] for name in variants}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name] += variants[name].run()
    return seconds


def overhead():
    model = sd15(OPTIONS["width"])
    facts = of_pack("nodes.host.model").model_facts(model)
    taught = of_pack("nodes.sampling.banked").attach_hooks(
        model, facts, of_pack("cidm_core.config").SampleConfig()
    )
    concepts = [concept(facts, n) for n in range(max(OPTIONS["concepts"]))]
    size, negative = OPTIONS["size"], conditioning(facts, (), 2)
    variants = {
        "bare": Timed(plain_guider(model, [[negative[0][0], {}]], [[negative[0][0], {}]]), size)
    }
    for count in OPTIONS["concepts"]:
        positive = conditioning(facts, concepts[:count], 3)
        variants[f"{count} concepts"] = Timed(plain_guider(taught, positive, negative), size)
    held = [look(facts)]
    variants["two streams"] = Timed(
        plain_guider(taught, conditioning(facts, held, 3, {"cat": (5,)}), negative), size
    )
    found = {"calls": interleaved(variants, OPTIONS["rounds"])}
    node, sockets = of_pack("nodes.regions.guider"), of_pack("nodes.host.sockets")
    Region = of_pack("cidm_core.regions").Region
    settings = {"alpha": 0.1, "feather": 0.05, "region_mode": "partition"}
    settings |= {"region_weights": "per_region", "regional_attention": True}
    variants, positive = {}, conditioning(facts, concepts[:1], 3)
    for count in OPTIONS["regions"]:
        regions = tuple(
            sockets.RegionPrompt(
                Region("r", box=(u / count, 0.0, (u + 1) / count, 1.0)),
                conditioning(facts, [concepts[u % len(concepts)]], 4 + u),
            )
            for u in range(count)
        )
        guider = node.RegionalNoiseGuider.execute(
            taught, positive, negative, regions, 5.0, **settings, noise_estimation=True
        ).args[0]
        variants[f"{count} regions"] = Timed(guider, size)
        same = [[negative[0][0], {}]]
        bare = plain_guider(model, same * (count + 1), same)
        variants[f"bare, {count + 2} rows"] = Timed(bare, size)
    found["regions"] = interleaved(variants, OPTIONS["rounds"])
    found["rows"] = {
        name: {"rows": max(v.rows), "calls per step": len(v.rows) / (len(SIGMAS) - 1)}
        for name, v in variants.items()
    }
    return found


def first_step():
    """From Apply Concept Bank to the end of the first UNet call, with few and many concepts."""
    model, clip, _ = of_pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
    facts = of_pack("nodes.host.model").model_facts(model)
    apply = of_pack("nodes.sampling.apply")
    settings = {"weights": "gate", "top_k": 4, "strength": 1.0, "encoding": "per_task"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        banks = {}
        for count in OPTIONS["banks"]:
            banks[count] = of_pack("cidm_core.bank").Bank(Path(folder) / str(count))
            for n in range(count):
                banks[count].add(concept(facts, n, rank=1))

        def run(count):
            started = time.process_time()
            taught, words = apply.ApplyConceptBank.execute(
                model, clip, banks[count], **settings, allow_other_base=False
            ).args
            encode = lambda text: words.encode_from_tokens_scheduled(words.tokenize(text))  # noqa: E731
            guider = plain_guider(taught, encode("a photo of a <v1> <w1> in a house"), encode(""))
            noise, sampler = random(1, 8, 8, 8), comfy.samplers.sampler_object("euler")
            start, sigmas = torch.zeros_like(noise), torch.tensor((1.0, 0.0))
            guider.sample(noise, start, sampler, sigmas, seed=0, disable_pbar=True)
            return time.process_time() - started

        for count in banks:
            run(count)
        for _ in range(OPTIONS["rounds"]):
            for count in banks:
                found.setdefault(str(count), []).append(run(count))
    return found


print(
    json.dumps(
        {
            "first_step": first_step(),
            **overhead(),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
