"""From a prompt to pictures: text to image, image to image and inpainting, with regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..concept import Concept
from ..config import SampleConfig
from ..errors import HostError
from ..images import Pixels
from ..regions import Region
from ..sampling.plan import Plan, build_plan
from .base import Base
from .encode import DiffusersEncoder
from .sampler import sample
from .schedulers import OnStep, Start
from .start import StartPicture, picture_px, settle


def make_plan(
    base: Base,
    bank: Mapping[str, Concept],
    prompt: str | Sequence[str],
    regions: Sequence[Region] = (),
    config: SampleConfig | None = None,
) -> Plan:
    """Bind the prompt's concept words and weigh the concepts, once.

    Raises:
        PromptError: If a word is unknown or beyond the token limit.
        RegionError: If a region is outside the picture or too small.
        FamilyError: If a concept was learned on another family, geometry or base.
    """
    config = config or SampleConfig.for_family(base.family.sampling)
    width, height = picture_px(base, config)
    cell = base.family.latent_px
    return build_plan(
        DiffusersEncoder(base, config.strength),
        bank,
        [prompt] if isinstance(prompt, str) else list(prompt),
        regions,
        config,
        base,
        (height // cell, width // cell),
    )


def generate(
    base: Base,
    bank: Mapping[str, Concept],
    prompt: str | Sequence[str],
    regions: Sequence[Region] = (),
    config: SampleConfig | None = None,
    image: Pixels | None = None,
    mask: Pixels | str | None = None,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Draw pictures with the concepts named in the prompts (CIDM sections 4.2 and 4.3).

    Args:
        base: The model.
        bank: A `Bank`, or concepts by name.
        prompt: One prompt, or several to draw side by side in one batch.
        regions: Where which prompt applies; needs a single prompt.
        config: Sampling settings; default: the family's.
        image: A picture to start from, PIL picture, array or tensor; its shape is drawn unless
            `config` says a size, and `config.denoise` says how much of it is redrawn.
        mask: With `image`: white or 1 where to redraw, of the same kinds; "regions": where the
            regions are. The rest of the picture stays as it is.
        on_step: Called after every step with step, steps and latents.

    Returns:
        `config.num_images` pictures per prompt, prompt by prompt.

    Raises:
        CidmError: Bad prompts, regions, sizes or models, each with what to do.
    """
    config = config or SampleConfig.for_family(base.family.sampling)
    drawing = settle(base, config, regions, image, mask)
    plan = make_plan(base, bank, prompt, drawing.regions, drawing.config)
    return draw_plan(base, plan, drawing.config, drawing.start, on_step)


def draw_plan(
    base: Base,
    plan: Plan,
    config: SampleConfig,
    start: StartPicture | None = None,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """`config.num_images` pictures of each scene of a plan, scene by scene; see `generate`.

    Raises:
        HostError: Bad sizes, memory ran out, or the picture is not finite.
    """
    begin = None
    if start is not None:
        cells = start.cells(base.family.latent_px)
        mask = None if cells is None else cells.to(base.device)
        begin = Start(encode_image(base, start.picture), mask)
    scenes = len(plan.scenes)
    latents = sample(base, plan, _noise(base, config, scenes), config, begin, on_step)
    pictures = decode(base, latents)
    if start is not None:
        pictures = [start.around(picture) for picture in pictures]
    # Pictures alternate between the scenes; hand them back scene by scene.
    return [pictures[i] for s in range(scenes) for i in range(s, len(pictures), scenes)]


def _noise(base: Base, config: SampleConfig, scenes: int) -> Tensor:
    """(num_images * scenes, ...): picture n of every prompt starts from the same noise."""
    width, height = picture_px(base, config)
    cell = base.family.latent_px
    shape = (1, base.family.latent_channels, height // cell, width // cell)
    each = [
        torch.randn(shape, generator=torch.Generator().manual_seed(config.alone(i).seed))
        for i in range(config.num_images)
    ]
    return torch.cat(each).repeat_interleave(scenes, 0).to(base.device)


def encode_image(base: Base, image: Image.Image) -> Tensor:
    """Clean latents of an RGB picture, (1, channels, height, width), float32."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1)
    return base.encoded(pixels.permute(2, 0, 1)[None])


def decode(base: Base, latents: Tensor) -> list[Image.Image]:
    """Pictures from latents (pictures, channels, height, width), one at a time to save memory.

    Raises:
        HostError: If the latents are not finite.
    """
    pictures: list[Image.Image] = []
    for one in latents:
        if not torch.isfinite(one).all():
            raise HostError(
                "The picture came out as NaN. Use --dtype fp32 or bf16, or a lower strength."
            )
        pixels = base.decoded(one[None])[0]
        array = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        pictures.append(Image.fromarray(array))
    return pictures
