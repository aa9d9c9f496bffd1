"""Random concepts for any model, and sampling by hand."""

import tempfile

import comfy.cldm.cldm
import comfy.controlnet
import comfy.samplers
import comfy.sd
import torch
from comfy.taesd.taesd import TAESD
from inside import pack


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def concept(facts, number, words):
    """Concept `c<number>` with large effects, for a model of these family, layers, fingerprint."""
    updates = {}
    for i, layer in enumerate(facts.layers):
        for j, projection in enumerate(("to_q", "to_k", "to_v", "to_out.0")):
            out, into = layer.shape(projection)
            seed = 1000 * number + 10 * i + j
            down, up = random(4, into, seed=seed) * into**-0.5, random(out, 4, seed=seed + 5) * 0.5
            name = f"{layer.path}.{projection}"
            updates[name] = pack("cidm_core.updates").LowRank(down, up, 4.0)
    rows = {
        row.name: random(len(words), len(facts.layers), row.dim, seed=number + 500 * i) * 0.05
        for i, row in enumerate(facts.family.encoders)
    }
    return pack("cidm_core.concept").Concept(
        name=f"c{number}",
        subjects=(pack("cidm_core.concept").Subject(words, "thing"),),
        family=facts.family.name,
        base=facts.fingerprint,
        layers=tuple(layer.path for layer in facts.layers),
        updates=updates,
        rows=rows,
    )


def bank(facts, count=3):
    """A bank of concepts c1 (<v11> <v12>), c2, ..."""
    made = pack("cidm_core.bank").Bank(tempfile.mkdtemp())
    for n in range(1, count + 1):
        made.add(concept(facts, n, (f"<v{n}1>", f"<v{n}2>")))
    return made


def tiny_vae():
    """ComfyUI's tiny autoencoder, of random weights."""
    draw = torch.Generator().manual_seed(0)
    return comfy.sd.VAE(
        sd={
            key: torch.randn(value.shape, generator=draw)
            / max(1, value.numel() // len(value)) ** 0.5
            if value.ndim
            else value
            for key, value in TAESD(latent_channels=4).state_dict().items()
        }
    )


def control_net(model):
    """A ControlNet of random weights for a MODEL, and a picture for it to read."""
    config = {**model.model.model_config.unet_config}
    config.pop("out_channels", None)
    net = comfy.cldm.cldm.ControlNet(
        **{**config, "hint_channels": 3, "dtype": torch.float32},
        operations=comfy.ops.disable_weight_init,
    )
    for number, parameter in enumerate(net.parameters()):
        parameter.copy_(random(*parameter.shape, seed=number) * 0.02)
    control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    return control, hint


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def plain_guider(model, positive, negative, cfg):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def sample(guider, noise, sigmas, sampler="euler", **options):
    return guider.sample(
        noise,
        options.pop("latent_image", torch.zeros_like(noise)),
        comfy.samplers.sampler_object(sampler),
        torch.tensor(sigmas),
        seed=0,
        disable_pbar=True,
        **options,
    )


def differ(a, b):
    """The largest difference of two tensors."""
    return float((a - b).abs().max())


def error_of(function, *args, **kwargs):
    """What a call ends with: the error in words, or None."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
