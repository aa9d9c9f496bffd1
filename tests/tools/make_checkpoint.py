"""Write a Stable Diffusion checkpoint of random weights, in the formats real ones have.

    python tests/tools/make_checkpoint.py OUT [--preset tiny] [--dtype fp16] [--seed 0]
                                          [--layout compvis|diffusers]

compvis writes OUT (a `.safetensors` file) with a folder `tokenizer` beside it, diffusers writes
the folder OUT. Values depend on the seed and the parameter's name only, so both layouts of one
preset hold the same model. Tensors are made and written one by one.

tiny  SD 1.5 family, but 32 and 64 wide, one layer per block, a text encoder of one layer
slim  the blocks of SD 1.5 and its 16 cross-attention layers, 32 and 64 wide
mini  the family of mini-sd, but 32 wide (diffusers layout only)
host  the smallest that ComfyUI loads as SD 1.5: one level 320 wide, 4 cross-attention layers
words  one level 32 wide, CLIP's vocabulary and a text encoder of one layer, for ComfyUI, whose
       loader has to be told of it: 85 MB in fp16
l16   all 16 cross-attention layers of SD 1.5, every level 320 wide (ComfyUI loads it as SD 1.5)
full  the real geometry, 1.07 billion parameters, 2.1 GB in fp16
sdxl-tiny  SDXL family, but 32 and 64 wide, one layer per block, text encoders of two layers
sdxl-slim  the blocks of SDXL and its 70 cross-attention layers, 32 and 64 wide
sdxl-words  sdxl-tiny with CLIP's vocabulary and text encoders of three layers, for ComfyUI, whose
           loader has to be told of them: 240 MB in fp16
sdxl-host  the smallest that ComfyUI loads as an SDXL: Segmind Vega's blocks with attention in the
           middle one, so 17 cross-attention layers, 320 wide; the real text encoders, 1.9 GB
sdxl-full  the real geometry, 3.47 billion parameters, 6.9 GB in fp16
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from cidm_core.checkpoints.compvis import unet_name, vae_name
from cidm_core.checkpoints.schedule import SCHEDULE
from cidm_core.checkpoints.text_encoders import CLIP, CLIP_G, CLIP_L, OPENCLIP
from tests.tools.checkpoint_presets import PRESETS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
WORDS = (
    "a an the photo painting picture of in on and with dog cat duck toy bear cup house tree red "
    "green blue yellow small large style portrait person face left right front back by sitting"
)


KINDS = {
    "unet": UNet2DConditionModel.from_config,
    "vae": AutoencoderKL.from_config,
    "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
    "text_encoder_2": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
}


def skeletons(preset):
    """Modules without memory, by folder name."""
    with init_empty_weights(include_buffers=False):
        return {part: KINDS[part](config) for part, config in PRESETS[preset].items()}


def value(name, shape, seed):
    """Random values that keep activations near unit scale, float32, from seed and name alone."""
    leaf = name.rsplit(".", 1)[1]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    if len(shape) == 1:
        plain = torch.zeros(shape) if leaf == "bias" else torch.ones(shape)
        # Here a conversion could mix them up: three biases are one in OpenCLIP.
        is_mixed = name.startswith("text_encoder_2.")
        return plain + 0.1 * torch.randn(shape, generator=generator) if is_mixed else plain
    fan_in = shape[1:].numel()
    residual = ("conv2", "to_out.0", "proj_out", "ff.net.2", "out_proj", "fc2", "conv_out")
    gain = 0.3 if any(f".{part}." in f".{name}" for part in residual) else 1.0
    std = 0.02 if "embedding.weight" in name else gain / fan_in**0.5
    return std * torch.randn(shape, generator=generator)


def rows(preset, seed, layout) -> Iterator[tuple[str, str, torch.Size, object]]:
    """(part, name in the file, shape, function that makes the tensor) of every parameter."""
    configs = PRESETS[preset]
    for part, module in skeletons(preset).items():
        found = {}
        for name, parameter in module.named_parameters():
            bare = name.removeprefix("text_model.")
            make = partial(value, f"{part}.{bare}", parameter.shape, seed)
            # Files have the inner level, whatever the transformers version at hand.
            has_level = part.startswith("text_encoder") and not bare.startswith("text_projection")
            found[f"text_model.{bare}" if has_level else name] = (parameter.shape, make)
        if layout == "compvis":
            found = dict(as_compvis(part, configs, found))
        for key, (shape, make) in found.items():
            yield part, key, shape, make


def as_compvis(part, configs, found):
    """Names and shapes of a part in a single file."""
    if part == "text_encoder_2":
        yield from as_openclip(found)
        return
    clip = CLIP_L if "text_encoder_2" in configs else CLIP
    for name, (shape, make) in found.items():
        if part == "unet":
            yield unet_name(name, configs["unet"]), (shape, make)
        elif part == "text_encoder":
            yield clip + name, (shape, make)
        else:
            key = vae_name(name, configs["vae"])
            is_convolution = ".mid.attn_1." in key and len(shape) == 2
            yield key, (torch.Size((*shape, 1, 1)) if is_convolution else shape, make)


def as_openclip(found):
    """The second encoder as OpenCLIP has it: one tensor for q, k and v, the projection turned."""
    for name, (shape, make) in found.items():
        key = name.removeprefix("text_model.")
        for theirs, ours in OPENCLIP.items():
            key = key.replace(ours, theirs)
        if ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            key = key.replace("q_proj.", "in_proj_")
            three = [found[name.replace("q_proj", f"{letter}_proj")][1] for letter in "qkv"]
            shape = torch.Size((3 * shape[0], *shape[1:]))
            make = partial(lambda three: torch.cat([each() for each in three]), three)
        elif key == "text_projection.weight":
            key, shape = "text_projection", shape[::-1]
            make = partial(lambda make: make().T, make)
        yield CLIP_G + key, (shape, make)
    yield f"{CLIP_G}logit_scale", (torch.Size(()), lambda: torch.tensor(4.6052))


def write_safetensors(path, rows, dtype):
    """Stream tensors into a safetensors file: header, then one tensor after the other."""
    rows = list(rows)
    size = torch.empty(0, dtype=dtype).element_size()
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for key, shape, _ in rows:
        end = at + size * shape.numel()
        header[key] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, make in rows:
            file.write(
                make().to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )


def byte_symbols():
    """The printable stand-in of each byte value, as byte-level tokenizers define them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(moved)) for b in range(256)]


