"""Command line flags: settings rendered from the config dataclasses, and the common ones."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ..settings import Settings

if TYPE_CHECKING:
    from ..diffusers_host.base import Base

_MARK = "setting."  # keeps settings apart from a command's own flags in the namespace


class CommandParser(argparse.ArgumentParser):
    """A parser with examples below its flags, some of which may depend on others.

    Attributes:
        complete: Adds the rest of the flags when the command is used, given its words.
    """

    complete: Callable[[CommandParser, Sequence[str]], None] | None = None

    def __init__(self, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        if self.complete is not None:
            complete, self.complete = self.complete, None
            complete(self, sys.argv[1:] if args is None else list(args))
        return super().parse_known_args(args, namespace)


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model and what is said of it: tokenizer, VAE, prediction, device, type."""
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--model",
        default="mini-sd",
        metavar="PATH",
        help="A Stable Diffusion 1.x or XL .safetensors file, a diffusers folder, or one of the "
        "tiny models that come with this package: mini-sd, the default, or mini-sdxl.",
    )
    group.add_argument(
        "--tokenizer", metavar="DIR", help="Tokenizer folder, where the model has none of its own."
    )
    group.add_argument(
        "--vae", metavar="PATH", help="File or folder of a VAE to use instead of the model's own."
    )
    group.add_argument(
        "--prediction",
        choices=("epsilon", "v_prediction"),
        help="What the model predicts. By default it is what its file says, else epsilon; say "
        "v_prediction where losses far above 1 or noise instead of pictures show that it is wrong.",
    )
    group.add_argument(
        "--zero-terminal-snr",
        action=argparse.BooleanOptionalAction,
        help="The model was trained with a last timestep that is noise alone, as many v-prediction "
        "models are. By default it is what its file says.",
    )
    group.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 or mps. By default it is the best there is.",
    )
    group.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="Type of the base model's weights. By default it is the device's usual one.",
    )


def chosen_base(args: argparse.Namespace, *, without_numbers: bool = False) -> Base:
    """The model that the flags of `add_model` name; without numbers only to count memory."""
    from ..devices import choose_device, choose_dtype
    from ..diffusers_host.load import load_base

    device = own_device(args.device)
    dtype = choose_dtype(args.dtype, choose_device(device)) if without_numbers else args.dtype
    return load_base(
        args.model,
        device="meta" if without_numbers else device,
        dtype=dtype,
        tokenizer=args.tokenizer,
        vae=args.vae,
        prediction=args.prediction,
        zero_terminal_snr=args.zero_terminal_snr,
    )


def model_words(args: argparse.Namespace) -> str:
    """The flags of `add_model` that decide what the model is, as they were given."""
    named = {key: vars(args)[key] for key in ("model", "tokenizer", "vae", "prediction")}
    words = [f"--{key} {value}" for key, value in named.items() if value is not None]
    if args.zero_terminal_snr is not None:
        words.append(f"--{'' if args.zero_terminal_snr else 'no-'}zero-terminal-snr")
    return " ".join(words)


