"""What a run learns from, encoded before its first step: photos, prior pictures, composites."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..methods.shared import PriorConfig
from ..training.batches import CachedPhotos, Draws
from ..training.contrast import EncodedComposites
from ..training.data import Photo
from ..training.loop import Stopped
from ..training.progress import Hooks, Progress
from ..training.sources import Sources
from .cache import cache_latents
from .composites import Contrast, encoded
from .job import Job, check_caption
from .learning import LearningHost
from .prior import PRIORS, draw_prior

logger = logging.getLogger(__name__)

PRIOR_MISSING = (
    "There are no prior pictures of %r: the model may come to take everything of the class for the "
    "subject. Give a folder of them, or let prior_images be drawn."
)


def opened(
    job: Job,
    host: LearningHost,
    hooks: Hooks,
    drawn: Sequence[Photo],
    seen: EncodedComposites | None,
) -> Sources:
    """Everything encoded that batches are drawn from."""
    base, config = job.base, job.config
    tell = _teller(job, hooks, len(job.photos) + len(job.prior) + len(drawn))

    def cached(
        held: Sequence[Photo], label: str, draws: str, before: int = 0, **other: str
    ) -> CachedPhotos:
        latents = cache_latents(
            base,
            held,
            replace(config, **other),
            job.size_px,
            lambda done: tell(before + done),
            label,
        )
        return CachedPhotos(latents, held, draws)

    # Going on draws other noise than what was learned from.
    after = f" after {earlier}" if (earlier := job.facts.get("earlier_steps")) else ""
    photos = cached(job.lesson.templated(job.photos), "look", f"concept{after}")
    prior = None
    if held := [*job.lesson.templated(job.prior), *drawn]:  # they show the class as it is
        before = len(job.photos)
        prior = cached(held, "prior look", "prior", before, augmentation="none")
    draws = Draws(
        seed=config.seed,
        size=config.batch_size,
        timesteps=host.timesteps,
        noise_offset=config.noise_offset,
        device=base.device,
        processes=job.processes,
        check=lambda caption: check_caption(
            base, caption, job.task.words, job.task.phrases, quiet=True
        ),
    )
    retold = partial(job.lesson.templated, job.photos)
    return Sources(photos, prior, draws, retold, seen)


def seen_composites(job: Job, contrast: Contrast | None, hooks: Hooks) -> EncodedComposites | None:
    """Composites of the subjects as CLIP sees them, if words learn by contrast."""
    if contrast is None or not job.lesson.contrasts:
        return None
    if job.processes.rank != 0:
        job.processes.wait()  # the main one makes them; then they are all there
    tells: dict[int, Callable[[int], None]] = {}

    def tell(done: int, total: int) -> None:
        tells.setdefault(total, _teller(job, hooks, total, "composing"))(done)

    found = encoded(job, contrast, tell)
    if job.processes.rank == 0:
        job.processes.wait()
    return found


def drawn_prior(job: Job, hooks: Hooks) -> list[Photo]:
    """Prior pictures by the model itself, of the subjects without any, if the method wants them."""
    if not isinstance(job.config, PriorConfig):
        return []
    given = {photo.subject for photo in job.prior}
    without = [(i, each) for i, each in enumerate(job.task.subjects) if i not in given]
    if not job.config.prior_images:
        for _, subject in without:
            logger.warning(PRIOR_MISSING, subject.class_words)
        return []
    main = job.processes.rank == 0
    if not main:
        job.processes.wait()  # the main one draws; then they are all there
    drawn = [
        replace(photo, subject=number)
        for number, subject in without
        for photo in draw_prior(
            job.base,
            job.bank.path / PRIORS,
            subject.class_words,
            subject.kind,
            count=job.config.prior_images,
            on_progress=hooks.on_progress,
            # Several processes agree on stopping in the loop only: the others wait for this one.
            should_stop=hooks.should_stop if job.processes.count == 1 else None,
            width_px=job.size_px,
            height_px=job.size_px,
        )
    ]
    if main:
        job.processes.wait()
    return drawn


def _teller(job: Job, hooks: Hooks, total: int, phase: str = "preparing") -> Callable[[int], None]:
    """Progress while photos are encoded, or composites made."""

    def tell(done: int) -> None:
        if hooks.on_progress is not None:
            hooks.on_progress(Progress(done, total, phase=phase))
        # Several processes agree on stopping in the loop only.
        if job.processes.count == 1 and hooks.should_stop is not None and hooks.should_stop():
            raise Stopped("Stopped while the pictures were prepared; nothing was learned yet.")

    return tell
