"""SD15, SDXL, mini-sd and mini-sdxl as rows of one table: attn2 layers, encoders, key names.

Layers are listed in execution order (down, mid, up), the order in which CIDM numbers them.
Walking a diffusers UNet with `named_modules` gives another one (mid last), so nothing here does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import FamilyError

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class CrossAttention:
    """One attn2 module: diffusers path, width of its features and of its text context."""

    path: str
    width: int
    context_dim: int

    def shape(self, projection: str) -> tuple[int, int]:
        """(out_features, in_features) of one of `PROJECTIONS`."""
        takes_text = projection in ("to_k", "to_v")
        return self.width, self.context_dim if takes_text else self.width


@dataclass(frozen=True)
class Geometry:
    """What decides where the attn2 layers are: one entry per down block, outermost first."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]  # transformer blocks per attention; 0: a block without attention
    layers_per_block: int
    mid_depth: int

    def cross_attention(self, context_dim: int) -> tuple[CrossAttention, ...]:
        """All attn2 layers in execution order."""
        blocks = list(zip(self.widths, self.depths, strict=True))
        down = [(f"down_blocks.{i}", self.layers_per_block, *b) for i, b in enumerate(blocks)]
        mid = [("mid_block", 1, self.widths[-1], self.mid_depth)]
        up = [(f"up_blocks.{i}", self.layers_per_block + 1, *b) for i, b in enumerate(blocks[::-1])]
        return tuple(
            CrossAttention(
                f"{name}.attentions.{a}.transformer_blocks.{d}.attn2", width, context_dim
            )
            for name, attentions, width, depth in (*down, *mid, *up)
            for a in range(attentions)
            for d in range(depth)
        )


@dataclass(frozen=True)
class TextEncoderRow:
    """One text encoder.

    Attributes:
        name: Its folder.
        dim: Width of its embeddings and states.
        max_tokens: What it reads, start and end included.
        penultimate: Its last but one layer is read, without the final norm, as in SDXL.
        pooled: It has a projection; the UNet reads its end token through that as well.
        pad_id: Token after the end, the tokenizer's own if None. OpenCLIP's is no word of its
            tokenizer, which diffusers' folders name "!", and then read every "!" as.
    """

    name: str
    dim: int
    max_tokens: int
    penultimate: bool = False
    pooled: bool = False
    pad_id: int | None = None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return "second text encoder" if self.pooled else "text encoder"


