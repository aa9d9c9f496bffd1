"""mini-sdxl: mini-sd with what SDXL adds, begun from mini-sd's own weights.

Two text encoders are read at their last but one layer; pooled text and the picture's sizes go in
beside the time; attention has up to two transformer blocks. Its latents are mini-sd's.
"""

from __future__ import annotations

import copy
import random
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from .captions import caption
from .clip_model import MINI_CLIP_FOLDER
from .held_out import random_scene
from .model import (
    MINI_SD_FOLDER,
    TEXT_WIDTH,
    Denoiser,
    new_scheduler,
    new_unet,
    text_config,
    token_ids,
)
from .tokenizer import PAD_ID

CLIP_WIDTH = 64
SIZE_WIDTH = 32  # of each of the six numbers about the picture's size
_FITTED_ON = 1500  # captions
_POOLED_ALONE = 0.15


class DenoiserXL(Denoiser):
    """Two text encoders and the UNet; the first encoder is mini-clip's and stays as it is."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
    ) -> None:
        super().__init__(unet, text_encoder.requires_grad_(False))
        self.text_encoder_2 = text_encoder_2

    def pipeline(self, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
        """Return diffusers' pipeline of the parts, for writing them."""
        padding = copy.deepcopy(tokenizer)
        padding.pad_token = padding.convert_ids_to_tokens(PAD_ID)
        return StableDiffusionXLPipeline(
            vae=vae,
            unet=self.unet,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=padding,
            scheduler=new_scheduler(),  # type: ignore[arg-type]
            force_zeros_for_empty_prompt=False,  # it learned what an empty caption says
            add_watermarker=False,
        )

    def texts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return both encoders' states side by side (B, 48, 192), and the pooled text (B, 128)."""
        first = self.text_encoder(input_ids=ids, output_hidden_states=True)
        second = self.text_encoder_2(input_ids=self._padded(ids), output_hidden_states=True)
        states = torch.cat([each.hidden_states[-2] for each in (first, second)], -1)
        return states, second.text_embeds

    def read(self, ids: Tensor, sizes: Tensor) -> dict[str, Any]:
        """Return what the UNet reads beside latents and time."""
        return self._inputs(*self.texts(ids), sizes)

    def _inputs(self, states: Tensor, pooled: Tensor, sizes: Tensor) -> dict[str, Any]:
        added = {"text_embeds": pooled, "time_ids": sizes}
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor, sizes: Tensor) -> Tensor:
        """Predict the noise for training; some rows hear of their caption as pooled text alone.

        SDXL's own training drops each condition by itself as well. Without that pooled text, which
        says nothing that the states do not say, stays unread.
        """
        config: Any = self.text_encoder_2.config
        empty = torch.full_like(ids[:1], config.eos_token_id)
        empty[:, 0] = config.bos_token_id
        states, pooled = self.texts(torch.cat([ids, empty]))
        alone = torch.rand(len(ids), 1, 1) < _POOLED_ALONE
        given = self._inputs(torch.where(alone, states[-1:], states[:-1]), pooled[:-1], sizes)
        return self.unet(latents, timesteps, **given).sample

    def _padded(self, ids: Tensor) -> Tensor:
        """Pad as OpenCLIP does: token 0 after the end token."""
        ends = ids.eq(cast(int, self.text_encoder_2.config.eos_token_id)).cumsum(1)
        return ids.masked_fill(ends > 1, PAD_ID)


def new_denoiser_xl(tokenizer: CLIPTokenizer, seed: int) -> DenoiserXL:
    """Return mini-sdxl as near to mini-sd as it can be before any training."""
    torch.manual_seed(seed)
    unet = new_unet(
        CLIP_WIDTH + TEXT_WIDTH,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH,
        projection_class_embeddings_input_dim=6 * SIZE_WIDTH + TEXT_WIDTH,
    )
    config = text_config(tokenizer, layers=4, projection_dim=TEXT_WIDTH)
    denoiser = DenoiserXL(unet, mini_clip_text(), CLIPTextModelWithProjection(config))
    small_unet = UNet2DConditionModel.from_pretrained(MINI_SD_FOLDER / "unet")
    small_text = CLIPTextModel.from_pretrained(MINI_SD_FOLDER / "text_encoder")
    rng = random.Random(seed)
    captions = [caption(random_scene(rng), rng) for _ in range(_FITTED_ON)]
    with torch.no_grad():
        _begin_text(denoiser.text_encoder_2, small_text)
        absorbed = _absorbed_norm(denoiser, small_text, token_ids(tokenizer, captions))
        _begin_unet(unet, small_unet, *absorbed)
    return denoiser


