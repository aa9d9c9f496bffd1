"""Base models, offline: a checkpoint, a diffusers folder, mini-sd, or tensors in memory.

No network is touched: configurations come from the folder or from the tensors' shapes, and a
hub name is only looked up in the local cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ..checkpoints import compvis
from ..checkpoints.geometry import family_of
from ..checkpoints.schedule import SCHEDULE, schedule_of, schedule_of_file, without_signal
from ..checkpoints.weights import PICKLES, Weights, open_sharded, open_weights
from ..devices import choose_device, choose_dtype
from ..errors import FamilyError, HostError
from ..paths import user_path
from .base import Base, assemble
from .build import Target, build
from .tokenizer import load_tokenizer

MINI_SD = "mini-sd"
_MINI_FOLDER = Path(__file__).parent.parent / "mini" / "sd"
_FOLDERS = ("unet", "vae", "text_encoder")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_OLD_VAE = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def load_base(
    model: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: str | Path | None = None,
) -> Base:
    """Load a base model from local files.

    Args:
        model: A Stable Diffusion 1.x checkpoint (`.safetensors`, or a `.ckpt` of plain tensors)
            in CompVis layout, a diffusers folder, the name of one in the local Hugging Face
            cache, or "mini-sd".
        device: Default: CUDA, else MPS, else the CPU.
        dtype: "fp32", "bf16", "fp16" or a torch type. Default: fp32 on the CPU, bf16 on CUDA
            that supports it, else fp16.
        tokenizer: A folder with vocab.json and merges.txt, or a tokenizer.json. Default: the
            folder `tokenizer` in the model folder or beside the checkpoint, else CLIP-L's in
            the local Hugging Face cache.

    Raises:
        FamilyError: If the model is not of a family concepts can be learned on.
        HostError: If the files are missing, damaged or incomplete, or the device or precision
            is not available.
    """
    place = choose_device(device)
    target = Target(place, choose_dtype(dtype, place))
    path = _find(model)
    load = _from_folder if path.is_dir() else _from_file
    try:
        return load(path, target, user_path(tokenizer) if tokenizer else None)
    except torch.OutOfMemoryError as error:
        raise HostError(
            f"{path.name} does not fit into the memory of {place}. Close other programs, or load "
            "it with dtype='fp16', or on device='cpu'."
        ) from error


def _find(model: str | Path) -> Path:
    if str(model) == MINI_SD:
        if not _MINI_FOLDER.is_dir():
            raise HostError(f"This installation lacks {_MINI_FOLDER}. Install the package again.")
        return _MINI_FOLDER
    path = user_path(model)
    if path.exists():
        return path
    name = str(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or path.suffix in (".safetensors", *PICKLES):
        raise HostError(
            f"There is no model at {path.absolute()}. Give a .safetensors checkpoint, a diffusers "
            f"folder, or {MINI_SD!r}."
        )
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise HostError(
            f"{name} is neither a local path nor in the Hugging Face cache, and nothing is "
            f"downloaded here. Fetch it once with `hf download {name}`, or give a checkpoint file."
        ) from error


def _from_file(path: Path, target: Target, given: Path | None) -> Base:
    weights = open_weights(path)
    name, shapes = path.name, weights.shapes
    compvis.check_kind(name, shapes)
    limit = family_of(name, compvis.unet_config(name, shapes)).encoders[0].max_tokens
    config = compvis.vae_config(name, shapes)
    vocabulary = compvis.clip_config(name, shapes)["vocab_size"]
    # Before the gigabytes: a missing tokenizer is the likeliest thing to go wrong.
    tokenizer = load_tokenizer(path.parent, given, vocabulary, limit)
    schedule = schedule_of_file(path, weights)
    vae = build("VAE", config, weights, lambda key: (compvis.vae_name(key, config),), target)
    return base_from_tensors(path.stem, weights, tokenizer, vae, target, scheduler_config=schedule)


def base_from_tensors(
    name: str,
    weights: Weights,
    tokenizer: Any,
    vae: Any,
    target: Target,
    *,
    scheduler_config: Mapping[str, Any] = SCHEDULE,
    heads: int = 8,
    text_heads: int | None = None,
) -> Base:
    """A base model of its own: every weight is copied, nothing of the other program is touched.

    Args:
        name: What messages and the bank call the model.
        weights: UNet and text encoder under the names of a CompVis checkpoint
            (`compvis.UNET` and `compvis.CLIP` before them).
        tokenizer: Of the text encoder, as transformers has it.
        vae: Anything with the few members of `AutoencoderKL` that are used here: a torch module
            with `encode(x).latent_dist.mode()`, `decode(z).sample`, `dtype` and `config`
            (`scaling_factor`, `latent_channels`, `block_out_channels`).
        target: Device and precision.
        scheduler_config: Noise schedule; see `schedule_of`.
        heads: Attention heads of the UNet, which no weight tells.
        text_heads: Attention heads of the text encoder. Default: one for every 64 channels.

    Raises:
        FamilyError: If the UNet is of no family concepts can be learned on.
        HostError: If a tensor is missing, quantised or of another shape, or the parts do not fit.
    """
    shapes = weights.shapes
    compvis.refuse_other_models(name, shapes)
    if f"{compvis.UNET}input_blocks.0.0.weight" not in shapes:
        raise FamilyError(
            f"{name} has no UNet as Stable Diffusion's. Concepts can be learned on Stable "
            "Diffusion 1.x for now; give such a checkpoint."
        )
    unet = compvis.unet_config(name, shapes) | {"attention_head_dim": heads}
    family = family_of(name, unet)
    row = family.encoders[0]
    clip = compvis.clip_config(name, shapes)
    clip["num_attention_heads"] = text_heads or clip["num_attention_heads"]
    if clip["hidden_size"] != row.dim:  # before the gigabytes
        raise HostError(
            f"The text encoder of {name} is {clip['hidden_size']} wide; {family.name} needs "
            f"{row.dim}. Give the model's own text encoder."
        )
    return assemble(
        build("UNet", unet, weights, lambda key: (compvis.unet_name(key, unet),), target),
        vae,
        (build("text encoder", clip, weights, compvis.clip_names, target),),
        (tokenizer,),
        name=name,
        scheduler_config=scheduler_config,
    )


def _from_folder(path: Path, target: Target, given: Path | None) -> Base:
    name = path.name if path != _MINI_FOLDER else MINI_SD
    if missing := [part for part in _FOLDERS if not (path / part / "config.json").is_file()]:
        inside = sorted(entry.name for entry in path.iterdir())[:8]
        raise HostError(
            f"{path} is no diffusers folder of a Stable Diffusion 1.x model: no "
            f"{', no '.join(part + '/config.json' for part in missing)}. It holds "
            f"{', '.join(inside) or 'nothing'}. Give the model's own folder, or a checkpoint file."
        )
    unet, vae, clip = (_json(path / part / "config.json") for part in _FOLDERS)
    family = family_of(name, unet)
    limit = family.encoders[0].max_tokens
    tokenizer = load_tokenizer(path, given, int(clip.get("vocab_size", 49408)), limit)
    schedule = path / "scheduler" / "scheduler_config.json"
    settings = _json(schedule) if schedule.is_file() else dict(SCHEDULE)
    if settings.pop("rescale_betas_zero_snr", False):  # half of the schedulers pass over it
        plain: Any = DDPMScheduler.from_config(settings)
        settings |= schedule_of(without_signal(plain.alphas_cumprod)) | settings
    return assemble(
        build("UNet", unet, _part(path / "unet"), lambda key: (key,), target),
        build("VAE", vae, _part(path / "vae"), _vae_names, target),
        (build("text encoder", clip, _part(path / "text_encoder"), _clip_names, target),),
        (tokenizer,),
        name=name,
        scheduler_config={k: v for k, v in settings.items() if not k.startswith("_")},
    )


def _vae_names(key: str) -> tuple[str, ...]:
    """Folders of before 2023 name the attention of the VAE differently."""
    return key, re.sub("|".join(_OLD_VAE), lambda match: _OLD_VAE[match[0]], key)


def _clip_names(key: str) -> tuple[str, ...]:
    """With and without the inner level that transformers 5 dropped."""
    bare = key.removeprefix("text_model.")
    return f"text_model.{bare}", bare


def _part(folder: Path) -> Weights:
    """The weights of one part; whole before fp16, safetensors before pickles."""
    for ending in (".safetensors", ".bin"):
        for variant in ("", ".fp16"):
            for stem in _STEMS:
                if (path := folder / f"{stem}{variant}{ending}").is_file():
                    return open_weights(path)
                index = folder / f"{stem}{ending}.index{variant}.json"
                if ending == ".safetensors" and index.is_file():
                    return open_sharded(index)
    inside = ", ".join(sorted(entry.name for entry in folder.iterdir()))
    raise HostError(
        f"{folder} has no weights ({_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors); it holds "
        f"{inside}. The download is incomplete; get the folder again."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HostError(f"{path} cannot be read ({error}). Get the folder again.") from error
    if not isinstance(found, dict):
        raise HostError(f"{path} is no configuration. Get the folder again.")
    return found