def write_tokenizer(folder, size, pad=None):
    """A CLIP tokenizer of `size` tokens that reads any text; common words are one token.

    With a token `pad` the symbols have CLIP's order, in which "!" is 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    symbols = sorted(byte_symbols()) if pad else byte_symbols()
    tokens = symbols + [f"{s}</w>" for s in symbols]
    merges = []
    for word in WORDS.split():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    merges = list(dict.fromkeys(merges))
    tokens += ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens))
    tokens += [f"<|unused{i}|>" for i in range(size - 2 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    if len(tokens) != size:
        raise ValueError(f"{size} tokens are too few for the {len(tokens)} of the word list.")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 8192,  # as ComfyUI's; the loader must not believe it
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad or "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), "utf-8")


def write_tokenizers(folder, preset, layout):
    """`tokenizer`, and for SDXL in a diffusers folder `tokenizer_2`."""
    size = PRESETS[preset]["text_encoder"]["vocab_size"]
    is_sdxl = "text_encoder_2" in PRESETS[preset]
    write_tokenizer(folder / "tokenizer", size, "<|endoftext|>" if is_sdxl else None)
    if is_sdxl and layout == "diffusers":
        write_tokenizer(folder / "tokenizer_2", size, "!")


def write_compvis(out, preset="tiny", dtype="fp16", seed=0, tokenizer=True):
    out.parent.mkdir(parents=True, exist_ok=True)
    found = [(key, shape, make) for _, key, shape, make in rows(preset, seed, "compvis")]
    write_safetensors(out, found, DTYPES[dtype])
    if tokenizer:
        write_tokenizers(out.parent, preset, "compvis")


def write_diffusers(out, preset="tiny", dtype="fp16", seed=0, variant=""):
    kinds = {
        "unet": ("UNet2DConditionModel", "diffusion_pytorch_model"),
        "vae": ("AutoencoderKL", "diffusion_pytorch_model"),
        "text_encoder": ("CLIPTextModel", "model"),
        "text_encoder_2": ("CLIPTextModelWithProjection", "model"),
    }
    parts: dict[str, list] = {part: [] for part in PRESETS[preset]}
    for part, key, shape, make in rows(preset, seed, "diffusers"):
        parts[part].append((key, shape, make))
    is_sdxl = "text_encoder_2" in parts
    index = {"_class_name": f"StableDiffusion{'XL' if is_sdxl else ''}Pipeline"}
    scheduler = "EulerDiscreteScheduler" if is_sdxl else "PNDMScheduler"
    index |= {"scheduler": ["diffusers", scheduler], "tokenizer": ["transformers", "CLIPTokenizer"]}
    if is_sdxl:
        index |= {"tokenizer_2": index["tokenizer"], "force_zeros_for_empty_prompt": True}
    for part, found in parts.items():
        kind, stem = kinds[part]
        (out / part).mkdir(parents=True, exist_ok=True)
        config = {"_class_name": kind, **PRESETS[preset][part]}
        if part.startswith("text_encoder"):
            config = {"architectures": [kind], "model_type": "clip_text_model", **config}
        (out / part / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
        write_safetensors(out / part / f"{stem}{variant}.safetensors", found, DTYPES[dtype])
        index[part] = ["transformers" if part.startswith("text") else "diffusers", kind]
    (out / "scheduler").mkdir(exist_ok=True)
    schedule = {"_class_name": scheduler, **SCHEDULE}
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule, indent=1))
    (out / "model_index.json").write_text(json.dumps(index, indent=1), "utf-8")
    write_tokenizers(out, preset, "diffusers")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=("compvis", "diffusers"), default="compvis")
    args = parser.parse_args()
    write = write_compvis if args.layout == "compvis" else write_diffusers
    write(args.out, args.preset, args.dtype, args.seed)
    files = [args.out] if args.out.is_file() else [p for p in args.out.rglob("*") if p.is_file()]
    print(f"{args.out}: {args.preset}, {sum(p.stat().st_size for p in files) / 1e6:.1f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
