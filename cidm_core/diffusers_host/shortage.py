"""What to say when memory ran out: what would help, and by how much."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..config import TrainConfig
from ..training.estimate import gb
from .dry_run import memory_needed, without_numbers
from .job import Job

logger = logging.getLogger(__name__)


def low_memory(job: Job) -> str:
    """The message for somebody whose device is too small."""
    config, base = job.config, job.base
    advice = _advice(job)
    if base.dtype == torch.float32:
        advice.append("precision='bf16' and the model loaded with dtype='bf16'")
    return (
        f"Memory of {base.device} ran out while learning at {job.size_px} px, batch size "
        f"{config.batch_size}, precision {config.precision}. Try {', '.join(advice)}, or close "
        "other programs."
    )


def _advice(job: Job) -> list[str]:
    """Changes that save something, with what would be needed then if that can be counted."""
    changes = dict(_changes(job))
    try:
        counted = _Counted(job)
        now = counted.about(job.config)
        needs = {text: counted.about(config) for text, config in changes.items()}
    except Exception:
        logger.debug("What changes save could not be counted.", exc_info=True)
        return list(changes)
    shown = {text: gb(need) for text, need in needs.items() if need < now and gb(need) != gb(now)}
    told = [f"{text} (about {need} GB instead of {gb(now)})" for text, need in shown.items()]
    return told or list(changes)


def _changes(job: Job) -> Iterator[tuple[str, TrainConfig]]:
    config, family = job.config, job.base.family
    if not config.gradient_checkpointing:
        yield "gradient_checkpointing=True", replace(config, gradient_checkpointing=True)
    if config.batch_size > 1:
        yield "batch_size=1", replace(config, batch_size=1)
    if job.base.device.type != "cpu":
        if not config.frozen_fp8:
            yield "frozen_fp8=True", replace(config, frozen_fp8=True)
        if not config.park_text_encoders:
            yield "park_text_encoders=True", replace(config, park_text_encoders=True)
    half = family.half_px(job.size_px)
    if half < job.size_px:
        yield f"resolution_px={half}", replace(config, resolution_px=half)


class _Counted:
    def __init__(self, job: Job) -> None:
        self._job, self._base = job, without_numbers(job.base)

    def about(self, config: TrainConfig) -> int:
        """Bytes by estimate."""
        job = self._job
        return memory_needed(
            self._base,
            job.lesson.method,
            config,
            device=job.base.device,
            has_masks=any(photo.has_mask for photo in job.photos),
            has_prior=bool(job.prior),
        ).about
