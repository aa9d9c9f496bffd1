"""Base models, offline: a checkpoint, a diffusers folder, an embedded one, or tensors in memory.

No network is touched: configurations come from the folder or from the tensors' shapes, and a
hub name is only looked up in the local cache.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ..checkpoints import compvis
from ..checkpoints.geometry import family_of, layers_of
from ..checkpoints.kinds import check_kind, is_distilled, refuse_other_models
from ..checkpoints.schedule import SCHEDULE, Told, schedule_of, schedule_of_file, without_signal
from ..checkpoints.text_encoders import (
    clip_config,
    clip_names,
    prefixes_of,
    with_transformers_names,
)
from ..checkpoints.weights import PICKLES, Weights, open_weights
from ..devices import choose_device, choose_dtype
from ..errors import FamilyError, HostError
from ..families import Family
from ..paths import user_path
from .base import Base, assemble
from .build import Target, build
from .folders import json_of, part_of, text_names
from .tokenizer import load_tokenizer
from .vae import vae_apart, vae_of_file, vae_of_folder

logger = logging.getLogger(__name__)

MINI_SD, MINI_SDXL = "mini-sd", "mini-sdxl"
_FEW_STEPS = (
    "looks distilled to draw in a few steps (by its name). Learn on the model that it was made "
    "from, and draw with its concepts here, in few steps and with little guidance."
)
_MINI = Path(__file__).parent.parent / "mini"
_MINI_FOLDERS: Mapping[str, Path] = {MINI_SD: _MINI / "sd", MINI_SDXL: _MINI / "sdxl"}


def load_base(
    model: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
) -> Base:
    """Load a base model from local files.

    Args:
        model: A Stable Diffusion 1.x or XL checkpoint (`.safetensors`, or a `.ckpt` of plain
            tensors) in CompVis layout, a diffusers folder, the name of one in the local Hugging
            Face cache, "mini-sd" or "mini-sdxl".
        device: Default: CUDA, else MPS, else the CPU. On "meta" the model has shapes without
            numbers, loads at once, and is for `memory_needed` alone.
        dtype: "fp32", "bf16", "fp16" or a torch type. Default: fp32 on the CPU, bf16 on CUDA
            that supports it, else fp16.
        tokenizer: A folder with vocab.json and merges.txt, or a tokenizer.json. Default: the
            folder `tokenizer` in the model folder or beside the checkpoint, else CLIP-L's in
            the local Hugging Face cache. Both text encoders of SDXL read with it.
        vae: A VAE of its own, a file or a diffusers folder. Default: the model's.
        prediction: What the UNet predicts, "epsilon" or "v_prediction". Default: what marks in
            the file say, else epsilon.
        zero_terminal_snr: The model was trained with a last timestep that is noise alone.
            Default: what marks in the file say.

    Raises:
        FamilyError: If the model is of no known family.
        HostError: If the files are missing, damaged or incomplete, the device or precision
            is not available, or what is said of the prediction cannot be.
    """
    told = Told(prediction, zero_terminal_snr)
    place = choose_device(device)
    target = Target(place, choose_dtype(dtype, place))
    path = find_model(model)
    load = _from_folder if path.is_dir() else _from_file
    apart = user_path(vae) if vae else None
    try:
        return load(path, target, user_path(tokenizer) if tokenizer else None, apart, told)
    except torch.OutOfMemoryError as error:
        raise HostError(
            f"{path.name} does not fit into the memory of {place}. Close other programs, or load "
            "it with dtype='fp16', or on device='cpu'."
        ) from error


def find_model(model: str | Path) -> Path:
    """Where a model lies: a file, or a folder.

    Raises:
        HostError: If there is none.
    """
    if embedded := _MINI_FOLDERS.get(str(model)):
        if not embedded.is_dir():
            raise HostError(f"This installation lacks {embedded}. Install the package again.")
        return embedded
    path = user_path(model)
    if path.exists():
        return path
    name = str(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or path.suffix in (".safetensors", *PICKLES):
        raise HostError(
            f"There is no model at {path.absolute()}. Give a .safetensors checkpoint, a diffusers "
            f"folder, {MINI_SD!r} or {MINI_SDXL!r}."
        )
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise HostError(
            f"{name} is neither a local path nor in the Hugging Face cache, and nothing is "
            f"downloaded here. Fetch it once with `hf download {name}`, or give a checkpoint file."
        ) from error


def _from_file(
    path: Path, target: Target, given: Path | None, apart: Path | None, told: Told
) -> Base:
    weights = open_weights(path)
    name, shapes = path.name, weights.shapes
    check_kind(name, shapes, has_vae=apart is not None)
    if is_distilled(path.stem, weights.notes):
        logger.warning("%s %s", name, _FEW_STEPS)
    family = family_of(name, compvis.unet_config(name, shapes))
    if apart is None:
        compvis.vae_config(name, shapes)
    # Before the gigabytes: a missing tokenizer is the likeliest thing to go wrong.
    sizes = [config["vocab_size"] for config in text_configs(name, weights, family)]
    tokenizers = tokenizers_for(path.parent, given, sizes, family)
    schedule = schedule_of_file(path, weights, told)
    vae = vae_apart(apart, family, target) if apart else vae_of_file(weights, family, target)
    return base_from_tensors(path.stem, weights, tokenizers, vae, target, scheduler_config=schedule)


def tokenizers_for(
    folder: Path, given: Path | None, sizes: Sequence[int], family: Family
) -> tuple[Any, ...]:
    """One for each text encoder, from the number of its embeddings; see `load_tokenizer`."""
    rows = zip(sizes, family.encoders, strict=True)
    return tuple(load_tokenizer(folder, given, size, row) for size, row in rows)


def text_configs(name: str, weights: Weights, family: Family) -> list[dict[str, Any]]:
    """The configuration of each text encoder of a checkpoint."""
    weights = with_transformers_names(weights)
    rows = zip(family.encoders, prefixes_of(family), strict=True)
    return [clip_config(name, weights, row, prefix) for row, prefix in rows]


def base_from_tensors(
    name: str,
    weights: Weights,
    tokenizers: tuple[Any, ...],
    vae: Any,
    target: Target,
    *,
    scheduler_config: Mapping[str, Any] = SCHEDULE,
    heads: int | None = None,
    text_heads: Sequence[int] = (),
) -> Base:
    """A base model of its own: every weight is copied, nothing of the other program is touched.

    Args:
        name: What messages and the bank call the model.
        weights: UNet and text encoders under the names of a CompVis checkpoint
            (`compvis.UNET` and one of `text_encoders.prefixes_of` before them).
        tokenizers: One per text encoder, as transformers has it.
        vae: Anything with the few members of `AutoencoderKL` that are used here: a torch module
            with `encode(x).latent_dist.mode()`, `decode(z).sample`, `dtype` and `config`
            (`scaling_factor`, `latent_channels`, `block_out_channels`).
        target: Device and precision.
        scheduler_config: Noise schedule; see `schedule_of`.
        heads: Attention heads of the UNet, which no weight tells. Default: the family's, 8 in
            Stable Diffusion 1.x, one for every 64 channels in SDXL.
        text_heads: Attention heads of each text encoder. Default: one for every 64 channels.

    Raises:
        FamilyError: If the UNet is of no family concepts can be learned on.
        HostError: If a tensor is missing, quantised or of another shape, or the parts do not fit.
    """
    shapes = weights.shapes
    refuse_other_models(name, shapes)
    if f"{compvis.UNET}input_blocks.0.0.weight" not in shapes:
        raise FamilyError(
            f"{name} has no UNet as Stable Diffusion's. Give a Stable Diffusion 1.x or XL "
            "checkpoint."
        )
    unet = compvis.unet_config(name, shapes)
    unet["attention_head_dim"] = heads or unet["attention_head_dim"]
    family = family_of(name, unet)
    texts = text_configs(name, weights, family)
    for config, count in zip(texts, text_heads, strict=False):
        config["num_attention_heads"] = count
    for config, row in zip(texts, family.encoders, strict=True):
        if config["hidden_size"] != row.dim:  # before the gigabytes
            raise HostError(
                f"The {row.name} of {name} is {config['hidden_size']} wide; {family.name} needs "
                f"{row.dim}. Give the model's own text encoder."
            )
    named = with_transformers_names(weights)
    encoders = tuple(
        build(row.title, config, named, partial(clip_names, prefix=prefix), target)
        for row, config, prefix in zip(family.encoders, texts, prefixes_of(family), strict=True)
    )
    return assemble(
        build("UNet", unet, weights, lambda key: (compvis.unet_name(key, unet),), target),
        vae,
        encoders,
        tokenizers,
        name=name,
        scheduler_config=scheduler_config,
    )


def _from_folder(
    path: Path, target: Target, given: Path | None, apart: Path | None, told: Told
) -> Base:
    name = next((name for name, own in _MINI_FOLDERS.items() if own == path), path.name)
    _check_folder(path, ("unet",), ("unet", "vae", "text_encoder"))
    unet = json_of(path / "unet" / "config.json")
    family = family_of(name, unet)
    layers_of(name, unet)  # refuses what was pruned
    texts = [row.name for row in family.encoders]
    _check_folder(path, texts if apart else ("vae", *texts))
    configs = [json_of(path / text / "config.json") for text in texts]
    sizes = [int(config.get("vocab_size", 49408)) for config in configs]
    tokenizers = tokenizers_for(path, given, sizes, family)
    encoders = tuple(
        build(row.title, config, part_of(path / row.name), text_names, target)
        for row, config in zip(family.encoders, configs, strict=True)
    )
    return assemble(
        build("UNet", unet, part_of(path / "unet"), lambda key: (key,), target),
        vae_apart(apart, family, target) if apart else vae_of_folder(path / "vae", family, target),
        encoders,
        tokenizers,
        name=name,
        scheduler_config=_schedule(path / "scheduler" / "scheduler_config.json", name, told),
    )


def _check_folder(path: Path, needed: Sequence[str], listed: Sequence[str] = ()) -> None:
    """Refuse a folder that lacks a part, naming all of `listed` that it lacks."""
    missing = [part for part in needed if not (path / part / "config.json").is_file()]
    if not missing:
        return
    missing = [part for part in listed or needed if not (path / part / "config.json").is_file()]
    inside = sorted(entry.name for entry in path.iterdir())[:8]
    raise HostError(
        f"{path} is no whole diffusers folder of a Stable Diffusion model: no "
        f"{', no '.join(part + '/config.json' for part in missing)}. It holds "
        f"{', '.join(inside) or 'nothing'}. Give the model's own folder, or a checkpoint file."
    )


def _schedule(path: Path, name: str, told: Told) -> dict[str, Any]:
    """The noise schedule of a folder, Stable Diffusion's where it has none."""
    settings = json_of(path) if path.is_file() else dict(SCHEDULE)
    marked = settings.get("prediction_type", "epsilon")
    rescaled = settings.pop("rescale_betas_zero_snr", False)  # half of the schedulers pass over it
    settings["prediction_type"], without_end = told.settled(name, marked, rescaled)
    if without_end:
        plain: Any = DDPMScheduler.from_config(settings)
        settings |= schedule_of(without_signal(plain.alphas_cumprod)) | settings
    return {key: value for key, value in settings.items() if not key.startswith("_")}
