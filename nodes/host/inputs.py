"""Node inputs rendered from the settings dataclasses, and the way back.

Defaults, limits, choices and help texts stand once, in `cidm_core.config`. A setting that may be
None ("the family's default") shows 0 for it, because a widget always sends a value; one that a
recipe decides shows "auto".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from comfy_api.latest import io

from ...cidm_core.errors import CidmError
from ...cidm_core.settings import AnySettings, Settings
from . import comfy as host

# The frontend limits a number input without a maximum to 2048.
_MOST_INT, _MOST_FLOAT = 2**53 - 1, 1e6
AUTO = "auto"
NO_FOLDER = ""


def inputs_of(
    settings: type[Settings],
    names: Iterable[str] | None = None,
    *,
    leave_out: Iterable[str] = (),
    advanced: Mapping[str, bool] | None = None,
) -> list[io.Input]:
    """Inputs for settings, under their own names.

    Args:
        settings: Of a method, or of sampling.
        names: Which, in this order. Default: all, in the order of the class.
        leave_out: Names to skip.
        advanced: Whether an input is folded away, where the node sees it otherwise.

    Raises:
        KeyError: If a name is no setting.
    """
    known = {f.name: f for f in fields(settings)}
    skipped = set(leave_out)
    chosen = [known[name] for name in (known if names is None else names) if name not in skipped]
    advanced = advanced or {}
    return [_input(f, f.default, advanced.get(f.name, f.metadata["advanced"])) for f in chosen]


def settings_from(
    settings: type[AnySettings],
    values: Mapping[str, object],
    base: Mapping[str, object] | None = None,
) -> AnySettings:
    """Settings from what a node's inputs sent; other values among them are passed over.

    Args:
        settings: Of a method, or of sampling.
        values: Arguments of `execute`; 0 or "" of a setting that may be None means None.
        base: Settings under them, such as a family's recipe or a preset; a value of None in
            `values` leaves these standing.

    Raises:
        CidmError: If a value is out of its limits.
    """
    return settings.from_dict({**(base or {}), **settings_given(settings, values)})


def settings_given(settings: type[Settings], values: Mapping[str, object]) -> dict[str, object]:
    """The settings among a node's arguments that say something; see `settings_from`."""
    found: dict[str, object] = {}
    for f in fields(settings):
        value = values.get(f.name)
        if value is None or (_optional(f) and value in (0, "")):
            continue
        if value == AUTO and f.metadata["by_recipe"]:
            continue
        found[f.name] = float(value) if _kind(f) == "float" and type(value) is int else value
    return found


def text_input(name: str, tooltip: str, **more: Any) -> io.Input:
    """A line of text that may be left empty."""
    return io.String.Input(name, default="", optional=True, tooltip=tooltip, **more)


def photo_folder_input(tooltip: str) -> io.Input:
    """A choice of a sub-folder of the input directory, or none."""
    options = [NO_FOLDER, *host.input_folders()]
    return io.Combo.Input(
        "photo_folder", options=options, default=NO_FOLDER, optional=True, tooltip=tooltip
    )


def folder_stamp(photo_folder: Any, *, nested: bool = False) -> str:
    """What changes with the files of a photo folder, for `fingerprint_inputs`."""
    name = first_of(photo_folder)
    if not name:
        return ""
    try:
        return repr(host.file_stamps(host.input_folder(str(name)), nested))
    except CidmError:
        return "missing"


def first_of(value: Any) -> Any:
    """The value of an input, which the host may hand over as a list of one."""
    return (value[0] if value else None) if isinstance(value, list) else value


def passes(check: Callable[[], object]) -> bool | str:
    """What `validate_inputs` tells the host: True, or what the check complained of."""
    try:
        check()
    except CidmError as error:
        return str(error)
    return True


def _kind(f: Field[Any]) -> str:
    return str(f.type).partition(" | ")[0]


def _optional(f: Field[Any]) -> bool:
    return "None" in str(f.type)


def _input(f: Field[Any], default: Any, advanced: bool | None) -> io.Input:
    """One input; hidden knobs are `advanced`."""
    # Optional, so that a prompt written by hand may leave it out.
    common = {"tooltip": f.metadata["help"], "advanced": advanced or None, "optional": True}
    kind = _kind(f)
    if f.metadata["by_recipe"] and f.metadata["choices"]:
        options = [AUTO, *f.metadata["choices"]]
        common["tooltip"] = f"{f.metadata['help']} With {AUTO} the recipe decides."
        return io.Combo.Input(f.name, options, default=AUTO, **common)
    if f.metadata["choices"]:
        return io.Combo.Input(f.name, list(f.metadata["choices"]), default=default, **common)
    if kind == "bool":
        return io.Boolean.Input(f.name, default=default, **common)
    if kind == "str":
        return io.String.Input(
            f.name, default=default, multiline=f.name.endswith("prompt"), **common
        )
    if _optional(f):
        common["tooltip"] = f"{common['tooltip']} 0 means this default."
    return (_int if kind == "int" else _float)(f, default, common)


def _limits(f: Field[Any], most: float) -> tuple[Any, Any]:
    low, high = f.metadata["min"], f.metadata["max"]
    low = 0 if _optional(f) or low is None else low
    return low, most if high is None else min(high, most)


def _int(f: Field[Any], default: Any, common: dict[str, Any]) -> io.Input:
    low, high = _limits(f, _MOST_INT)
    return io.Int.Input(
        f.name,
        default=default or 0,
        min=low,
        max=high,
        step=8 if f.name.endswith("_px") else 1,
        # Without this an input called seed changes by itself after every run.
        control_after_generate=False,
        **common,
    )


def _float(f: Field[Any], default: Any, common: dict[str, Any]) -> io.Input:
    low, high = _limits(f, _MOST_FLOAT)
    step = float_step(default or 0.0)
    return io.Float.Input(
        f.name, default=default or 0.0, min=low, max=high, step=step, round=step, **common
    )


def float_step(default: float) -> float:
    """A hundredth of the default's decade, 0.01 at most: the frontend rounds values to the step."""
    if not default:
        return 0.01
    return min(0.01, 10.0 ** (math.floor(math.log10(abs(default)) + 1e-9) - 2))
