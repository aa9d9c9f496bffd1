"""What a run will hold in memory, found by a step of it on tensors without numbers.

The base model, the method and the optimiser are the real ones, on torch's device "meta" (see
`ledger`); so whatever is changed in them is counted. Not counted: the contrast of words before
other stages, which holds less, and consolidation with earlier concepts (CIDM's R1 and R2).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from diffusers import AutoencoderKL

from ..concept import Subject
from ..config import TrainConfig
from ..devices import DTYPES
from ..errors import HostError
from ..methods import method_called
from ..methods.base import Method, Stage, Task
from ..methods.batches import Batch, PhotoBatches
from ..methods.shared import PriorConfig
from ..training.estimate import Memory
from ..training.lesson import settled, size_px
from ..training.optimiser import Optimiser
from .base import Base
from .build import emptied
from .cache import pictures_at_once
from .learning import LearningHost
from .ledger import META, AsOn, Ledger, backward


def without_numbers(base: Base) -> Base:
    """A model of the same shapes, for `memory_needed`."""
    own_vae = isinstance(base.vae, AutoencoderKL)
    return replace(
        base,
        unet=emptied(base.unet),
        vae=emptied(base.vae) if own_vae else base.vae,
        text_encoders=tuple(map(emptied, base.text_encoders)),
        device=META,
    )


def memory_needed(
    base: Base,
    method: str,
    config: TrainConfig | None = None,
    *,
    device: torch.device,
    has_masks: bool = False,
    has_prior: bool = False,
) -> Memory:
    """Count what `train_concept` with these settings will hold on a device.

    Args:
        base: The model on torch's device "meta", as `load_base(..., device="meta")` gives it.
        method: A name in `METHODS`.
        config: Its settings; by default the method's own for the family.
        device: Where it will be learned.
        has_masks: Whether photos have masks.
        has_prior: Whether prior pictures are given.

    Raises:
        CidmError: As `train_concept` does for settings that cannot be.
        HostError: If the base has numbers.
    """
    if base.device != META:
        raise HostError("Memory is counted on a model without numbers: load it on 'meta'.")
    config = settled(config, method, base)
    # A host may call from inference mode, whose tensors cannot be learned with.
    with torch.inference_mode(False), torch.enable_grad():
        return _DryRun(base, method, config, device).memory(
            has_masks=has_masks, has_prior=has_prior
        )


class _DryRun:
    def __init__(self, base: Base, method: str, config: TrainConfig, device: torch.device) -> None:
        self._base, self._config, self._device = base, config, device
        self._made = method_called(method)
        # Another host's VAE is on the device when that host wants it.
        self._own_vae = isinstance(base.vae, AutoencoderKL)
        self._side = size_px(config, base.family)
        self._ledger = Ledger(counts_parked=device.type == "cpu")

    def memory(self, *, has_masks: bool, has_prior: bool) -> Memory:
        """Everything in the order of a run."""
        base, config, ledger = self._base, self._config, self._ledger
        draws = isinstance(config, PriorConfig) and config.prior_images > 0 and not has_prior
        modules = (base.unet, *base.text_encoders, *((base.vae,) if self._own_vae else ()))
        waiting = base.text_encoders if config.park_text_encoders else ()
        waiting += (base.unet,) if config.frozen_fp8 else ()
        drawing = 0
        with ExitStack() as stack:
            stack.enter_context(ledger)
            ledger.hold(p for module in modules for p in module.parameters())
            loading = ledger.mark()
            if draws:
                drawing = self._decoded()
            with base.parked(*waiting):
                photos = self._encoded()
            if self._own_vae:
                stack.enter_context(base.parked_vae())
            host = LearningHost(base, *self._names)
            method = self._made(self._task(), config, (), host)
            stack.enter_context(host.attached(method.updates, config))
            weights, learned, most = self._step(method, has_masks, has_prior or draws)
            if config.preview_every:
                with host.suspended(), base.parked_vae(not self._own_vae):
                    drawing = max(drawing, self._decoded())
        return Memory(weights, learned, most - weights - learned, loading, photos, drawing)

    @property
    def _words(self) -> tuple[str, ...]:
        """How many there are matters little; those that stand for tokens are read from numbers."""
        return () if getattr(self._made, "on_request", False) else ("<a1>", "<a2>")

    @property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self._words, () if self._words else ("dog",)

    def _task(self) -> Task:
        base = self._base
        subjects = (Subject(self._words, "dog", "object"),)
        return Task("estimate", subjects, base.family.name, base.fingerprint, base.layers)

    @torch.no_grad()
    def _encoded(self) -> int:
        """The most while photos are encoded."""
        self._ledger.mark()
        if self._own_vae:
            side = self._side
            count = min(self._config.variants, pictures_at_once(side))
            with AsOn(self._device):
                self._base.encoded(torch.zeros(count, 3, side, side, device=META))
        return self._ledger.peak

    @torch.no_grad()
    def _decoded(self) -> int:
        """The most while a picture is decoded."""
        self._ledger.mark()
        if self._own_vae:
            with AsOn(self._device):
                self._base.decoded(self._latents(1))
        return self._ledger.peak

    def _latents(self, count: int) -> torch.Tensor:
        family = self._base.family
        cells = self._side // family.latent_px
        return torch.zeros(count, family.latent_channels, cells, cells, device=META)

    def _step(self, method: Method, has_masks: bool, has_prior: bool) -> tuple[int, int, int]:
        """Weights, what learns, and the most in a step, of the stage that holds most: the last."""
        config, base, ledger = self._config, self._base, self._ledger
        stages = [each for each in method.stages() if isinstance(each.source, PhotoBatches)]
        stage = stages[-1]
        groups = dict.fromkeys(group for each in method.stages() for group in each.groups)
        for group in groups:
            group.learn(group in stage.groups)
        held = [each for group in groups for each in (group.flat, group.grad)]
        weights = ledger.now - sum(each.nbytes for each in held)
        if config.park_text_encoders and self._device.type != "cpu":  # they leave in the first step
            weights -= sum(p.nbytes for each in base.text_encoders for p in each.parameters())
        optimiser = Optimiser(stage.groups, config.weight_decay)
        optimiser.update(1.0, 1.0)  # so that it has its moments
        batch = self._batch(stage, has_masks, has_prior)
        dtype = None if config.precision == "fp32" else DTYPES[config.precision]
        ledger.mark()
        with AsOn(self._device, dtype):
            terms = {**stage.losses(batch), **stage.penalties()}
            backward(torch.stack([term.float() for term in terms.values()]).sum())
        optimiser.update(1.0, 1.0)
        learned = sum(each.nbytes for each in (*held, *optimiser.state().values()))
        return weights, learned, ledger.peak

    def _batch(self, stage: Stage, has_masks: bool, has_prior: bool) -> Batch:
        """As large as the stage's; every caption is another."""
        source = stage.source
        assert isinstance(source, PhotoBatches)
        photos = source.size or self._config.batch_size
        with_prior = source.prior != "none" and has_prior
        count = 2 * photos if with_prior and source.prior == "paired" else photos
        latents = self._latents(count)
        masks = torch.ones_like(latents[:, 0])
        named = " ".join(self._words) or "dog"
        return Batch(
            latents=latents,
            noise=latents.clone(),
            timesteps=torch.zeros(count, dtype=torch.long, device=META),
            prompts=tuple(f"a photo of a {named}{', ' * number}" for number in range(count)),
            image_masks=masks,
            concept_masks=masks.clone() if has_masks else None,
            is_prior=torch.zeros(count, dtype=torch.bool, device=META) if with_prior else None,
        )
