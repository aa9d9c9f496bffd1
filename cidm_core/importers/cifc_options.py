"""Options files of the public repository (CIFC, and Mix-of-Show before it) in our terms.

The text of both is YAML with the same keys; the older ones say `network_g` for `models`.
Only plain data is read: no tags, no aliases. What has no counterpart here is named in the notes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CidmError
from ..methods.cidm import CidmConfig
from ..paths import user_path
from ..training.folders import list_photos
from ..words import parse_words
from .options_file import Options, load

_RANDOM = re.compile(r"<rand-([0-9.eE+-]+)>")
_CROPS = ("HumanResizeCropFinalV3", "HumanResizeCropFinal")
_AS_HERE: Mapping[str, Mapping[str, object]] = {  # transforms that happen here just so
    "ShuffleCaption": {"keep_token_num": 1},
    "ToTensor": {},
    "Normalize": {"mean": [0.5], "std": [0.5]},
}
_KINDS = {"object": "object", "objects": "object", "human": "human", "style": "style"}
_PRECISIONS = {"no": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
_WITHOUT_COUNTERPART = (
    "datasets.val_vis", "val", "logger", "path", "dist_params", "model_type",
    "datasets.train.name", "datasets.train.type", "datasets.train.use_shuffle",
    "datasets.train.num_worker_per_gpu", "datasets.train.pin_memory",
    "datasets.train.prefetch_mode", "models.pretrained_path", "models.enable_xformers",
    "models.reg_full_identity", "models.finetune_cfg.text_encoder", "models.type",
    "models.sd_version", "models.test_sampler_type", "train.optim_g.lr",
    "train.scheduler.num_epochs",
)  # fmt: skip


@dataclass(frozen=True)
class ImportedOptions:
    """What one options file asks for.

    Attributes:
        class_words: The starting words of its words, "duck toy".
        mapping: Replacements in captions; empty: class words to concept words.
        captions_dir: None: no captions are used.
        masks_dir: None: no masks are used.
        settings: For `CidmConfig.from_dict`, which accepts them.
        notes: What was understood in another way, and what was left out.
    """

    name: str
    words: tuple[str, ...]
    class_words: str
    kind: str
    mapping: Mapping[str, str]
    photos_dir: Path
    captions_dir: Path | None
    masks_dir: Path | None
    settings: Mapping[str, object]
    notes: tuple[str, ...]


def read_options(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    processes: int = 1,
) -> ImportedOptions:
    """Read an options file.

    Args:
        path: A `.yml` file.
        root: Folder that relative paths start from. By default the working folder, or the first
            folder above the file under which the path exists.
        processes: How many processes (GPUs) the options are for; `num_gpu` in the file wins.

    Raises:
        CidmError: If the file cannot be read, holds more than plain data, lacks a needed entry, or
            an entry is of a wrong kind or out of its limits.
    """
    path = user_path(path)
    options = Options(_tree(path), path)
    roots = [user_path(root)] if root is not None else [Path.cwd(), *path.resolve().parents]
    words = parse_words(options.text("models.new_concept_token").replace("+", " "))
    class_words, std = _start(options, words)
    settings: dict[str, object] = {} if std is None else {"token_init_std": std}
    photos, captions, masks = (_located(p, roots) for p in _folders(options, roots))
    if photos is None:
        raise options.error("datasets.train.data_dir", None, "the folder of the photos")
    kind = _transforms(options, settings)
    _plain_settings(options, settings)
    _rates(options, settings)
    _steps(options, settings, photos, processes)
    imported = ImportedOptions(
        name=_name(options),
        words=words,
        class_words=class_words,
        kind=kind,
        mapping=_mapping(options),
        photos_dir=photos,
        captions_dir=captions,
        masks_dir=masks,
        settings=settings,
        notes=options.closing_notes(_WITHOUT_COUNTERPART),
    )
    try:
        CidmConfig.from_dict(settings)
    except CidmError as error:
        raise CidmError(f"Options '{path}': {error}") from error
    return imported


def _tree(path: Path) -> dict[str, Any]:
    tree = load(path)
    if "network_g" in tree and "models" not in tree:
        tree["models"] = tree.pop("network_g")
    return tree


def _name(options: Options) -> str:
    name = str(options.take("name", options.path.stem))
    # The public code replaces these by the task's number; two of its files share one.
    return options.path.stem if re.fullmatch(r"task_\d+", name) else name


def _start(options: Options, words: tuple[str, ...]) -> tuple[str, float | None]:
    """Class words and spread of the identity word, from `<rand-0.013>+dog`."""
    parts = options.text("models.initializer_token").split("+")
    spreads = [match.group(1) for part in parts if (match := _RANDOM.fullmatch(part.strip()))]
    plain = [part.strip() for part in parts if not _RANDOM.fullmatch(part.strip())]
    if not any(plain):
        raise options.error("models.initializer_token", "+".join(parts), "class words in it too")
    if len(parts) != len(words):
        options.notes.append(f"{len(parts)} starting words stand for {len(words)} concept words.")
    try:
        return " ".join(plain), float(spreads[0]) if spreads else None
    except ValueError as error:
        raise options.error(
            "models.initializer_token", spreads[0], "a number in <rand-...>"
        ) from error


def _mapping(options: Options) -> dict[str, str]:
    name = "datasets.train.replace_mapping"
    found = options.take(name, {})
    if not isinstance(found, dict):
        raise options.error(name, found, "entries such as 'dog: <dog1> <dog2>'")
    if any(not isinstance(value, str) for value in found.values()):
        raise options.error(name, found, "texts to replace by")
    return {str(key): value for key, value in found.items()}


def _folders(options: Options, roots: list[Path]) -> Iterator[object]:
    """Photos, captions, masks: named in the file (CIFC) or in a list beside it (Mix-of-Show)."""
    source: dict[str, Any] = {
        "instance_data_dir": options.take("datasets.train.data_dir"),
        "caption_dir": options.take("datasets.train.caption_dir"),
        "mask_dir": options.take("datasets.train.mask_dir"),
    }
    if concepts := options.take("datasets.train.concept_list"):
        rows = concepts if isinstance(concepts, list) else _read_list(options, concepts, roots)
        if len(rows) != 1 or not isinstance(rows[0], dict):
            raise options.error(
                "datasets.train.concept_list",
                f"a list of {len(rows)}",
                "one concept; split the file",
            )
        source |= rows[0]
    yield source["instance_data_dir"]
    yield source["caption_dir"] if options.flag("datasets.train.use_caption", False) else None
    yield source["mask_dir"] if options.flag("datasets.train.use_mask", False) else None


def _read_list(options: Options, concepts: object, roots: list[Path]) -> list[Any]:
    path = _located(concepts, roots)
    try:
        found = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise options.error(
            "datasets.train.concept_list", concepts, "a JSON file that is there"
        ) from error
    return found if isinstance(found, list) else []


def _located(name: object, roots: list[Path]) -> Path | None:
    """The path under the first root where it exists; as it stands if there is none."""
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    name = os.path.expanduser(name)
    return next((root / name for root in roots if os.path.exists(root / name)), Path(name))


def _transforms(options: Options, settings: dict[str, object]) -> str:
    """Training size, crop chance and kind, from the list of transforms."""
    steps = options.take("datasets.train.instance_transform", [])
    kind = ""
    for step in steps if isinstance(steps, list) else []:
        its = Options(step if isinstance(step, dict) else {"type": step}, options.path)
        name = str(its.take("type"))
        if name in _CROPS:
            settings["resolution_px"] = its.whole("size")
            settings["crop_probability"] = its.number("crop_p", 0.5)
        elif name == "EnhanceText":
            kind = _KINDS.get(str(its.take("enhance_type", "object")), "")
        elif name in _AS_HERE:
            its.left = {k: v for k, v in its.left.items() if _AS_HERE[name].get(k) != v}
        else:
            its.left["type"] = name
        if its.left:
            options.notes.append(f"Transform {name} has {its.left}: left out.")
    if not kind:
        options.notes.append("No kind of template is named; taken as an object.")
    return kind or "object"


def _plain_settings(options: Options, settings: dict[str, object]) -> None:
    """Entries that mean the same here, under another name."""
    numbers = {
        "models.noise_offset": "noise_offset",
        "models.attn_reg_weight": "attention_weight",
        "train.optim_g.weight_decay": "weight_decay",
        "train.emb_norm_threshold": "token_norm_limit",
    }
    for theirs, ours in numbers.items():
        if (number := options.number(theirs)) is not None:
            settings[ours] = number
    if (seed := options.whole("manual_seed")) is not None:
        settings["seed"] = seed
    settings["use_concept_masks"] = options.flag("models.use_mask_loss", True)
    settings["gradient_checkpointing"] = options.flag("models.gradient_checkpoint", False)
    precision = options.take("mixed_precision", "no")
    precision = "no" if precision is False else precision  # YAML reads a bare `no` as false
    if precision not in _PRECISIONS:
        raise options.error("mixed_precision", precision, f"one of {', '.join(_PRECISIONS)}")
    settings["precision"] = _PRECISIONS[precision]


def _rates(options: Options, settings: dict[str, object]) -> None:
    """Learning rates, rank and alpha."""
    tuned = "models.finetune_cfg"
    for part, ours in {"text_embedding": "lr_tokens", "unet": "lr_lora"}.items():
        rate = options.number(f"{tuned}.{part}.lr")
        if not options.flag(f"{tuned}.{part}.enable_tuning", True):
            rate = 0.0
        if rate is not None:
            settings[ours] = rate
    rank = options.whole(f"{tuned}.unet.lora_cfg.rank", 4)
    alpha = options.number(f"{tuned}.unet.lora_cfg.alpha", 1.0)
    if rank and alpha:
        settings |= {"rank": rank, "alpha": alpha * rank}
        options.notes.append(
            f"Their alpha {alpha:g} is a plain factor: alpha {alpha * rank:g} of rank {rank} here."
        )
    _expect(options, f"{tuned}.unet.lora_cfg.where", "Attention", "CrossAttention")
    _expect(options, "models.enable_edlora", True)
    _expect(options, "train.optim_g.type", "AdamW")
    _expect(options, "train.optim_g.betas", [0.9, 0.999])
    _expect(options, "train.unet_kv_drop_rate", 0)
    _expect(options, "train.scheduler", "linear")
    _expect(options, "train.scheduler.type", "LinearLR")
    _expect(options, "train.warmup_iter", 0, -1)


def _expect(options: Options, name: str, *understood: object) -> None:
    """Take an entry that can have one meaning here; note it if it asks for another."""
    found = options.take(name, understood[0])
    if found not in understood:
        options.notes.append(f"{name} is {found!r:.60}; here it is always {understood[0]!r}.")


def _steps(options: Options, settings: dict[str, object], photos: Path, processes: int) -> None:
    """Batch over all processes, and steps from how often each photo is repeated."""
    processes = options.whole("num_gpu", processes) or 1
    batch = (options.whole("datasets.train.batch_size_per_gpu", 1) or 1) * processes
    accumulation = options.whole("gradient_accumulation_steps", 1) or 1
    settings |= {"batch_size": batch, "accumulation": accumulation}
    total = options.whole("train.total_iter")
    repeats = options.whole("datasets.train.dataset_enlarge_ratio")
    if total is None and repeats is not None:
        if not photos.is_dir():
            options.notes.append(
                f"Steps are {repeats} x photos / {batch * accumulation}; '{photos}' is not there "
                "to count them."
            )
            return
        total = max(1, repeats * len(list_photos(photos).pictures) // (batch * accumulation))
    if total is not None:
        settings["steps"] = total
