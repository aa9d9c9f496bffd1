"""What a training leaves behind in the host's process, and which models it refuses."""

import errno
import gc
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as memory
import comfy.sd
import concepts
import inside
import small
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from concepts import error_of

keep = torch.inference_mode()  # as the host runs nodes
keep.__enter__()
node = inside.pack("nodes.training.train").TrainConcept
methods, ahead = inside.pack("nodes.training.methods"), inside.pack("nodes.training.ahead")
METHOD_ONLY = {"precision", "lr_lora", "lr_tokens", "batch_size", "gradient_checkpointing"}
base, progress = inside.pack("nodes.host.base"), inside.pack("nodes.training.progress")
Bank = inside.pack("cidm_core.bank").Bank
atomic, loop = inside.pack("cidm_core.storage.atomic"), inside.pack("cidm_core.training.loop")
errors = inside.pack("cidm_core.errors")
folder = Path(tempfile.mkdtemp())
model, clip = small.opened("SD15", sys.argv[1])
vae = concepts.tiny_vae()
images = torch.rand(2, 96, 80, 3, generator=torch.Generator().manual_seed(0))


class Node(node):
    hidden = SimpleNamespace(unique_id=None, prompt=None)


def learn(bank, word="dog", **more):
    settings = {"rank": 4, "resolution_px": 64, "variants": 2, "preview_every": 0, "save_every": 0}
    settings = {name: more.pop(name, value) for name, value in settings.items()}
    settings |= {name: more.pop(name) for name in METHOD_ONLY & more.keys()}
    given = {"preset": "Balanced", "steps": 2, "seed": 0, "kind": "object"}
    given |= {"method": methods.MethodCidm.execute(**settings).args[0]}
    given |= {"words": f"<{word}1> <{word}2>", "class_words": word, "bank": bank}
    given |= {"model": model, "clip": clip, "vae": vae, "images": images, **more}
    return Node.execute(**{key: [value] for key, value in given.items()})


def tensor_bytes():
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    stores = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}
    return sum(stores.values())


def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) // 256


def refusal(call):
    try:
        call()
    except errors.CidmError as error:
        return str(error)
    return "accepted"


def name_of(call):
    """The kind of error, and nothing that would keep its frames alive."""
    try:
        call()
    except BaseException as error:
        return type(error).__name__, str(error)
    return "none", ""


def snapshot():
    """All weights of the host's model and text encoder."""
    parts = (model.model.state_dict(), clip.cond_stage_model.state_dict())
    return [(key, value.clone()) for part in parts for key, value in part.items()]


bank = Bank(folder / "bank")
held = snapshot()
lora = learn(bank).args[3]  # the first run imports and fills caches
torch.manual_seed(0)
generator, before, rss = torch.random.get_rng_state(), tensor_bytes(), [rss_mb()]
made = learn(bank, "cat", preset="Low VRAM")
del made
found = {"bytes_before": before, "bytes_after": tensor_bytes(), "rss_mb": [*rss, rss_mb()]}
found["models_after"] = len(memory.current_loaded_models)
found["modes"] = [torch.is_inference_mode_enabled(), torch.is_grad_enabled()]
found["same_generator"] = bool(torch.equal(generator, torch.random.get_rng_state()))
pairs = zip(held, snapshot(), strict=True)
found["same_weights"] = all(k == n and torch.equal(a, b) for (k, a), (n, b) in pairs)
found["patches"] = len(model.patches) + len(clip.patcher.patches)
del held, pairs

# A LoRA on the sockets, loaded into the weights, changes nothing.
patched, _ = comfy.sd.load_lora_for_models(model, clip, lora, 5.0, 1.0)
memory.load_models_gpu([patched])
with torch.inference_mode(False):
    with base.base_of(patched, clip, vae, "fp32") as with_lora:
        one = [p.clone() for p in with_lora.unet.parameters()]
    memory.unload_all_models()
    with base.base_of(model, clip, vae, "fp32") as without:
        found["lora_left_out"] = all(map(torch.equal, one, without.unet.parameters()))
del patched, one, with_lora, without

# Prompts further on in the graph, where a file may bring words that only it knows.
found["ahead"] = []
for words in ("", "<cat1> <cat2>"):
    graph = {
        "file": {"class_type": "CIDM_ImportConcept", "inputs": {"words": words}},
        "train": {"class_type": "CIDM_TrainConcept", "inputs": {"words": "<dog1> <dog2>"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["train", 0], "text": "<fox>"}},
    }
    found["ahead"].append(error_of(ahead.check_prompts_after, graph, "train", bank))

# Runs that end early.
failing = Bank(folder / "failing")
before = tensor_bytes()
ended = []


def three_bad_steps(self):
    raise errors.TrainingError("three bad steps")


step, loop.Loop._one_step = loop.Loop._one_step, three_bad_steps
ended.append(name_of(lambda: learn(failing)))
loop.Loop._one_step = step

