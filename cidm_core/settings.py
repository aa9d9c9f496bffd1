"""What settings are: each default, limit and help text declared once.

The command line and the nodes render their inputs from these fields, `__post_init__` checks the
same limits, and the bank stores them as provenance. A *recipe* is one word for a set of choices:
settings that nobody gave take its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, TypeVar

from .errors import CidmError

AnySettings = TypeVar("AnySettings", bound="Settings")
RECIPES = ("ours", "paper", "released")


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    advanced: bool = True,
    several: bool = False,
) -> Any:
    """A dataclass field that carries its limits and, as a sentence, its help text.

    A default that is a mapping gives the value of each recipe. The user interfaces fold `advanced`
    settings away. `several`: a text that may be given in parts, with commas between them.
    """
    metadata: dict[str, Any] = {"help": help, "min": low, "max": high, "choices": choices}
    metadata |= {"advanced": advanced, "by_recipe": {}, "several": several}
    if isinstance(default, Mapping):
        metadata["by_recipe"], default = default, None
    return field(default=default, metadata=metadata)


def other_default(settings: type[Settings], name: str, default: Any) -> Any:
    """A field for settings that extend others: limits and help of theirs, another default."""
    known = next(f for f in fields(settings) if f.name == name).metadata
    kept = {k: known[k] for k in ("help", "choices", "advanced")}
    return setting(default, low=known["min"], high=known["max"], **kept)


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
}


def _objection(f: Field[Any], value: Any) -> str | None:
    """What is wrong with a value and what would do, or None."""
    kind, _, optional = str(f.type).partition(" | ")
    types, wanted = _KINDS[kind]
    if value is None:
        return None if optional else f"None; give {wanted}"
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
        return f"{value!r}; give {wanted}"
    choices, low, high = (f.metadata[key] for key in ("choices", "min", "max"))
    if choices and value not in choices:
        return f"{value!r}; choose one of {', '.join(choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}; give a finite number"
    if (low is not None and value < low) or (high is not None and value > high):
        upper = "or more" if high is None else f"to {high}"
        return f"{value}; allowed is {low} {upper}"
    return None


def recipe_setting(subject: str) -> Any:
    """The field `recipe`, which decides all settings that have a default for each recipe."""
    help = f"One word for every choice of {subject}: what the benchmark shows to be best (ours), "
    help += "the paper's, or the released code's. Single settings override it."
    return setting("ours", help, choices=RECIPES, advanced=False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings can do; values are checked when they are given."""

    def __post_init__(self) -> None:
        for f in fields(self):
            if (by_recipe := f.metadata["by_recipe"]) and getattr(self, f.name) is None:
                # An unknown recipe is found when its own turn comes.
                usual = next(iter(by_recipe.values()))
                value = by_recipe.get(getattr(self, "recipe", ""), usual)
                object.__setattr__(self, f.name, value)
            if found := _objection(f, getattr(self, f.name)):
                raise CidmError(f"{f.name} is {found}.")

    @classmethod
    def from_dict(cls: type[AnySettings], values: Mapping[str, object]) -> AnySettings:
        """Build from plain values.

        Raises:
            CidmError: If a name is no setting, or a value is out of its limits.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(values.keys() - known):
            names = ", ".join(sorted(known))
            raise CidmError(f"Unknown setting {', '.join(unknown)}. Known are: {names}.")
        return cls(**values)

    @classmethod
    def for_family(
        cls: type[AnySettings], values: Mapping[str, object], **given: object
    ) -> AnySettings:
        """A family's own values, overridden by what was given."""
        return cls.from_dict({**values, **given})

    def to_dict(self) -> dict[str, object]:
        return asdict(self)
