"""Write a Stable Diffusion 1.x checkpoint of random weights, in the formats real ones have.

    python tests/tools/make_checkpoint.py OUT [--preset tiny|slim|mini|host|l16|full] [--dtype fp16]
                                          [--seed 0] [--layout compvis|diffusers]

compvis writes OUT (a `.safetensors` file) with a folder `tokenizer` beside it, diffusers writes
the folder OUT. Values depend on the seed and the parameter's name only, so both layouts of one
preset hold the same model. Tensors are made and written one by one.

tiny  SD 1.5 family, but 32 and 64 wide, one layer per block, a text encoder of one layer
slim  the blocks of SD 1.5 and its 16 cross-attention layers, 32 and 64 wide
mini  the family of mini-sd, but 32 wide (diffusers layout only)
host  the smallest that ComfyUI loads as SD 1.5: one level 320 wide, 4 cross-attention layers
l16   all 16 cross-attention layers of SD 1.5, every level 320 wide (ComfyUI loads it as SD 1.5)
full  the real geometry, 1.07 billion parameters, 2.1 GB in fp16
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from cidm_core.checkpoints.compvis import clip_names, unet_name, vae_name
from cidm_core.checkpoints.schedule import SCHEDULE

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
WORDS = (
    "a an the photo painting picture of in on and with dog cat duck toy bear cup house tree red "
    "green blue yellow small large style portrait person face left right front back by sitting"
)


def unet_config(widths, depths, layers):
    return {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    }


def vae_config(widths, layers):
    return {
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def clip_config(layers, intermediate, vocabulary):
    return {
        "vocab_size": vocabulary,
        "hidden_size": 768,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


_FULL_VAE = vae_config((128, 256, 512, 512), 2)
_FULL_CLIP = clip_config(12, 3072, 49408)
PRESETS = {
    "tiny": {
        "unet": unet_config((32, 64), (1, 1), 1),
        "vae": vae_config((32, 32, 32, 32), 1),
        "text_encoder": clip_config(1, 64, 768),
    },
    "slim": {
        "unet": unet_config((32, 64, 64, 64), (1, 1, 1, 0), 2),
        "vae": vae_config((32, 32, 64, 64), 2),
        "text_encoder": clip_config(2, 64, 768),
    },
    "mini": {
        "unet": {
            **unet_config((32, 32), (1, 1), 1),
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": 128,
            "attention_head_dim": 4,
        },
        "vae": {**vae_config((32, 32, 32), 1), "latent_channels": 8, "scaling_factor": 1.0},
        "text_encoder": {
            **clip_config(1, 64, 768),
            "hidden_size": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 48,
        },
    },
    "host": {
        "unet": unet_config((320,), (1,), 1),
        "vae": _FULL_VAE,
        "text_encoder": _FULL_CLIP,
    },
    "l16": {
        "unet": unet_config((320,) * 4, (1, 1, 1, 0), 2),
        "vae": _FULL_VAE,
        "text_encoder": _FULL_CLIP,
    },
    "full": {
        "unet": unet_config((320, 640, 1280, 1280), (1, 1, 1, 0), 2),
        "vae": _FULL_VAE,
        "text_encoder": _FULL_CLIP,
    },
}


def skeletons(preset):
    """Modules without memory, by folder name."""
    configs = PRESETS[preset]
    with init_empty_weights(include_buffers=False):
        return {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }


def value(name, shape, seed):
    """Random values that keep activations near unit scale, float32, from seed and name alone."""
    leaf = name.rsplit(".", 1)[1]
    if leaf == "bias":
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    fan_in = shape[1:].numel()
    residual = ("conv2", "to_out.0", "proj_out", "ff.net.2", "out_proj", "fc2", "conv_out")
    gain = 0.3 if any(f".{part}." in f".{name}" for part in residual) else 1.0
    std = 0.02 if "embedding.weight" in name else gain / fan_in**0.5
    return std * torch.randn(shape, generator=generator)


def rows(preset, seed, layout) -> Iterator[tuple[str, str, torch.Size, object]]:
    """(part, name in the file, shape, function that makes the tensor) of every parameter."""
    configs = PRESETS[preset]
    for part, module in skeletons(preset).items():
        for name, parameter in module.named_parameters():
            key, shape = name, parameter.shape
            if part == "text_encoder":
                # Files have the inner level, whatever the transformers version at hand.
                key = clip_names(name)[0].split("transformer.", 1)[1]
            if layout == "compvis":
                if part == "unet":
                    key = unet_name(name, configs["unet"])
                elif part == "text_encoder":
                    key = clip_names(name)[0]
                else:
                    key = vae_name(name, configs["vae"])
                    if ".mid.attn_1." in key and len(shape) == 2:
                        shape = torch.Size((*shape, 1, 1))
            seeded = f"{part}.{name.removeprefix('text_model.')}"
            plain = parameter.shape
            yield part, key, shape, lambda n=seeded, s=plain: value(n, s, seed)


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
            file.write(make().to(dtype).contiguous().view(torch.uint8).numpy().tobytes())


def byte_symbols():
    """The printable stand-in of each byte value, as byte-level tokenizers define them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(moved)) for b in range(256)]


def write_tokenizer(folder, size):
    """A CLIP tokenizer of `size` tokens that reads any text; common words are one token."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
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
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), "utf-8")


def write_compvis(out, preset="tiny", dtype="fp16", seed=0, tokenizer=True):
    out.parent.mkdir(parents=True, exist_ok=True)
    found = [(key, shape, make) for _, key, shape, make in rows(preset, seed, "compvis")]
    write_safetensors(out, found, DTYPES[dtype])
    if tokenizer:
        write_tokenizer(out.parent / "tokenizer", PRESETS[preset]["text_encoder"]["vocab_size"])


def write_diffusers(out, preset="tiny", dtype="fp16", seed=0, variant=""):
    kinds = {
        "unet": ("UNet2DConditionModel", "diffusion_pytorch_model"),
        "vae": ("AutoencoderKL", "diffusion_pytorch_model"),
        "text_encoder": ("CLIPTextModel", "model"),
    }
    parts: dict[str, list] = {part: [] for part in kinds}
    for part, key, shape, make in rows(preset, seed, "diffusers"):
        parts[part].append((key, shape, make))
    index = {"_class_name": "StableDiffusionPipeline"}
    for part, (kind, stem) in kinds.items():
        (out / part).mkdir(parents=True, exist_ok=True)
        config = {"_class_name": kind, **PRESETS[preset][part]}
        if part == "text_encoder":
            config = {"architectures": [kind], "model_type": "clip_text_model", **config}
        (out / part / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
        write_safetensors(out / part / f"{stem}{variant}.safetensors", parts[part], DTYPES[dtype])
        index[part] = ["transformers" if part == "text_encoder" else "diffusers", kind]
    (out / "scheduler").mkdir(exist_ok=True)
    schedule = {"_class_name": "PNDMScheduler", **SCHEDULE}
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule, indent=1))
    (out / "model_index.json").write_text(json.dumps(index, indent=1), "utf-8")
    write_tokenizer(out / "tokenizer", PRESETS[preset]["text_encoder"]["vocab_size"])


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
