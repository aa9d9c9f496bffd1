"""Teach a diffusion model concepts one after another, keep them all, compose them by regions.

The public names load on first use, so that `import cidm_core` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bank import Bank
    from .concept import Concept
    from .config import SampleConfig, TrainConfig
    from .diffusers_host.base import Base
    from .diffusers_host.load import load_base
    from .diffusers_host.pipeline import generate, make_plan
    from .diffusers_host.train import train_concept
    from .errors import CidmError
    from .evaluation.evaluate import evaluate
    from .methods.cidm import CidmConfig
    from .regions import Region
    from .training.data import Photo, TrainingSubject

__version__ = "0.1.0"
__all__ = [
    "Bank",
    "Base",
    "CidmConfig",
    "CidmError",
    "Concept",
    "Photo",
    "Region",
    "SampleConfig",
    "TrainConfig",
    "TrainingSubject",
    "__version__",
    "evaluate",
    "generate",
    "load_base",
    "make_plan",
    "train_concept",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:  # noqa: C901 - a table
    match name:
        case "Bank":
            from .bank import Bank as found
        case "Base":
            from .diffusers_host.base import Base as found
        case "CidmConfig":
            from .methods.cidm import CidmConfig as found
        case "CidmError":
            from .errors import CidmError as found
        case "Concept":
            from .concept import Concept as found
        case "Photo":
            from .training.data import Photo as found
        case "Region":
            from .regions import Region as found
        case "SampleConfig":
            from .config import SampleConfig as found
        case "TrainConfig":
            from .config import TrainConfig as found
        case "TrainingSubject":
            from .training.data import TrainingSubject as found
        case "evaluate":
            from .evaluation.evaluate import evaluate as found
        case "generate":
            from .diffusers_host.pipeline import generate as found
        case "load_base":
            from .diffusers_host.load import load_base as found
        case "make_plan":
            from .diffusers_host.pipeline import make_plan as found
        case "train_concept":
            from .diffusers_host.train import train_concept as found
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
