"""Largest differences between mini-sd's parts in ComfyUI and in diffusers."""

import sys
import time

import inside
import torch
from safetensors.torch import save_file

core = inside.pack("cidm_core.diffusers_host.load")
mini = inside.pack("nodes.mini.load")
TEXTS = ("a photo of a red cat", "two dogs, striped, on the left", "", "tiny house " * 9)


def gap(a, b):
    return float((a - b).abs().max())


@torch.inference_mode()
def main(out):
    start = time.perf_counter()
    model, clip, vae = mini.LoadMiniModel.execute().result[:3]
    seconds = time.perf_counter() - start
    base = core.load_base("mini-sd", device="cpu", dtype="fp32")
    tokenizer, encoder = base.tokenizers[0], base.text_encoders[0]
    found = {"seconds": seconds, "text": 0.0, "scale": {}}
    contexts = []
    for text in TEXTS:
        ids = tokenizer(text, padding="max_length", max_length=48, return_tensors="pt").input_ids
        contexts.append(encoder(ids)[0])
        found["text"] = max(found["text"], gap(clip.encode(text).float(), contexts[-1]))
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 8, 16, generator=noise)
    context = torch.cat([contexts[0], contexts[2]])
    inner = model.model.diffusion_model
    found["unet"] = max(
        gap(
            inner(x, torch.full((2,), float(t)), context=context),
            base.unet(x, t, encoder_hidden_states=context).sample,
        )
        for t in (1, 500, 999)
    )
    found["scale"]["unet"] = float(base.unet(x, 500, encoder_hidden_states=context).sample.std())
    found["scale"]["text"] = float(contexts[0].std())
    pixels = torch.rand(1, 32, 64, 3, generator=noise)
    latents = base.vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    found["encode"] = gap(vae.encode(pixels), latents)
    plain = base.vae.decode(latents).sample.movedim(1, -1) / 2 + 0.5
    found["decode"] = gap(vae.decode(latents), plain.clamp(0, 1))
    sigma = model.get_model_object("model_sampling").sigmas
    betas = torch.linspace(0.00085**0.5, 0.024**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    found["sigmas"] = gap(sigma.double() / ((1 - alphas) / alphas).sqrt(), torch.ones(1000))
    # An ordinary LoRA on every attn2 projection, under kohya's names.
    lora = {}
    for layer in base.layers:
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            key = f"lora_unet_{layer.path}.{name}".replace(".", "_")
            rows, columns = layer.shape(name)
            lora[f"{key}.lora_up.weight"] = torch.randn(rows, 2, generator=noise) * 0.1
            lora[f"{key}.lora_down.weight"] = torch.randn(2, columns, generator=noise) * 0.1
            lora[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(lora, out)
    import comfy.sd

    patched, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    found["lora"] = [len(patched.patches), 4 * len(base.layers)]
    inside.report(found)


main(sys.argv[1])
