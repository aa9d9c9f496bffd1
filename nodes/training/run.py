"""One training on the host: memory made free, a base from the sockets, learning, all given back."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ...cidm_core.bank import Bank
from ...cidm_core.concept import Concept
from ...cidm_core.errors import CidmError
from ...cidm_core.methods import method_called
from ..host import comfy as host
from ..host.base import base_of, expected_base, lora_notes
from ..host.sockets import ContrastChoice
from .contrast import contrast_of
from .inputs import config_of, precision_of
from .progress import Reporter

if TYPE_CHECKING:
    from ...cidm_core.diffusers_host.base import Base
    from ...cidm_core.diffusers_host.composites import Contrast
    from ...cidm_core.families import Family
    from ...cidm_core.training.data import Photo, TrainingSubject

logger = logging.getLogger(__name__)
_PREVIEW_STEPS = 20  # enough to judge by, and less waiting than the family's number


@dataclass(frozen=True)
class Order:
    """What to learn and how, from the node's inputs; `settings` are those the user decided on."""

    photos: list[Photo]
    words: str
    class_words: str
    kind: str
    name: str | None
    preset: str
    method: str
    settings: Mapping[str, object]
    again: str
    subjects: Sequence[TrainingSubject] = ()
    prior: Sequence[Photo] = ()
    contrast: ContrastChoice | None = None

    def call(self, family: Family) -> dict[str, Any]:
        """Words, name, method and its settings, as `train_concept` takes them."""
        names = ("words", "class_words", "kind", "name", "method", "again", "subjects", "prior")
        config = config_of(self.method, self.settings, self.preset, family)
        return {**{name: getattr(self, name) for name in names}, "config": config}

    def contrast_for(self, family: Family, config: Any, **more: Any) -> Contrast | None:
        """What words are contrasted by, if these settings ask for it or it is connected."""
        wanted = getattr(config, "contrasts", False) or self.contrast is not None
        return contrast_of(self.contrast, family, **more) if wanted else None


@dataclass(frozen=True)
class LearnedConcept:
    """The concept, its log (one row per step; may be empty), and what the user should know."""

    concept: Concept
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list[str])

    @property
    def losses(self) -> list[float]:
        """The loss of every step that counted."""
        values = [row.get("loss") for row in self.rows]
        values = values or [self.concept.facts.get("final_loss")]
        return [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]


def learn(
    order: Order, bank: Bank, sockets: tuple[Any, Any, Any], reporter: Reporter
) -> LearnedConcept:
    """Learn a concept, go on with an interrupted run, or find that it was learned already.

    The host's models leave the device first; afterwards nothing of ours stays. When the user
    cancels, the state is kept in the bank and the host's own interruption is raised.

    Args:
        order: What to learn.
        bank: Where it goes.
        sockets: MODEL, CLIP and VAE.
        reporter: Shows how it goes.

    Raises:
        CidmError: Anything the user can mend.
    """
    from ...cidm_core.diffusers_host.job import folder_of, told_of_masks
    from ...cidm_core.training.state import final_loss, read_log

    # A wrong number is told before anything is unloaded.
    method_called(order.method).Config.from_dict(order.settings)
    model, clip, _ = sockets
    notes = lora_notes(model, clip)
    for note in notes:
        logger.warning("%s", note)
    if getattr(method_called(order.method), "masked", False):
        notes += filter(None, [told_of_masks(order.photos)])
    concept = _find(order, bank, model)
    if concept is not None:
        notes.append(f"'{concept.name}' was learned from these very inputs before; not repeated.")
    else:
        _tell_memory(order, sockets, reporter)
        host.unload_models()
        concept = _learn(order, bank, sockets, reporter)
    if concept is None:
        host.interrupt()
    rows = read_log(folder_of(bank, concept.name))
    if final_loss(rows) != concept.facts.get("final_loss"):  # of another run, since cancelled
        rows = []
    return LearnedConcept(concept, rows, notes)


def _tell_memory(order: Order, sockets: tuple[Any, Any, Any], reporter: Reporter) -> None:
    """Show what the run will need; an estimate, so that nothing is refused by it."""
    from .memory import advisor_of, is_small

    model, clip, _ = sockets
    if is_small(model):
        return
    subjects = [photo for each in order.subjects for photo in each.photos]
    try:
        advisor = advisor_of(
            model,
            clip,
            order.method,
            order.settings,
            order.preset,
            has_masks=any(photo.has_mask for photo in [*order.photos, *subjects]),
            has_prior=bool(order.prior),
        )
        text = advisor.told()
    except CidmError:
        return  # the run itself will say it
    except Exception:
        logger.warning("What the run needs could not be counted.", exc_info=True)
        return
    logger.info("%s", text)
    reporter.keep(text)


def _learn(
    order: Order, bank: Bank, sockets: tuple[Any, Any, Any], reporter: Reporter
) -> Concept | None:
    """The concept, or None if the user cancelled between two steps."""
    from ...cidm_core.training.loop import Stopped

    try:
        # Tensors made in the host's inference mode cannot be learned with.
        with torch.inference_mode(False), base_of(*sockets, precision_of(order.settings)) as base:
            return _train(base, order, bank, reporter)
    except Stopped as stopped:
        logger.info("%s", stopped)
        reporter.say_stopped()
        return None
    except BaseException as error:
        if host.is_interruption(error):  # in the middle of a preview or of encoding
            reporter.say_stopped()
        raise


def _find(order: Order, bank: Bank, model: Any) -> Concept | None:
    """The concept, if an earlier session of the host learned it from these very inputs."""
    from ...cidm_core.diffusers_host.job import find_taught

    base = expected_base(model, precision_of(order.settings))
    call = order.call(base.family)
    contrast = order.contrast_for(base.family, call["config"])
    facts = None if contrast is None else contrast.facts()
    return find_taught(base, bank, order.photos, contrast=facts, **call)


def _train(base: Base, order: Order, bank: Bank, reporter: Reporter) -> Concept:
    from ...cidm_core.diffusers_host.previews import default_render
    from ...cidm_core.diffusers_host.train import train_concept

    call = order.call(base.family)
    return train_concept(
        base,
        bank,
        order.photos,
        **call,
        contrast=order.contrast_for(base.family, call["config"], on_made=reporter.show_composites),
        on_progress=reporter.on_progress,
        should_stop=host.is_interrupted,
        on_preview=reporter.on_preview,
        preview=default_render(base, bank, call["config"], _leave_preview, steps=_PREVIEW_STEPS),
    )


def _leave_preview(*_: object) -> None:
    """A cancelled preview ends the run; its state is kept on the way out."""
    if host.is_interrupted():
        host.interrupt()
