"""Settings of learning as node inputs, where an untouched one means preset, model and recipe.

A setting that one of these decides has a value of its own for "as they have it": "auto" in a list,
otherwise the largest number below its limits (0, or -1 where 0 means something). All other settings
show their one default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from comfy_api.latest import io

from ...cidm_core.config import TrainConfig
from ...cidm_core.families import FAMILIES, Family
from ...cidm_core.methods import config_for, method_called
from ...cidm_core.training.presets import presets_of
from ..host.base import usual_precision
from ..host.inputs import AUTO, inputs_of, settings_given

ON_THE_NODE = ("steps", "seed")  # settings of every method that the training node itself shows
PREVIEWS = 8  # per run, unless the user says otherwise
LABELS: Mapping[str, str] = {
    "Least VRAM": "least-vram",
    "Low VRAM": "low-vram",
    "Balanced": "balanced",
    "Best": "best",
}
# Steps are shown by the training node, where 0 means the usual number of whatever method.
_HOST_DECIDES = frozenset({"preview_every", "precision", "steps"})


class MethodInputs:
    """The settings of a method as inputs, and the way back.

    Args:
        method: Its name in `METHODS`.
    """

    def __init__(self, method: str) -> None:
        self.config = method_called(method).Config
        self._fields = {f.name: f for f in fields(self.config)}
        self._presets = presets_of(self.config)
        self._by_family = {row.name: row.training.get(method, {}) for row in FAMILIES.values()}
        by_recipe = {name for name, f in self._fields.items() if f.metadata["by_recipe"]}
        decided = by_recipe.union(_HOST_DECIDES, *self._presets.values(), *self._by_family.values())
        self._decided = decided & self._fields.keys()

    def inputs(
        self, names: Iterable[str] | None = None, leave_out: Iterable[str] = ()
    ) -> list[io.Input]:
        """Inputs for settings; all of them without names."""
        rendered = inputs_of(self.config, names, leave_out=leave_out)
        return [self._with_auto(each) if each.id in self._decided else each for each in rendered]

    def asked(self, values: Mapping[str, object]) -> dict[str, object]:
        """The settings among a node's values that the user decided on."""
        found = {k: v for k, v in values.items() if k not in self._decided or not self._auto(k, v)}
        for name, value in found.items():
            if value in ("on", "off") and self._fields[name].type == "bool":
                found[name] = value == "on"
        return settings_given(self.config, found)

    def _auto(self, name: str, value: object) -> bool:
        return value in (AUTO, self._none_of(name))

    def _none_of(self, name: str) -> int | str:
        """The number, or empty text, that means "as preset, model and recipe have it"."""
        if self._fields[name].type == "str":
            return ""
        return 0 if (self._fields[name].metadata["min"] or 0) > 0 else -1

    def _with_auto(self, made: Any) -> io.Input:
        name, f = made.id, self._fields[made.id]
        tooltip = f"{f.metadata['help']} {self._usual(name)}"
        choices = ("on", "off") if f.type == "bool" else f.metadata["choices"]
        if choices:
            more = {"tooltip": tooltip, "advanced": made.advanced, "optional": True}
            return io.Combo.Input(name, [AUTO, *choices], default=AUTO, **more)
        made.tooltip, made.default = tooltip, self._none_of(name)
        if f.type != "str":
            made.min = made.default
        return made

    def _usual(self, name: str) -> str:
        """What "auto" stands for, for the tooltip."""
        f = self._fields[name]
        listed = f.type == "bool" or f.metadata["choices"]
        word = AUTO if listed else str(self._none_of(name)) or "Empty"
        if name == "preview_every":
            return f"{word} means {PREVIEWS} previews per run."
        if name == "precision":
            return f"{word} means what the device is best at."
        decided = dict(f.metadata["by_recipe"])
        usual = "what the recipe says" if decided else _shown(f.default)
        decided |= {row: values[name] for row, values in self._by_family.items() if name in values}
        held = self._presets
        decided |= {k: held[v][name] for k, v in LABELS.items() if name in held[v]}
        others = ", ".join(f"{label}: {_shown(value)}" for label, value in decided.items())
        return f"{word} means {usual} ({others})." if others else f"{word} means {usual}."


def precision_of(settings: Mapping[str, object]) -> str:
    """The precision asked for, or the one the host's device is best at: fp32 on a CPU."""
    return str(settings.get("precision", usual_precision()))


def config_of(
    method: str, settings: Mapping[str, object], preset: str, family: Family
) -> TrainConfig:
    """A family's own values, then the preset, then what was asked for.

    Raises:
        CidmError: If a setting is unknown or a value out of its limits.
    """
    presets = presets_of(method_called(method).Config)
    merged = {**presets[LABELS.get(preset, "balanced")], **settings}
    config = config_for(method, family, **merged | {"precision": precision_of(settings)})
    if "preview_every" not in settings:
        config = replace(config, preview_every=config.steps // PREVIEWS)
    return config


def _shown(value: object) -> str:
    if value is None:
        return "this default"
    if value == "":
        return "empty"
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
