"""Whether a run will fit into memory, what each preset needs, and the smallest change that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..config import TrainConfig
from ..training.estimate import Choice, Memory, Room, told
from ..training.presets import PRESETS
from .base import Base
from .dry_run import memory_needed

# These change what is learned or shown, and not how much is held.
_NO_MATTER = (
    *("steps", "seed", "accumulation", "save_every", "preview_prompt", "noise_offset", "templates"),
    *("max_grad_norm", "weight_decay", "augmentation", "crop_probability", "flip_probability"),
)
_SMALLEST = ("low-vram", "least-vram")  # presets, from the one that costs less time


@dataclass(frozen=True)
class Change:
    """Something that saves memory: a preset, or single settings."""

    preset: str = ""
    settings: Mapping[str, object] | None = None


class Advisor:
    """Counts what settings need on one device, each only once.

    Args:
        base: The model on "meta".
        method: A name in `METHODS`.
        config: The settings chosen.
        room: What the device has.
        device: Where it is learned.
        with_preset: The settings with another preset, all else as it was chosen.
        wording: How people make a change in this host.
        given: Further arguments of `memory_needed`.
    """

    def __init__(
        self,
        base: Base,
        method: str,
        config: TrainConfig,
        room: Room,
        device: torch.device,
        *,
        with_preset: Callable[[str], TrainConfig] | None = None,
        wording: Callable[[Change], str],
        **given: bool,
    ) -> None:
        self._base, self._method, self.config, self.room = base, method, config, room
        self._device, self._with_preset, self._wording = device, with_preset, wording
        self._given = given
        self._known: dict[str, Memory] = {}

    @property
    def chosen(self) -> Memory:
        """What the settings chosen need."""
        return self.needed(self.config)

    def needed(self, config: TrainConfig) -> Memory:
        """What these settings need.

        Raises:
            CidmError: If they cannot be.
        """
        key = repr({k: v for k, v in config.to_dict().items() if k not in _NO_MATTER})
        if key not in self._known:
            how: dict[str, Any] = {"device": self._device, **self._given}
            self._known[key] = memory_needed(self._base, self._method, config, **how)
        return self._known[key]

    def presets(self) -> dict[str, Memory]:
        """What every preset needs, all else as it was chosen."""
        if self._with_preset is None:
            return {}
        return {name: self.needed(self._with_preset(name)) for name in PRESETS}

    def savings(self) -> Iterator[Choice]:
        """Changes that save memory, from those that cost least."""
        now = self.chosen.counted
        for change, config in self._changes():
            memory = self.needed(config)
            if memory.counted < now:
                yield Choice(self._wording(change), memory)

    def better(self) -> Choice | None:
        """The smallest change that fits; else what is tight; else what needs least."""
        found: list[Choice] = []
        for choice in self.savings():
            if self.room.verdict(choice.memory) == "fits":
                return choice
            found.append(choice)
        return min(found, key=lambda choice: choice.memory.high, default=None)

    def told(self) -> str:
        """The verdict in one or two lines."""
        fits = self.room.verdict(self.chosen) == "fits"
        return told(self.chosen, self.room, None if fits else self.better())

    def _changes(self) -> Iterator[tuple[Change, TrainConfig]]:
        config, small = self.config, dict[str, object]()
        if config.batch_size > 1:
            small = {"batch_size": 1, "accumulation": config.accumulation * config.batch_size}
            yield self._settings(config, small)
        if not config.gradient_checkpointing:
            yield self._settings(config, {"gradient_checkpointing": True})
            if small:
                yield self._settings(config, {**small, "gradient_checkpointing": True})
        last = config
        for name in _SMALLEST if self._with_preset else ():
            last = self._with_preset(name) if self._with_preset else config
            yield Change(preset=name), last
        family = self._base.family
        side = last.resolution_px or family.resolution_px
        half = family.half_px(side)
        if half < side:
            change = Change(_SMALLEST[-1] if self._with_preset else "", {"resolution_px": half})
            yield change, replace(last, resolution_px=half)

    @staticmethod
    def _settings(
        config: TrainConfig, settings: Mapping[str, object]
    ) -> tuple[Change, TrainConfig]:
        changed: dict[str, Any] = dict(settings)
        return Change(settings=settings), replace(config, **changed)
