"""Largest differences between the mini models' parts in ComfyUI and in diffusers."""

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


def expected_text(base, text):
    """States of all encoders side by side, and the pooled text, by transformers' own calls."""
    states, pooled = [], None
    for row, tokenizer, encoder in zip(
        base.family.encoders, base.tokenizers, base.text_encoders, strict=True
    ):
        ids = tokenizer(text, truncation=True, max_length=48).input_ids
        pad = tokenizer.pad_token_id if row.pad_id is None else row.pad_id
        ids = torch.tensor([ids + [pad] * (48 - len(ids))])
        output = encoder(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2] if row.penultimate else output[0])
        pooled = output.text_embeds if row.pooled else pooled
    return torch.cat(states, -1), pooled


@torch.inference_mode()
def compared(name, out):
    start = time.perf_counter()
    model, clip, vae = mini.LoadMiniModel.execute(name).result[:3]
    seconds = time.perf_counter() - start
    base = core.load_base(name, device="cpu", dtype="fp32")
    found = {"seconds": seconds, "text": 0.0, "pooled": 0.0}
    contexts, vectors = [], []
    for text in TEXTS:
        states, pooled = expected_text(base, text)
        contexts.append(states)
        got = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        found["text"] = max(found["text"], gap(got[0].float(), states))
        if pooled is not None:
            vectors.append(pooled)
            found["pooled"] = max(found["pooled"], gap(got[1].float(), pooled))
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 8, 16, generator=noise)
    context = torch.cat([contexts[0], contexts[2]])
    inner = model.model.diffusion_model
    theirs, ours = {}, {}
    if vectors:
        pooled = torch.cat([vectors[0], vectors[2]])
        size = {"height": 8 * 8, "width": 16 * 8}  # as the host's samplers tell it
        theirs = {"y": model.model.encode_adm(pooled_output=pooled, noise=x, **size)}
        ids = torch.tensor([[32.0, 64, 0, 0, 32, 64]] * 2)
        ours = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
    found["unet"] = max(
        gap(
            inner(x, torch.full((2,), float(t)), context=context, **theirs),
            base.unet(x, t, encoder_hidden_states=context, **ours).sample,
        )
        for t in (1, 500, 999)
    )
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
    return found


inside.report({name: compared(name, sys.argv[1]) for name in mini.MINI_MODELS})
