"""The denoising loss and what stands around it.

Paper: CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, Eq. 1; masks, noise offset
and the attention regulariser are ED-LoRA's (Mix-of-Show, https://arxiv.org/abs/2305.18292).
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .attention import resize_mask


def noise_with_offset(
    latents: Float[Tensor, "batch channels height width"],
    offset: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """`n + offset * n_c`: white noise plus one draw per channel, so that brightness is learned too.

    Drawn where the generator lives and then moved: the same seed gives the same noise anywhere.

    Args:
        latents: Gives shape, device and dtype.
        offset: 0 for plain noise; the released configs use 0.01.
        generator: The source of randomness.
    """
    device = generator.device if generator is not None else latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device)
    if offset:
        shape = (*latents.shape[:2], 1, 1)
        noise = noise + offset * torch.randn(shape, generator=generator, device=device)
    return noise.to(latents)


def add_noise(
    latents: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    alphas_cumprod: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """z_t = `sqrt(a_t) z + sqrt(1 - a_t) noise` (Eq. 1); the network's target is `noise`.

    Args:
        latents: Clean latents z.
        noise: Of the same shape.
        alphas_cumprod: a_t of each row's timestep, 0..1.
    """
    a = alphas_cumprod[:, None, None, None]
    return (a.sqrt() * latents + (1 - a).sqrt() * noise).to(latents.dtype)


def noise_of_v(
    v: Float[Tensor, "*rows channels height width"],
    noisy: Float[Tensor, "channels height width"],
    alpha_cumprod: Float[Tensor, ""],
) -> Float[Tensor, "*rows channels height width"]:
    """`sqrt(a) v + sqrt(1 - a) z_t`: the noise that a model means that predicts
    `v = sqrt(a) noise - sqrt(1 - a) z` (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512).
    """
    return alpha_cumprod.sqrt() * v + (1 - alpha_cumprod).sqrt() * noisy


def v_of_noise(
    noise: Float[Tensor, "*rows channels height width"],
    noisy: Float[Tensor, "channels height width"],
    alpha_cumprod: Float[Tensor, ""],
) -> Float[Tensor, "*rows channels height width"]:
    """`(noise - sqrt(1 - a) z_t) / sqrt(a)`: `noise_of_v` backwards."""
    return (noise - (1 - alpha_cumprod).sqrt() * noisy) / alpha_cumprod.sqrt()


def snr_weights(
    alphas_cumprod: Float[Tensor, " batch"], gamma: float, prediction_type: str = "epsilon"
) -> Float[Tensor, " batch"]:
    """Min-SNR weighting: `min(snr, gamma) / snr`, of v `min(snr, gamma) / (snr + 1)`.

    Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4; `snr = a / (1 - a)`. Without
    any signal (a = 0) the weight is its limit: 1, of v 0.

    Args:
        alphas_cumprod: a_t of each row's timestep, 0 <= a < 1.
        gamma: Above 0; the authors use 5.
        prediction_type: "epsilon" or "v_prediction".
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    capped = snr.clamp(max=gamma)
    if prediction_type == "v_prediction":
        return capped / (snr + 1)
    return torch.where(snr > 0, capped / torch.where(snr > 0, snr, 1), 1)


def masked_errors(
    prediction: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """Mean squared error of each picture inside its mask: `sum(m * e^2) / (sum(m) * channels)`.

    A picture whose mask is empty counts as 0; the arguments are those of `masked_mse`.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    error = (prediction.to(dtype) - target.to(dtype)).square().mean(1)
    seen = mask.to(dtype).sum((1, 2))
    return (error * mask).sum((1, 2)) / torch.where(seen > 0, seen, 1)


def masked_mse(
    prediction: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch height width"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error inside the mask, of each picture, then over pictures (Eq. 1 and 2).

    `sum(m * e^2) / (sum(m) * channels)`. The released code forgets the channels and gets four
    times this value. A picture whose mask is empty counts as 0.

    Args:
        prediction: Predicted noise; computed in fp32 at least.
        target: The noise.
        mask: 1 where the loss looks, 0 elsewhere; None looks everywhere.
    """
    if mask is not None:
        return masked_errors(prediction, target, mask).mean()
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().mean(1).mean()


def attention_penalty(
    attention: Float[Tensor, "batch query words"], mask: Float[Tensor, "batch query"]
) -> Float[Tensor, ""]:
    """How much the concept words look outside the object (ED-LoRA's attention regulariser).

    Each word's map is divided by its maximum; the first word (identity) and the last one (class)
    pay their mean outside the mask. A lone word counts as the last one. A picture whose mask is
    full has no outside and pays nothing.

    Args:
        attention: Attention probabilities of the concept words, averaged over heads and over
            the layers of one resolution.
        mask: 1 on the object.
    """
    attention = attention.to(torch.promote_types(attention.dtype, torch.float32))
    peak = attention.amax(1, keepdim=True)
    maps = attention / torch.where(peak > 0, peak, 1)
    outside = 1 - mask.to(maps)
    share = outside / outside.sum(1, keepdim=True).clamp(min=torch.finfo(maps.dtype).eps)
    subject = (maps[..., -1] * share).sum(1)
    first = (maps[..., 0] * share).sum(1) if maps.shape[-1] > 1 else torch.zeros_like(subject)
    return (subject + first).mean()


def attention_loss(
    maps: Sequence[Float[Tensor, "batch _ _ words"]],
    masks: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, ""]:
    """ED-LoRA's regulariser: for each resolution on the mean map of its layers, then their mean.

    Args:
        maps: Attention of each layer to the concept words, averaged over heads.
        masks: 1 on the object.
    """
    sizes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for layer in maps:
        sizes[layer.shape[1], layer.shape[2]].append(layer)
    penalties = [
        attention_penalty(
            torch.stack(layers).mean(0).flatten(1, 2), resize_mask(masks, *size).flatten(1)
        )
        for size, layers in sizes.items()
    ]
    return torch.stack(penalties).mean()
