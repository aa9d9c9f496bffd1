"""Pictures of what has been learned so far, drawn in the middle of a run."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from ..bank import Bank
from ..calls import is_called
from ..concept import Concept
from ..config import SampleConfig, TrainConfig
from ..methods.base import Method
from ..sampling.concept_weights import named
from ..sampling.infuse import asking_for
from ..storage.atomic import write_atomic
from ..training.state import RunFolder
from .base import Base
from .learning import LearningHost
from .pipeline import generate
from .schedulers import OnStep

Render = Callable[[Concept], Image.Image | Sequence[Image.Image]]
OnPreview = Callable[[int, Sequence[Image.Image]], None]


def default_render(
    base: Base, bank: Bank, config: TrainConfig, on_step: OnStep | None = None, **sampling: object
) -> Render:
    """Draws `config.preview_prompt`, or the concept's own words, at the training size.

    Args:
        base: The model.
        bank: Where earlier concepts that the prompt names come from.
        config: Settings of the run.
        on_step: Called after every denoising step; may raise to end the run.
        sampling: Settings of `SampleConfig` to use instead of the family's.
    """

    def render(concept: Concept) -> list[Image.Image]:
        prompt = config.preview_prompt or concept.phrase
        # If the bank holds an earlier one of this name, it is the one that is taught again.
        found = [name for name in named([prompt], bank.callers()) if name != concept.name]
        concepts = {name: bank[name] for name in found} | {concept.name: concept}
        side = config.resolution_px or base.family.resolution_px
        given = {"width_px": side, "height_px": side, "seed": config.seed, **sampling}
        if config.frozen_fp8:  # weights of 8 bits cannot have anything added to them
            given["execution"] = "per_sample"
        settings = SampleConfig.for_family(base.family.sampling, **given)
        if is_called(prompt, [subject.triggers for subject in concept.subjects]):
            settings = asking_for(settings, concept)
        return generate(base, concepts, prompt, config=settings, on_step=on_step)

    return render


class Previews:
    """Shows the concept as it is now; the model is bare meanwhile, with its VAE at hand.

    Args:
        base: The model that learns.
        host: What sits on it.
        method: Knows the concept.
        render: Draws it.
        on_preview: Hears of the pictures; each first one is kept in the run's folder too.
        folder: Of the run.
    """

    def __init__(
        self,
        base: Base,
        host: LearningHost,
        method: Method,
        render: Render,
        on_preview: OnPreview | None,
        folder: RunFolder,
    ) -> None:
        self._base, self._host, self._method = base, host, method
        self._render, self._on_preview, self._folder = render, on_preview, folder
        self.last: Image.Image | None = None

    def show(self, step: int) -> None:
        concept = self._method.result({"steps": step})
        with self._host.suspended(), self._base.parked_vae(False), torch.no_grad():
            drawn = self._render(concept)
        pictures = [drawn] if isinstance(drawn, Image.Image) else list(drawn)
        if pictures:
            self.last = pictures[0]
            buffer = io.BytesIO()
            self.last.save(buffer, "PNG")
            write_atomic(self._folder.folder / f"preview-{step:06d}.png", buffer.getvalue())
        if self._on_preview is not None:
            self._on_preview(step, pictures)