@dataclass(frozen=True)
class Family:
    """What all models of a kind have in common.

    `training` (by method) and `sampling` hold settings that suit its size better than the defaults,
    `captions` is the file in `merging` of ordinary ones in words that its models know.
    """

    name: str
    geometry: Geometry
    encoders: tuple[TextEncoderRow, ...]
    latent_channels: int
    latent_px: int  # pixels per latent cell
    resolution_px: int
    modelspec: str
    latent_scale: float = 0.18215  # of a VAE in a file, which does not tell it
    vae_fp16: bool = True  # whether the family's own VAE keeps within fp16
    most_px: int = 8192  # side of the largest square that is drawn in bearable time
    captions: str = "ordinary_captions.txt"
    training: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Any])
    sampling: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def context_dim(self) -> int:
        return sum(row.dim for row in self.encoders)

    @property
    def layers(self) -> tuple[CrossAttention, ...]:
        """The layers of the family's standard member; a pruned model may have fewer."""
        return self.geometry.cross_attention(self.context_dim)

    def half_px(self, side_px: int) -> int:
        """Half of a side, in whole latent cells, of which eight at least."""
        return max(8, side_px // 2 // self.latent_px) * self.latent_px

    def check_size(self, width_px: int, height_px: int) -> None:
        """Refuse pictures that would take minutes a step.

        Raises:
            FamilyError: Saying what it draws.
        """
        if width_px * height_px > self.most_px**2:
            side = self.resolution_px
            raise FamilyError(
                f"{self.name} draws pictures of {side} x {side} px; {width_px} x {height_px} were "
                f"asked. Its attention compares each of their "
                f"{width_px * height_px // self.latent_px**2} latent cells with every other, which "
                f"would take minutes a step. Ask for {side} x {side}, or for {self.most_px} x "
                f"{self.most_px} at most."
            )


# Two dogs and two cats: after 60 steps of contrast CLIP takes a held-out composite for its own
# concept's, of all names, in 54 % (1e-3, 100 steps), 57 % (3e-3), 62 % (1e-2), before it in none.
# Words have then grown from 0.5 to 0.6, 0.7 and 1.1; 128 composites a step gain nothing.
_CONTRAST: Mapping[str, object] = {"contrast_steps": 60, "lr_contrast": 3e-3}
_MINI = Family(
    name="MINI",
    geometry=Geometry((96, 96), (1, 1), 1, 1),
    encoders=(TextEncoderRow("text_encoder", 128, 48),),
    latent_channels=8,
    latent_px=4,
    resolution_px=32,
    modelspec="mini-sd",
    latent_scale=1.0,
    most_px=256,
    captions="small_world_captions.txt",
    # Its embeddings are 1.1 long (CLIP-L's 0.4), so tokens start and stop longer. R1 and R2
    # are sums over layers; beside this small loss they need to be less.
    training={
        "cidm": {
            "steps": 500,
            "batch_size": 4,
            "lr_lora": 2e-3,
            "lr_tokens": 1e-2,
            "token_init_std": 0.1,
            "token_norm_limit": 4.0,
            "gamma1": 0.01,
            "gamma2": 0.03,
        },
        # A shrunk photo of 32 px shows too little: after 150 steps on a car crops reach IA 50.1 and
        # TA 75.8, resizing 28.9 and 77.0; not mirrored, as captions say left and right, 51.5 and
        # 79.2. 300 steps 54.4 and 76.2; a higher rate gains no IA in the end and costs 7 of TA.
        "custom_diffusion": {
            "steps": 300,
            "batch_size": 4,
            "accumulation": 1,
            "augmentation": "crop",
            "flip_probability": 0.0,
            "prior_images": 32,
            "lr": 1e-3,
            "lr_tokens": 1e-2,
            "initializers": "1259+1235+1132",  # pieces of words that it never met
        },
        # Under the model's own maps a car and a cat reach (IA / TA) 39 / 80 and 19 / 78 after 150
        # steps (without it 26 / 76 and 8 / 76), 38 / 78 and 24 / 75 after 400; sixteen pictures a
        # step, or half the rate, gain nothing. Released, with its own maps, 55 / 71 and 43 / 59.
        "infusion": {
            "steps": 250,
            "batch_size": 4,
            "accumulation": 1,
            "flip_probability": 0.0,
            "lr": 0.1,
        },
        # There is no CLIP of its text encoder's width to contrast words with. Not tried.
        "clif": {
            "stages": "words+weights",
            "steps": 300,
            "word_steps": 100,
            "batch_size": 4,
            "accumulation": 1,
            "rank": 8,
            "lr": 2e-3,
            "lr_words": 1e-2,
        },
    },
    sampling={"steps": 30, "guidance_scale": 4.0},
)


FAMILIES: Mapping[str, Family] = {
    "SD15": Family(
        name="SD15",
        geometry=Geometry((320, 640, 1280, 1280), (1, 1, 1, 0), 2, 1),
        encoders=(TextEncoderRow("text_encoder", 768, 77),),
        latent_channels=4,
        latent_px=8,
        resolution_px=512,
        modelspec="stable-diffusion-v1",
    ),
    "SDXL": Family(
        name="SDXL",
        geometry=Geometry((320, 640, 1280), (0, 2, 10), 2, 10),
        encoders=(
            TextEncoderRow("text_encoder", 768, 77, penultimate=True),
            TextEncoderRow("text_encoder_2", 1280, 77, penultimate=True, pooled=True, pad_id=0),
        ),
        latent_channels=4,
        latent_px=8,
        resolution_px=1024,
        modelspec="stable-diffusion-xl-v1-base",
        latent_scale=0.13025,
        vae_fp16=False,
        # The paper names no learning rates for SDXL; those of SD 1.5 stand.
        training={"cidm": {"precision": "bf16"}},
        sampling={"guidance_scale": 5.0},
    ),
    "MINI": _MINI,
    "MINI_XL": replace(
        _MINI,
        name="MINI_XL",
        geometry=Geometry((96, 96), (1, 2), 1, 2),
        encoders=(
            TextEncoderRow("text_encoder", 64, 48, penultimate=True),
            TextEncoderRow("text_encoder_2", 128, 48, penultimate=True, pooled=True, pad_id=0),
        ),
        modelspec="mini-sdxl",
        # Its first encoder's embeddings are half as long as mini-sd's, so tokens start half as
        # long; at mini-sd's rate its LoRA learned too little.
        training={
            **_MINI.training,
            "cidm": {
                **_MINI.training["cidm"],
                **_CONTRAST,
                "lr_lora": 4e-3,
                "token_init_std": 0.05,
            },
            "custom_diffusion": {**_MINI.training["custom_diffusion"], **_CONTRAST},
            # Two dogs and two cats in 400 steps, one seed (pairs right of 32, IA / TA): at 2e-3 5,
            # 56.5 / 71.8, at 4e-3 16, 57.0 / 71.2; seeds differ by more (docs/benchmark.md).
            "clif": {
                **_MINI.training["clif"],
                **_CONTRAST,
                "contrast_batch": 64,
                "stages": "contrast+words+weights",
                "lr": 4e-3,
                "lr_words": 5e-3,
            },
        },
    ),
}


def is_in_part(path: str, part: str) -> bool:
    """Whether a path lies in a part of the UNet; see `config.UNET_PARTS`."""
    if part == "no_mid":
        return not path.startswith("mid_block")
    return part == "all" or path.startswith(f"{part}_block")


def ldm_path(path: str, layers_per_block: int) -> str:
    """The CompVis name (also ComfyUI's) of a diffusers attn2 path.

    `down_blocks.1.attentions.0.` is `input_blocks.4.1.` for two layers per block.
    """
    head, _, tail = path.partition(".attentions.")
    attention, _, rest = tail.partition(".")
    if head == "mid_block":
        return f"middle_block.1.{rest}"
    side, _, block = head.partition("_blocks.")
    per_block = layers_per_block + 1
    index = int(block) * per_block + int(attention) + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{index}.1.{rest}"


def layers_per_block(paths: Sequence[str]) -> int:
    """That of a UNet with these attn2 layers: a block on the way up has one attention more."""
    found = [path.split(".attentions.")[1] for path in paths if path.startswith("up_blocks.")]
    return max((int(rest.partition(".")[0]) for rest in found), default=1)