def own_device(asked: str | None) -> str | None:
    """The device of this process: under `accelerate launch` each has a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")
    if asked or rank is None or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return asked
    import torch

    return f"cuda:{rank}" if torch.cuda.is_available() else None


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


class _OrNamed(argparse.Action):
    """A number for all; after a name and "=" one of another setting, for that name alone."""

    def __init__(self, *, others: str, **options: Any) -> None:
        options |= {"type": str, "metavar": "X or NAME=X"}
        super().__init__(**options)
        self.others = others

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if "=" in values:
            before = getattr(namespace, _MARK + self.others, [])
            setattr(namespace, _MARK + self.others, [*before, values])
            return
        try:
            setattr(namespace, self.dest, float(values))
        except ValueError:
            parser.error(f"argument {option}: {values!r} is neither a number nor NAME=NUMBER")


def add_settings(
    parser: argparse.ArgumentParser,
    settings: type[Settings],
    names: Collection[str] | None = None,
    by_name: Mapping[str, str] | None = None,
) -> None:
    """One flag per field: --lr-lora for `lr_lora`, --width (or --width-px) for `width_px`.

    Args:
        parser: Of a command.
        settings: What it can be told.
        names: Fields of these, in one group; all by default.
        by_name: Settings whose flag also takes NAME=NUMBER, and the setting that this is then one
            of: --strength dog=0.8 is --strengths dog=0.8.
    """
    if names is not None:
        group, types = parser.add_argument_group("settings"), get_type_hints(settings)
        for f in (f for f in fields(settings) if f.name in names):
            _add_setting(group, f, _plain_type(types[f.name]), {})
        return
    simple = parser.add_argument_group("settings", "The default is in brackets; see also below.")
    advanced = parser.add_argument_group("advanced settings")
    types = get_type_hints(settings)
    for f in fields(settings):
        group = advanced if f.metadata["advanced"] else simple
        others = (by_name or {}).get(f.name)
        named: dict[str, Any] = {"action": partial(_OrNamed, others=others)} if others else {}
        _add_setting(group, f, _plain_type(types[f.name]), named)


def _flags_of(f: Field[Any]) -> list[str]:
    """Both spellings of a length in pixels."""
    names = [f.name.removesuffix("_px"), f.name] if f.name.endswith("_px") else [f.name]
    return [f"--{name.replace('_', '-')}" for name in names]


def _add_setting(group: Any, f: Field[Any], kind: type, more: dict[str, Any]) -> None:
    flags, meta = _flags_of(f), f.metadata
    options: dict[str, Any] = {"dest": _MARK + f.name, "default": argparse.SUPPRESS}
    if kind is bool:
        shown = f"{meta['help']} [{'yes' if f.default else 'no'}]"
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, help=shown, **options)
        return
    options |= {"type": kind, "help": _help(f)}
    if meta["choices"]:
        options["choices"] = meta["choices"]
    else:
        options["metavar"] = {int: "N", float: "X"}.get(kind, "TEXT")
    if meta["several"]:
        options["action"] = "append"
    group.add_argument(*flags, **options | more)


def _help(f: Field[Any]) -> str:
    meta, default = f.metadata, f.default
    notes = [str(default)] if default not in (None, "") else []
    if meta["by_recipe"]:
        notes = [f"{recipe}: {value}" for recipe, value in meta["by_recipe"].items()]
    low, high = meta["min"], meta["max"]
    if low is not None and high is not None:
        notes.append(f"{low:g} to {_whole(high)}")
    elif low is not None:
        notes.append(f"at least {low:g}")
    text = f"{meta['help']} [{'; '.join(notes)}]" if notes else str(meta["help"])
    return text.replace("%", "%%")


def refuse_foreign(
    parser: argparse.ArgumentParser,
    words: Sequence[str],
    method: str,
    settings: type[Settings],
    others: Mapping[str, type[Settings]],
) -> None:
    """End with code 2 if a flag on the command line is a setting of another method alone."""
    own = {flag for f in fields(settings) for flag in _flags_of(f)}
    for word in words:
        flag = word.partition("=")[0]
        positive = f"--{flag[5:]}" if flag.startswith("--no-") else flag
        if {flag, positive} & own:
            continue
        for other, config in others.items():
            if positive in {known for f in fields(config) for known in _flags_of(f)}:
                parser.error(f"{flag} is a setting of the method {other}, not of {method}.")


def refuse_unused(
    parser: argparse.ArgumentParser, words: Sequence[str], method: str, flags: Collection[str]
) -> None:
    """End with code 2 if the command line gives what a method makes no use of."""
    for flag in (word.partition("=")[0] for word in words):
        if flag in flags:
            parser.error(f"{flag} is not for the method {method}, which makes no use of it.")


def of_families(method: str) -> str:
    """What each family's models are learned with, unless told otherwise."""
    from ..families import FAMILIES

    lines = [
        f"{row.modelspec}: {', '.join(f'{k} {v}' for k, v in row.training[method].items())}"
        for row in FAMILIES.values()
        if method in row.training
    ]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in lines)


def _whole(number: float) -> str:
    return "2^53" if number == 2**53 else f"{number:.15g}"


def _plain_type(hint: Any) -> type:
    """`int` of `int | None`."""
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if members else hint


def given(args: argparse.Namespace) -> dict[str, object]:
    """The settings that stand on the command line, by field name."""
    return {
        key.removeprefix(_MARK): ", ".join(value) if isinstance(value, list) else value
        for key, value in vars(args).items()
        if key.startswith(_MARK)
    }
