"""`cidm train --estimate`, and what every `cidm train` says of memory before it begins."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..errors import CidmError
from ..training.presets import presets_of
from .console import Console
from .flags import chosen_base, given, own_device

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..diffusers_host.advice import Advisor, Change
    from ..families import Family
    from ..training.estimate import Memory, Room

logger = logging.getLogger(__name__)

_MINI = ("mini-sd", "mini-sdxl")  # need less than any machine has


def add_estimate(group: Any) -> None:
    """The flag --estimate."""
    group.add_argument(
        "--estimate",
        action="store_true",
        help="Say how much memory these settings and each preset need, beside what the device has, "
        "and learn nothing. Needs --model and settings only.",
    )


def estimated(
    args: argparse.Namespace, settings: Mapping[str, object], console: Console
) -> dict[str, object]:
    """Print the table; `settings` are those of an options file.

    Raises:
        CidmError: If the model or the settings cannot be.
    """
    advisor = _advisor(args, settings)
    chosen, room = advisor.chosen, advisor.room
    presets = advisor.presets()
    console.say(_table({"as chosen": chosen, **presets}, room))
    console.say(advisor.told())
    fits = room.verdict(chosen) == "fits"
    better = None if fits else advisor.better()
    return {
        "room": asdict(room),
        "chosen": _row(chosen, room),
        "presets": {name: _row(memory, room) for name, memory in presets.items()},
        "better": better and {"change": better.name, **_row(better.memory, room)},
    }


def tell_memory(
    args: argparse.Namespace,
    settings: Mapping[str, object],
    console: Console,
    *,
    has_masks: bool,
    has_prior: bool,
) -> None:
    """Say before a run what it will need; that it cannot fit is said to everybody.

    It is an estimate: nothing is refused, and what goes wrong with it ends no run.
    """
    if args.model in _MINI or not console.is_main:
        return
    try:
        advisor = _advisor(args, settings, has_masks=has_masks, has_prior=has_prior)
        text = advisor.told()
        fits = advisor.room.verdict(advisor.chosen) != "does not fit"
    except CidmError:
        return  # the run itself will say it
    except Exception:
        logger.warning("What the run needs could not be counted.", exc_info=True)
        return
    (console.note if fits else console.error)(text)


def _advisor(args: argparse.Namespace, settings: Mapping[str, object], **known: bool) -> Advisor:
    from ..devices import choose_device, memory_of
    from ..diffusers_host.advice import Advisor
    from ..training.estimate import Room

    device = choose_device(own_device(args.device))
    base = chosen_base(args, without_numbers=True)

    def config(preset: str | None) -> TrainConfig:
        return _share(_config(args, settings, preset, base.family))

    return Advisor(
        base,
        args.method,
        config(args.preset),
        Room(*memory_of(device)),
        device,
        with_preset=config,
        wording=wording,
        **known,
    )


def _config(
    args: argparse.Namespace, settings: Mapping[str, object], preset: str | None, family: Family
) -> TrainConfig:
    from ..methods import config_for, method_called

    chosen = presets_of(method_called(args.method).Config)[preset] if preset else {}
    return config_for(args.method, family, **{**settings, **chosen, **given(args)})


def _share(config: TrainConfig) -> TrainConfig:
    """What one of several processes has to do."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return replace(config, batch_size=max(1, config.batch_size // processes))


def wording(change: Change) -> str:
    """A change as flags."""
    flags = [f"--preset {change.preset}"] if change.preset else []
    for name, value in (change.settings or {}).items():
        flag = f"--{name.removesuffix('_px').replace('_', '-')}"
        flags.append(flag if value is True else f"{flag} {value}")
    return " ".join(flags)


def _row(memory: Memory, room: Room) -> dict[str, object]:
    return {**memory.to_dict(), "verdict": room.verdict(memory)}


def _table(rows: Mapping[str, Memory], room: Room) -> str:
    from ..training.estimate import gb

    lines = [
        f"{'':12} {'needs':>7}  {'of ' + gb(room.total) + ' GB':13} "
        "weights  learns  activations  photos  drawing"
    ]
    for name, memory in rows.items():
        drawing = gb(memory.drawing) if memory.drawing else "-"
        lines.append(
            f"{name:12} {gb(memory.about):>4} GB  {room.verdict(memory):13} "
            f"{gb(memory.weights):>7} {gb(memory.learned):>7} {gb(memory.work):>12} "
            f"{gb(memory.photos):>7} {drawing:>8}"
        )
    return "\n".join(lines)