show = progress.Reporter.on_progress


def cancel_before_preview(self, event):
    show(self, event)
    if event.phase == "learning" and event.step == 1:
        memory.interrupt_current_processing(True)


progress.Reporter.on_progress = cancel_before_preview
ended.append(name_of(lambda: learn(failing, preview_every=1)))
progress.Reporter.on_progress = show
found["flag_cleared"] = not memory.processing_interrupted()
replace = atomic._replace


def full(target, data):
    if target.suffix == ".safetensors":
        raise OSError(errno.ENOSPC, "No space left on device")
    replace(target, data)


atomic._replace = full
ended.append(name_of(lambda: learn(failing)))
atomic._replace = replace
found["ended"] = [name for name, _ in ended]
found["disk"] = ended[-1][1]
found["bytes_after_failing"] = tensor_bytes() - before
found["concepts"] = len(failing)
loop.Loop._one_step = three_bad_steps  # all steps are done already: only the storing is left
learn(failing)
loop.Loop._one_step = step
found["concepts_in_the_end"] = list(failing)

# What cannot be learned on.
odd = torch.zeros(2, 2)
wide = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
unet_weights = base._unet_weights
found["refused"] = {
    "scales": refusal(lambda: base._weights({"a.weight": odd, "a.weight_scale": odd})),
    "integers": refusal(lambda: base._weights({"a.weight": odd.to(torch.int8)})),
}
marked = folder / "marked.safetensors"
marked.symlink_to(sys.argv[1])
marked.with_suffix(".yaml").write_text('parameterization: "v"')
as_noise = model.clone()
as_noise.cached_patcher_init = (None, (str(marked),))
none = comfy.sd.VAE(sd={})  # as loaders give it for a checkpoint without one
found["refused"]["no VAE"] = error_of(lambda: learn(failing, "cat", vae=none))
found["refused"]["no CLIP"] = error_of(lambda: learn(failing, "cat", clip=None))
found["refused"]["v taken for noise"] = refusal(lambda: learn(failing, model=as_noise))
[as_v] = ModelSamplingDiscrete().patch(as_noise, "v_prediction", zsnr=True)
with torch.inference_mode(False), base.base_of(as_v, clip, vae, "fp32") as taken:
    settings = taken.scheduler_config
    found["v"] = [taken.prediction_type, settings["timestep_spacing"], taken.name]
    found["expected"] = base.expected_base(as_v, "fp32").scheduler_config == settings
base._unet_weights = lambda model: unet_weights(model) | wide
found["refused"]["inpainting"] = refusal(lambda: base.base_of(model, clip, vae, "fp32").__enter__())
base._unet_weights = unet_weights
eight_bits = odd.to(torch.float8_e4m3fn)
found["plain_8_bits"] = refusal(lambda: base._weights({"a.weight": eight_bits}))

# Another VAE, and mini-sd.
taesd = inside.pack("nodes.host.vae").HostVae(vae, model.get_model_object("latent_format"))
latents = taesd.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
found["taesd"] = [list(latents.shape), list(taesd.decode(latents).sample.shape)]
mini, mini_clip, load = (
    inside.pack("nodes.mini.objects"),
    inside.pack("nodes.mini.clip"),
    inside.pack("cidm_core.diffusers_host.load").load_base,
)
with torch.inference_mode(False), torch.no_grad():
    own = load("mini-sd", device="cpu", dtype="fp32")
    sockets = (mini.model_of(own), mini_clip.clip_of(own), mini.vae_of(own))
    with base.base_of(*sockets, "fp32") as taken:
        draw = torch.Generator().manual_seed(1)
        noise, text = (
            torch.randn(1, 8, 8, 8, generator=draw),
            torch.randn(1, 48, 128, generator=draw),
        )
        ids, pixels = torch.arange(48)[None], torch.rand(1, 3, 32, 32, generator=draw) * 2 - 1
        when = torch.tensor([500])
        found["mini"] = [
            float((a - b).abs().max())
            for a, b in (
                (taken.unet(noise, when, text)[0], own.unet(noise, when, text)[0]),
                (taken.text_encoders[0](ids)[0], own.text_encoders[0](ids)[0]),
                (
                    taken.vae.encode(pixels).latent_dist.mode(),
                    own.vae.encode(pixels).latent_dist.mode() * own.vae.config.scaling_factor,
                ),
            )
        ]
        found["mini_same"] = [
            taken.fingerprint == own.fingerprint,
            taken.family.name,
            taken.scheduler_config["beta_end"] == own.scheduler_config["beta_end"],
        ]
look = methods.MethodInfusion.execute(
    resolution_px=64, variants=1, batch_size=1, accumulation=1, preview_every=0
)
shown = learn(Bank(folder / "look"), words="", class_words="dog", method=look.args[0])
found["unmasked"] = str(shown.ui)
shutil.rmtree(folder)
inside.report(found)
