"""A base model in memory: its modules, and what the rest of the package asks about them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.geometry import family_of, layers_of
from ..checkpoints.schedule import PREDICTIONS, SCHEDULE
from ..errors import HostError
from ..families import CrossAttention, Family
from ..fingerprints import fingerprint, fingerprint_paths


@dataclass(eq=False)
class Base:
    """A frozen base model, ready for learning and sampling.

    Attributes:
        family: Row of the families table.
        layers: Its attn2 modules in execution order, from the UNet's real geometry.
        fingerprint: Name of the weights (`fingerprints.fingerprint`).
        name: File stem or folder name.
        unet: UNet2DConditionModel.
        vae: AutoencoderKL, of the same dtype as the rest; a wider one where fp16 is too narrow
            for it, as for SDXL's own.
        text_encoders: One module per row of `family.encoders`.
        tokenizers: One per text encoder; `model_max_length` is the family's limit.
        scheduler_config: Noise schedule, as diffusers' schedulers take it.
        device: Where the modules are.
        dtype: Type of their weights.
    """

    family: Family
    layers: tuple[CrossAttention, ...]
    fingerprint: str
    name: str
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any] = field(default_factory=lambda: dict(SCHEDULE))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon", "v_prediction" or "sample"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    def located(self, path: str) -> tuple[Any, str]:
        """The UNet or text encoder that a path in a concept belongs to, and the path inside it."""
        name, _, rest = path.partition(".")
        names = [row.name for row in self.family.encoders]
        if name not in names:
            return self.unet, path
        encoder = self.text_encoders[names.index(name)]
        # transformers 5 dropped the inner level.
        has_level = any(key == "text_model" for key, _ in encoder.named_children())
        return encoder, rest if has_level else rest.removeprefix("text_model.")

    def module(self, path: str) -> Any:
        """The module at a path as concepts have it.

        Raises:
            AttributeError: If there is none.
        """
        root, inside = self.located(path)
        return root.get_submodule(inside)

    def shape_of(self, path: str) -> tuple[int, ...] | None:
        """Shape of the weight at a path as concepts have it; None if there is none."""
        with contextlib.suppress(AttributeError):
            return tuple(self.module(path).weight.shape)
        return None

    def parameter(self, name: str) -> Tensor:
        """A weight or bias by its name in concepts ("...attn2.to_k.weight"), float32 on the CPU."""
        path, _, part = name.rpartition(".")
        return getattr(self.module(path), part).detach().float().cpu()

    @torch.no_grad()
    def encoded(self, pixels: Tensor) -> Tensor:
        """Clean latents, float32, of pictures (pictures, 3, height, width) in -1..1.

        They are the posterior's mode, as in ComfyUI's VAE Encode. Sampling the posterior instead
        adds noise that the model would have to predict too; SD's is so narrow that it makes no
        difference.

        Raises:
            HostError: If they are not finite.
        """
        found = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        latents = (found.mode().float() - self._latent_shift) * self.vae.config.scaling_factor
        if not torch.isfinite(latents).all():
            raise HostError(
                f"The VAE of {self.name} gives NaN in {str(self.vae.dtype).removeprefix('torch.')}."
                " Load the model in fp32 or bf16."
            )
        return latents

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """Pictures in -1..1, float32, of clean latents."""
        scaled = latents / self.vae.config.scaling_factor + self._latent_shift
        return self.vae.decode(scaled.to(self.vae.dtype)).sample.float().clamp(-1, 1)

    @property
    def _latent_shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    @contextmanager
    def parked(self, *modules: nn.Module) -> Generator[None]:
        """Modules off the device for a while."""
        for module in modules:
            module.to("cpu")
        try:
            yield
        finally:
            for module in modules:
                module.to(self.device)

    @contextmanager
    def parked_vae(self, parked: bool = True) -> Generator[None]:
        """The VAE off the device while something is learned; within that, back for a preview."""
        now, then = ("cpu", self.device) if parked else (self.device, "cpu")
        self.vae.to(now)
        try:
            yield
        finally:
            self.vae.to(then)


@contextmanager
def changed_weights(deltas: Iterable[tuple[nn.Parameter, Tensor]]) -> Generator[None]:
    """Parameters of other values for a while; afterwards the same bits as before."""
    saved: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for parameter, delta in deltas:
            saved.append((parameter, parameter.detach().clone()))
            parameter.data.add_(delta.to(parameter))
        yield
    finally:
        for parameter, value in saved:
            parameter.data.copy_(value)


def assemble(
    unet: Any,
    vae: Any,
    text_encoders: tuple[Any, ...],
    tokenizers: tuple[Any, ...],
    *,
    name: str,
    scheduler_config: Mapping[str, Any] = SCHEDULE,
) -> Base:
    """A `Base` of ready modules; family, layers and fingerprint are read off the UNet.

    Raises:
        FamilyError: If the UNet is of no known family.
        HostError: If the parts do not fit together.
    """
    family = family_of(name, unet.config)
    layers = layers_of(name, unet.config)
    if (told := scheduler_config.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise HostError(
            f"{name} predicts {told!r}; known are {' and '.join(PREDICTIONS)}. Use another model, "
            "or correct scheduler_config.json (or say --prediction, if you know better)."
        )
    for row, encoder in zip(family.encoders, text_encoders, strict=True):
        config = encoder.config
        if config.hidden_size != row.dim or config.max_position_embeddings < row.max_tokens:
            raise HostError(
                f"The {row.name} of {name} is {config.hidden_size} wide with "
                f"{config.max_position_embeddings} positions; {family.name} needs {row.dim} and "
                f"{row.max_tokens}. Give the model's own text encoder."
            )
    levels = len(vae.config.block_out_channels)
    found = (vae.config.latent_channels, 2 ** (levels - 1))
    if found != (family.latent_channels, family.latent_px):
        raise HostError(
            f"The VAE of {name} makes {found[0]} latent channels of {found[1]} px; {family.name} "
            f"has {family.latent_channels} of {family.latent_px} px. Give the model's own VAE."
        )
    modules = [unet.get_submodule(path) for path in fingerprint_paths(layers)]
    return Base(
        family=family,
        layers=layers,
        # Weights without numbers ("meta") have none; nothing can be learned on them either.
        fingerprint="" if unet.device.type == "meta" else fingerprint(m.weight for m in modules),
        name=name,
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers=tokenizers,
        scheduler_config=dict(scheduler_config),
        device=unet.device,
        dtype=unet.dtype,
    )