@torch.no_grad()
def meet_half_way(denoiser: Denoiser, begun: Denoiser) -> None:
    """Take the mean of trained weights and those they began with, but for what is new.

    References:
        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
    """
    first = dict(begun.named_parameters())
    for name, parameter in denoiser.named_parameters():
        if "add_embedding" not in name:
            parameter.lerp_(first[name], 0.5)


def mini_clip_text() -> CLIPTextModel:
    """Return mini-clip's text tower as a model of its own."""
    clip = CLIPModel.from_pretrained(MINI_CLIP_FOLDER, dtype=torch.float32)
    config = CLIPTextConfig.from_dict(cast(Any, clip.config.text_config).to_dict())
    config.architectures = ["CLIPTextModel"]
    text = CLIPTextModel(config)
    text.load_state_dict(clip.text_model.state_dict())
    return text.eval()


def _begin_text(text: CLIPTextModelWithProjection, small: CLIPTextModel) -> None:
    """Take over mini-sd's three layers; the fourth, which only pools, begins as nothing."""
    unknown = text.text_model.load_state_dict(small.state_dict(), strict=False).unexpected_keys
    assert not unknown
    words = cast(nn.Embedding, text.get_input_embeddings()).weight
    words[PAD_ID] = words[small.config.eos_token_id]  # mini-sd learned with end tokens there
    last = cast(Any, text.text_model.encoder.layers[-1])
    for layer in (last.self_attn.out_proj, last.mlp.fc2):
        _clear(layer)
    # Trained, it shrinks pooled text before anything has learned to read it.
    nn.init.eye_(text.text_projection.weight.requires_grad_(False))


def _absorbed_norm(
    denoiser: DenoiserXL, small: CLIPTextModel, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the affine map that comes nearest from both encoders' states to mini-sd's states.

    mini-sd reads normed states, mini-sdxl unnormed ones as SDXL does. The map (128, 192) and its
    constant (128,) explain 98 % of the variance over captions.
    """
    states = denoiser.texts(ids)[0].flatten(0, 1)
    goal = small(input_ids=ids).last_hidden_state.flatten(0, 1)
    mean, goal_mean = states.mean(0), goal.mean(0)
    x, y = (states - mean).double(), (goal - goal_mean).double()
    ridge = 1e-4 * x.square().sum(0).diag()
    fitted = torch.linalg.solve(x.T @ x + ridge, x.T @ y).float().T
    return fitted, goal_mean - fitted @ mean


def _begin_unet(
    unet: UNet2DConditionModel, small: UNet2DConditionModel, fitted: Tensor, constant: Tensor
) -> None:
    """Take over every weight of mini-sd's UNet; what is added begins as nothing.

    The text's map goes into keys and values. Its constant changes no attention, since it moves
    all keys alike, and passes from the values into the bias of the output.
    """
    known = small.state_dict()
    for name, weight in unet.state_dict().items():
        if name in known and known[name].numel() == weight.numel():
            weight.copy_(known[name].view_as(weight))  # 1x1 convolutions become linear layers
        elif name in known:
            weight.copy_(known[name] @ fitted)
    for name, module in unet.named_modules():
        block = cast(Any, module)
        if name.endswith("transformer_blocks.0"):
            values, output = known[f"{name}.attn2.to_v.weight"], block.attn2.to_out[0]
            output.bias += output.weight @ (values @ constant)
        elif name.endswith("transformer_blocks.1"):
            for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
                _clear(layer)
    added = cast(Any, unet).add_embedding
    added.linear_1.weight[:, :TEXT_WIDTH] = 0
    _clear(added.linear_2)


def _clear(layer: nn.Linear) -> None:
    layer.weight.zero_()
    layer.bias.zero_()
