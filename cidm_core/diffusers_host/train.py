"""Learn one concept on a diffusers model and put it into a bank (CIDM section 4.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch

from .. import __version__
from ..bank import Bank
from ..concept import Concept
from ..config import TrainConfig
from ..devices import is_out_of_memory
from ..errors import HostError
from ..methods.base import MakeMethod, Method
from ..training.data import Photo, TrainingSubject
from ..training.lesson import Lesson, settled
from ..training.loop import Loop
from ..training.processes import Processes
from ..training.progress import Hooks, OnProgress
from ..training.state import RunFolder, final_loss, loss_curve
from .base import Base
from .composites import Contrast, contrast_facts
from .inputs import drawn_prior, opened, seen_composites
from .job import Job, prepare
from .learning import LearningHost
from .previews import OnPreview, Previews, Render, default_render
from .processes import LaunchedProcesses
from .shortage import low_memory

logger = logging.getLogger(__name__)


def train_concept(
    base: Base,
    bank: Bank,
    photos: Sequence[Photo],
    *,
    words: str | Sequence[str] = (),
    class_words: str,
    kind: str = "object",
    name: str | None = None,
    method: str = "cidm",
    config: TrainConfig | None = None,
    subjects: Sequence[TrainingSubject] = (),
    prior: Sequence[Photo] = (),
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_preview: OnPreview | None = None,
    preview: Render | None = None,
    mapping: Mapping[str, str] | None = None,
    resume: bool = True,
    again: str = "refuse",
    contrast: Contrast | None = None,
    make: MakeMethod | None = None,
    processes: Processes | None = None,
) -> Concept:
    """Learn a concept from photos and add it to the bank.

    Everything that can be wrong with the input is found before any work starts. Whatever ends the
    run early (`should_stop`, Ctrl-C, an error) leaves the model as it was and a state in
    `<bank>/.runs/<name>/`, from which a call with the same arguments goes on, to the same bits on
    a CPU. Started by `accelerate launch`, all processes call this alike; the main one writes.

    Args:
        base: The model.
        bank: Where the concept goes; its earlier concepts are consolidated with (Eq. 2).
        photos: 3 to 5 are enough; `Photo.from_folder`.
        words: Concept words, identity first, class noun last: "<dog1> <dog2>". Methods that teach
            no words are called by the class words.
        class_words: The plain words they stand for in the captions: "dog".
        kind: "object", "style" or "human"; chooses the caption templates.
        name: Name in the bank. By default it is made from the words.
        method: How it is learned; a name in `cidm_core.methods.METHODS`.
        config: Settings of the method, or a `TrainConfig` for those that all methods share. By
            default they are the method's own for the model's family.
        subjects: Further subjects, for methods that teach several at once.
        prior: Pictures of other things of the class, for methods that preserve what the model knows
            of it.
        on_progress: Called after every step, and after every encoded photo before.
        should_stop: Asked before every step; True ends the run with `Stopped`.
        on_preview: Called with step and pictures every `config.preview_every` steps.
        preview: Makes those pictures. Default: `generate` with the concept as learned so far.
        mapping: Replacements in captions instead of class words by words.
        resume: Go on from a saved state of this very run if there is one.
        again: For words that the bank's concept has already: "refuse", and say what differs;
            "replace" it once the new one is complete (until then the old file stays as it is, the
            place in the order always); "go_on" from its words and weights, if the method can.
        contrast: CLIP and common things, where words are to learn by contrast.
        make: Builds the method instead of the one named. Its repr belongs to the run's name:
            what it shows must say all that matters, and be the same in the next process.
        processes: Those that share this run. Default: all of `accelerate launch`; `Alone()` learns
            in this one process whatever the others do.

    Returns:
        The concept as stored.

    Raises:
        BankError: Name or words are taken, there is nothing to go on from, or the bank cannot be
            written.
        CidmError: The method is unknown, or the settings are of another one.
        ConceptError: The words cannot be used.
        FamilyError: The bank's concepts were learned on another model.
        HostError: The machine cannot do what was asked, or memory ran out.
        PhotoError: A photo or caption cannot be used.
        PromptError: A caption's concept word lies beyond the text encoder's limit.
        TrainingError: The method cannot teach this, or go on from what was taught; loss or
            gradients stay NaN; or (`Stopped`) the caller stopped the run.
    """
    processes = processes or LaunchedProcesses(base.device)
    first = TrainingSubject(photos, words, class_words, kind, mapping, prior)
    config = settled(config, method, base)
    facts = None if contrast is None else contrast.facts()
    lesson = Lesson.of((first, *subjects), method, config, make, facts)
    if contrast is not None and lesson.contrasts:
        contrast.clip.check(base.family, base.name)
        contrast.clip.tell_if_other(base)
    job = prepare(base, bank, lesson, name, again, processes)
    render = preview or default_render(base, bank, job.config)
    hooks = Hooks(on_progress, should_stop) if processes.rank == 0 else Hooks()
    try:
        # A host may call from inference mode, whose tensors cannot be learned with.
        with torch.inference_mode(False), torch.enable_grad(), job.folder.held():
            return _learn(job, hooks, render, on_preview, contrast, resume)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(str(error) or _how_to_resume(job.folder)) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise HostError(low_memory(job)) from error


def _learn(
    job: Job,
    hooks: Hooks,
    render: Render,
    on_preview: OnPreview | None,
    contrast: Contrast | None,
    resume: bool,
) -> Concept:
    base, config = job.base, job.config
    job.processes.wait()  # the main process may still be writing the state of a stopped run
    state = job.folder.load(resume=resume) if job.folder.writes else None
    job.processes.wait()  # it puts the state in its place before the others read it
    if not job.folder.writes:
        state = job.folder.load(resume=resume)
    job.processes.wait()  # nor may it go on before all have read it
    clip = None if contrast is None else contrast.clip
    host = LearningHost(base, job.task.words, job.task.phrases, clip)
    if (check := getattr(job.make, "check", None)) is not None:
        check(job.task, config, host)
    seen = seen_composites(job, contrast, hooks)
    drawn = drawn_prior(job, hooks)  # with the whole model, so before parts of it leave the device
    # A small card has no room for all of SDXL beside the VAE at work.
    waiting = base.text_encoders if config.park_text_encoders else ()
    waiting += (base.unet,) if config.frozen_fp8 else ()
    with ExitStack() as stack:
        with base.parked(*waiting):
            sources = opened(job, host, hooks, drawn, seen)
        stack.enter_context(base.parked_vae())
        method = job.make(job.task, config, job.others.values(), host)
        stack.enter_context(host.attached(method.updates, config))
        previews = Previews(base, host, method, render, on_preview, job.folder)
        hooks = Hooks(hooks.on_progress, hooks.should_stop, previews.show)
        loop = Loop(method, sources.open, config, job.folder, base.device, hooks, job.processes)
        if state is not None:
            loop.resume(state)
            logger.info("Going on at step %d of %d.", loop.step, loop.steps)
        loop.run()
        told = contrast_facts(job, method, seen)
    return _store(job, method, loop, previews, told)


def _store(
    job: Job, method: Method, loop: Loop, previews: Previews, told: Mapping[str, object]
) -> Concept:
    """Add the concept to the bank; if that does not work, the run can still be taken up again."""
    if job.processes.rank == 0:
        facts = {
            "steps": loop.step,
            "final_loss": final_loss(job.folder.rows),
            "losses": loss_curve(job.folder.rows),
            "seconds": round(loop.seconds, 1),
            "skipped": loop.skipped,
            **job.facts,
            **told,
            "version": __version__,
        }
        try:
            picture = previews.last or job.photos[0].image
            stored = job.bank.add(method.result(facts), picture, replaces=job.replaces)
        except BaseException:
            job.folder.save(loop.state())
            raise
        job.folder.finish(job.task.name)
        job.processes.wait()
        return stored
    job.processes.wait()
    return job.bank[job.task.name]


def _how_to_resume(folder: RunFolder) -> str:
    if not folder.state_path.exists():
        return "Stopped before the first step."
    return f"Stopped. The state is kept in '{folder.folder}'; the same call goes on from there."
