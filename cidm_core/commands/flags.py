"""Command line flags: settings rendered from the config dataclasses, and the common ones."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from ..config import SampleConfig, TrainConfig

SettingsClass = type[TrainConfig] | type[SampleConfig]
_MARK = "setting."  # keeps settings apart from a command's own flags in the namespace


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model, --tokenizer, --device, --dtype."""
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--model",
        default="mini-sd",
        metavar="PATH",
        help="A Stable Diffusion 1.x .safetensors file, a diffusers folder, or mini-sd, the tiny "
        "model that comes with this package (default).",
    )
    group.add_argument(
        "--tokenizer", metavar="DIR", help="Tokenizer folder, where the model has none of its own."
    )
    group.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1 or mps. Default: the best there is."
    )
    group.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="Type of the base model's weights. Default: the device's usual one.",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """--json, --quiet, --verbose."""
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--json",
        action="store_true",
        help="Print the result as JSON on standard output; words for people go to standard error.",
    )
    group.add_argument("--quiet", action="store_true", help="No progress and no notes.")
    group.add_argument(
        "--verbose", action="store_true", help="More notes, and the Python traceback of an error."
    )


def add_settings(
    parser: argparse.ArgumentParser, settings: SettingsClass, leave_out: tuple[str, ...] = ()
) -> None:
    """One flag per field: --lr-lora for `lr_lora`, --width (or --width-px) for `width_px`."""
    simple = parser.add_argument_group("settings", "The default is in brackets; see also below.")
    advanced = parser.add_argument_group("advanced settings")
    types = get_type_hints(settings)
    for f in fields(settings):
        if f.name in leave_out:
            continue
        group = advanced if f.metadata["advanced"] else simple
        _add_setting(group, f.name, _plain_type(types[f.name]), f.default, f.metadata)


def _add_setting(group: Any, name: str, kind: type, default: object, meta: Any) -> None:
    flags = [f"--{name.removesuffix('_px').replace('_', '-')}"]
    if name.endswith("_px"):
        flags.append(f"--{name.replace('_', '-')}")
    options: dict[str, Any] = {"dest": _MARK + name, "default": argparse.SUPPRESS}
    if kind is bool:
        shown = f"{meta['help']} [{'yes' if default else 'no'}]"
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, help=shown, **options)
        return
    options |= {"type": kind, "help": _help(default, meta)}
    if meta["choices"]:
        options["choices"] = meta["choices"]
    else:
        options["metavar"] = {int: "N", float: "X"}.get(kind, "TEXT")
    group.add_argument(*flags, **options)


def _help(default: object, meta: Any) -> str:
    notes = [str(default)] if default not in (None, "") else []
    low, high = meta["min"], meta["max"]
    if low is not None and high is not None:
        notes.append(f"{low:g} to {_whole(high)}")
    elif low is not None:
        notes.append(f"at least {low:g}")
    text = f"{meta['help']} [{'; '.join(notes)}]" if notes else str(meta["help"])
    return text.replace("%", "%%")


def _whole(number: float) -> str:
    return "2^53" if number == 2**53 else f"{number:.15g}"


def _plain_type(hint: Any) -> type:
    """`int` of `int | None`."""
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if members else hint


def given(args: argparse.Namespace) -> dict[str, object]:
    """The settings that stand on the command line, by field name."""
    return {
        key.removeprefix(_MARK): value for key, value in vars(args).items() if key.startswith(_MARK)
    }
