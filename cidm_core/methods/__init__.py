"""The ways a concept can be learned. A new one is a file here and a line in `METHODS`."""

from __future__ import annotations

from dataclasses import fields

from ..config import TrainConfig
from ..errors import CidmError
from ..families import Family
from .base import MethodClass
from .cidm import Cidm
from .clif import Clif
from .custom_diffusion import CustomDiffusion
from .infusion import Infusion

METHODS: dict[str, MethodClass] = {
    "cidm": Cidm,
    "custom_diffusion": CustomDiffusion,
    "infusion": Infusion,
    "clif": Clif,
}


def method_called(name: str) -> MethodClass:
    """A row of `METHODS`.

    Raises:
        CidmError: If there is none of this name.
    """
    if name not in METHODS:
        raise CidmError(f"There is no method {name[:40]!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def config_for(method: str, family: Family, **given: object) -> TrainConfig:
    """Settings of a method on a model of this family, overridden by what was given.

    Raises:
        CidmError: If the method or a setting is unknown, or a value is out of its limits.
    """
    return method_called(method).Config.for_family(family.training.get(method, {}), **given)


def adopted(method: str, config: TrainConfig) -> TrainConfig:
    """Settings as a method takes them: of a plain `TrainConfig` the method's own with its values.

    Values that are `TrainConfig`'s defaults leave those of the method standing.

    Raises:
        CidmError: If they are the settings of another method.
    """
    wanted = method_called(method).Config
    if isinstance(config, wanted):
        return config
    if type(config) is not TrainConfig:
        raise CidmError(
            f"{type(config).__name__} holds settings of another method; {method} takes "
            f"{wanted.__name__} or TrainConfig."
        )
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    defaults = {f.name: f.default for f in fields(config)}
    return wanted.from_dict({k: v for k, v in values.items() if v != defaults[k]})
