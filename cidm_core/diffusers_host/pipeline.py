"""From a prompt to pictures: text to image, image to image and inpainting, with regions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..concept import Concept
from ..config import SampleConfig
from ..errors import HostError, RegionError
from ..regions import Region
from ..sampling.plan import Plan, build_plan
from .base import Base
from .encode import DiffusersEncoder
from .prompt_weights import foreign_syntax
from .sampler import OnStep, Start, sample

logger = logging.getLogger(__name__)

REGIONS = "regions"  # as a mask: redraw where the regions are


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
    config = config or SampleConfig.from_dict(base.family.sampling)
    width, height = picture_px(base, config)
    cell = base.family.latent_px
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    for text in (*prompts, config.negative_prompt, *(region.prompt for region in regions)):
        for syntax in foreign_syntax(text):
            logger.warning("%s in the prompt %r is taken as plain words here.", syntax, text)
    return build_plan(
        DiffusersEncoder(base, config.strength),
        bank,
        prompts,
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
    image: Image.Image | None = None,
    mask: Tensor | Image.Image | str | None = None,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Draw pictures with the concepts named in the prompts (CIDM sections 4.2 and 4.3).

    Args:
        base: The model.
        bank: A `Bank`, or concepts by name.
        prompt: One prompt, or several to draw side by side in one batch.
        regions: Where which prompt applies; needs a single prompt.
        config: Sampling settings; default: the family's.
        image: A picture to start from; `config.denoise` says how much is redrawn.
        mask: With `image`: (height, width) or a picture, 1 or white where to redraw;
            "regions": where the regions are. The rest of the picture stays as it is.
        on_step: Called after every step with step, steps and latents.

    Returns:
        `config.num_images` pictures per prompt, prompt by prompt.

    Raises:
        CidmError: Bad prompts, regions, sizes or models, each with what to do.
    """
    config = config or SampleConfig.from_dict(base.family.sampling)
    plan = make_plan(base, bank, prompt, regions, config)
    return draw_plan(base, plan, config, regions, image, mask, on_step)


def draw_plan(
    base: Base,
    plan: Plan,
    config: SampleConfig,
    regions: Sequence[Region] = (),
    image: Image.Image | None = None,
    mask: Tensor | Image.Image | str | None = None,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """`config.num_images` pictures of each scene of a plan, scene by scene; see `generate`.

    Raises:
        RegionError: If the mask is to be that of regions, and there are none.
        HostError: Bad sizes, memory ran out, or the picture is not finite.
    """
    width, height = picture_px(base, config)
    source = None if image is None else _fitted(image, width, height)
    area = _area(mask, regions, source, (height, width))
    start = None if source is None else _start(base, source, area)
    scenes = len(plan.scenes)
    latents = sample(base, plan, _noise(base, config, scenes), config, start, on_step)
    pictures = decode(base, latents)
    if source is not None and area is not None:
        pictures = [_paste(picture, source, area) for picture in pictures]
    # Pictures alternate between the scenes; hand them back scene by scene.
    return [pictures[i] for s in range(scenes) for i in range(s, len(pictures), scenes)]


def picture_px(base: Base, config: SampleConfig) -> tuple[int, int]:
    """(width, height) of the pictures.

    Raises:
        HostError: If a side is no multiple of the latent cell.
        FamilyError: If they are too large for the model.
    """
    width = config.width_px or base.family.resolution_px
    height = config.height_px or base.family.resolution_px
    cell = base.family.latent_px
    if width % cell or height % cell:
        fit = f"{max(1, width // cell) * cell} x {max(1, height // cell) * cell}"
        raise HostError(
            f"Pictures of {base.family.name} need sides that are multiples of {cell} px; "
            f"{width} x {height} was asked. Use {fit}."
        )
    base.family.check_size(width, height)
    return width, height


def _noise(base: Base, config: SampleConfig, scenes: int) -> Tensor:
    """(num_images * scenes, ...): picture n of every prompt starts from the same noise."""
    width, height = picture_px(base, config)
    cell = base.family.latent_px
    shape = (1, base.family.latent_channels, height // cell, width // cell)
    each = [
        torch.randn(shape, generator=torch.Generator().manual_seed(config.seed + i))
        for i in range(config.num_images)
    ]
    return torch.cat(each).repeat_interleave(scenes, 0).to(base.device)


def _fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at the drawn size, cropped around its centre rather than distorted."""
    image = image.convert("RGB")
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _area(
    mask: Tensor | Image.Image | str | None,
    regions: Sequence[Region],
    source: Image.Image | None,
    size: tuple[int, int],
) -> Tensor | None:
    """Where to redraw, (height, width) in pixels, 0..1."""
    if mask is None:
        return None
    if source is None:
        raise HostError("A mask needs a start picture. Give one, or leave the mask out.")
    if isinstance(mask, str):
        if mask != REGIONS or not regions:
            raise RegionError(f"Mask {mask!r} needs regions. Draw one, or give a mask picture.")
        return torch.stack([r.mask_at(*size, 0.0, 1) for r in regions]).amax(0)
    # A region checks and scales a mask; its prompt is not read.
    return Region("mask", mask=mask).mask_at(*size, 0.0, 1)


def _start(base: Base, source: Image.Image, area: Tensor | None) -> Start:
    latents = encode_image(base, source)
    if area is None:
        return Start(latents)
    # A cell is redrawn as soon as any of its pixels is.
    mask = F.max_pool2d(area[None, None], base.family.latent_px)[0, 0]
    return Start(latents, mask.to(base.device))


def _paste(picture: Image.Image, source: Image.Image, area: Tensor) -> Image.Image:
    """Put back the photo's own pixels, which the autoencoder would change slightly."""
    alpha = Image.fromarray((area.numpy() * 255).round().astype(np.uint8))
    return Image.composite(picture, source, alpha)


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
