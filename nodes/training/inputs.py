"""Settings of learning as node inputs, where an untouched one means preset and model's recipe.

A setting that a preset or a family's recipe decides has a value of its own for "as they have it":
"auto" in a list, otherwise the largest number below its limits (0, or -1 where 0 means something).
All other settings show their one default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from comfy_api.latest import io

from ...cidm_core.config import TrainConfig
from ...cidm_core.families import FAMILIES, Family
from ...cidm_core.methods import config_for
from ...cidm_core.methods.cidm import CidmConfig
from ...cidm_core.training.presets import PRESETS
from ..host import comfy as host
from ..host.inputs import given, inputs_of

AUTO = "auto"
MAIN = ("steps", "rank", "seed")
PREVIEWS = 8  # per run, unless the user says otherwise
LABELS: Mapping[str, str] = {"Low VRAM": "low-vram", "Balanced": "balanced", "Best": "best"}
_FIELDS = {f.name: f for f in fields(CidmConfig)}
_BY_FAMILY = {row.name: row.training.get("cidm", {}) for row in FAMILIES.values()}
_DECIDED = frozenset({"preview_every"}.union(*PRESETS.values(), *_BY_FAMILY.values()))


def main_inputs() -> list[io.Input]:
    """Steps, rank and seed."""
    return [_with_auto(i) for i in inputs_of(CidmConfig, MAIN)]


def advanced_inputs() -> list[io.Input]:
    """All other settings, folded away."""
    return [_with_auto(i) for i in inputs_of(CidmConfig, leave_out=MAIN)]


def asked(values: Mapping[str, object]) -> dict[str, object]:
    """The settings that the user decided on, as `CidmConfig` takes them."""
    found = {name: value for name, value in values.items() if not _is_auto(name, value)}
    if "gradient_checkpointing" in found:
        found["gradient_checkpointing"] = found["gradient_checkpointing"] in (True, "on")
    return given(CidmConfig, found)


def precision_of(settings: Mapping[str, object]) -> str:
    """The precision asked for, or the one the host's device is best at: fp32 on a CPU."""
    from ...cidm_core.devices import DTYPES, choose_dtype

    usual = choose_dtype(None, host.torch_device())
    name = next(name for name, dtype in DTYPES.items() if dtype == usual)
    return str(settings.get("precision", name))


def config_of(settings: Mapping[str, object], preset: str, family: Family) -> TrainConfig:
    """A family's own values, then the preset, then what was asked for.

    Raises:
        CidmError: If a value is out of its limits.
    """
    merged = {**PRESETS[LABELS.get(preset, "balanced")], **settings}
    merged["precision"] = precision_of(settings)
    config = config_for("cidm", family, **merged)
    if "preview_every" not in settings:
        config = replace(config, preview_every=config.steps // PREVIEWS)
    return config


def _is_auto(name: str, value: object) -> bool:
    return name in _DECIDED and value in (AUTO, _none_of(name))


def _none_of(name: str) -> int:
    """The number that means "as preset and model have it"."""
    return 0 if (_FIELDS[name].metadata["min"] or 0) > 0 else -1


def _with_auto(made: io.Input) -> io.Input:
    """The input, with its "auto" value as default if it needs one.

    Optional, so that a prompt written by hand may leave it out.
    """
    name, made.optional = made.id, True
    if name not in _DECIDED:
        return made
    tooltip = f"{made.tooltip} {_usual(name)}"
    choices = ("on", "off") if isinstance(made, io.Boolean.Input) else None
    choices = choices or _FIELDS[name].metadata["choices"]
    if choices:
        more = {"tooltip": tooltip, "advanced": made.advanced, "optional": True}
        return io.Combo.Input(name, [AUTO, *choices], default=AUTO, **more)
    made.tooltip, made.default, made.min = tooltip, _none_of(name), _none_of(name)
    return made


def _usual(name: str) -> str:
    """What "auto" stands for, for the tooltip."""
    if name == "preview_every":
        return f"{_none_of(name)}: {PREVIEWS} previews per run."
    if name == "precision":
        return f"{AUTO}: what the device is best at."
    default = _FIELDS[name].default
    word = AUTO if isinstance(default, bool) else _none_of(name)
    parts = [f"{_shown(default)}"]
    parts += [f"{family} {row[name]}" for family, row in _BY_FAMILY.items() if name in row]
    parts += [
        f"{label} {_shown(PRESETS[key][name])}"
        for label, key in LABELS.items()
        if name in PRESETS[key]
    ]
    return f"{word}: {'; '.join(parts)}."


def _shown(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
