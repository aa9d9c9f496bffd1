"""The mini models in ComfyUI: the numbers of the diffusers host, and pictures by stock nodes."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def drawing(text="a photo of a red cat", seed=1, px=32, model="mini-sd"):
    return {
        "load": node("CIDM_LoadMiniModel", model=model),
        "positive": node("CLIPTextEncode", clip=["load", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["load", 1], text=""),
        "latent": node("EmptyLatentImage", width=px, height=px, batch_size=1),
        "sample": node(
            "KSampler",
            model=["load", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=30,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="mini"),
    }


def pixels(picture):
    values = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return values.reshape(*picture.size[::-1], 3)


def is_red(picture):
    """Whether the middle of the picture is of one red thing."""
    height, width = picture.size[1], picture.size[0]
    middle = pixels(picture)[height // 2 - 2 : height // 2 + 8, width // 2 - 3 : width // 2 + 3]
    red, green, blue = middle.float().reshape(-1, 3).median(0).values.tolist()
    return red > 150 and max(green, blue) < 100


@pytest.fixture(scope="module")
def compared(in_host, tmp_path_factory):
    script = Path(__file__).parent / "inside" / "mini_parity.py"
    return in_host(script, tmp_path_factory.mktemp("mini") / "lora.safetensors")


@pytest.mark.parametrize("model", ["mini-sd", "mini-sdxl"])
def test_every_part_computes_what_diffusers_computes(compared, model):
    found = compared[model]
    # Hidden states are 0.3 and eps 1.0 large; what is left is the order of float32 sums.
    assert found["text"] < 1e-5
    assert found["pooled"] < 1e-5
    assert found["unet"] < 1e-5
    assert found["encode"] < 1e-5
    assert found["decode"] < 1e-5
    assert found["sigmas"] < 1e-6
    patched, expected = found["lora"]
    assert patched == expected


@pytest.mark.parametrize("model", ["mini-sd", "mini-sdxl"])
def test_stock_nodes_draw_a_red_cat(server, model):
    result = server.run(drawing(model=model))
    assert result.status == "success", result.error
    (picture,) = server.pictures(result, "save")
    assert picture.size == (32, 32)
    assert is_red(picture)
    assert result.previews  # latent2rgb works with 8 channels


def test_the_guider_path_an_encoded_picture_and_a_lora(server, base):
    lora = base / "models" / "loras" / "none.safetensors"
    lora.parent.mkdir(exist_ok=True)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    weights = {f"{key}.lora_up.weight": torch.zeros(96, 1), f"{key}.alpha": torch.tensor(1.0)}
    save_file(weights | {f"{key}.lora_down.weight": torch.ones(1, 128)}, lora)
    Image.new("RGB", (32, 32), (40, 90, 40)).save(base / "input" / "green.png")
    prompt = drawing()
    prompt["lora"] = node("LoraLoader", model=["load", 0], clip=["load", 1])
    prompt["lora"]["inputs"] |= {"lora_name": lora.name, "strength_model": 1, "strength_clip": 1}
    prompt["photo"] = node("LoadImage", image="green.png")
    prompt["latent"] = node("VAEEncode", pixels=["photo", 0], vae=["load", 2])
    prompt["noise"] = node("RandomNoise", noise_seed=1)
    prompt["sampler"] = node("KSamplerSelect", sampler_name="dpmpp_2m")
    prompt["sigmas"] = node("BasicScheduler", model=["lora", 0], scheduler="normal", steps=20)
    prompt["sigmas"]["inputs"]["denoise"] = 1.0
    prompt["guider"] = node(
        "CFGGuider", model=["lora", 0], positive=["positive", 0], negative=["negative", 0], cfg=4.0
    )
    prompt["sample"] = node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0])
    prompt["sample"]["inputs"] |= {
        "sampler": ["sampler", 0],
        "sigmas": ["sigmas", 0],
        "latent_image": ["latent", 0],
    }
    result = server.run(prompt)
    assert result.status == "success", result.error
    (picture,) = server.pictures(result, "save")
    assert is_red(picture)
    assert "NOT LOADED" not in server.log_text()
