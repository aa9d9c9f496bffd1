"""Settings of training and sampling that all methods and hosts share (see `settings`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .settings import Settings, recipe_setting, setting

_MOST_SEED = 2**53
_MOST_PX = 8192
MOST_STRENGTH = 4.0
"""Of a concept, and of all together."""
KINDS = ("object", "style", "human")
"""What a concept can be."""
UNET_PARTS = ("all", "no_mid", "down", "mid", "up")
"""Parts of the UNet that value residuals can be in."""
AGAIN = ("refuse", "replace", "go_on")
"""What can be done about words that are taught already."""
AGAIN_HELP = (
    "For words that a concept of the bank has already: put the new one in its place once it is "
    "complete, which keeps the former one as a version (replace), or learn on from the taught one "
    "(go_on)"
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """What learning needs for every method: the loop, the photos, the machine.

    Each method has settings of its own that extend these (`CidmConfig`, ...), and may have values
    of its own in the presets.
    """

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    steps: int = setting(
        800, "Optimiser steps, of all stages together.", low=1, high=100_000, advanced=False
    )
    batch_size: int = setting(
        1, "Pictures per optimiser micro-step, over all processes together.", low=1, high=256
    )
    accumulation: int = setting(
        1, "Micro-steps that are summed into one optimiser step.", low=1, high=256
    )
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", low=0.0, high=1.0)
    max_grad_norm: float = setting(
        1.0, "Gradients are clipped to this norm; 0 never clips.", low=0.0
    )
    seed: int = setting(
        0,
        "The same seed and the same inputs give the same concept.",
        low=0,
        high=_MOST_SEED,
        advanced=False,
    )
    resolution_px: int | None = setting(
        None,
        "Side of the training square, in whole latent cells. By default it is the family's.",
        low=8,
        high=4096,
    )
    buckets: bool = setting(
        False,
        "Learn each photo in a shape near its own, with about the square's area and sides in steps "
        "of 64 px, instead of in the square.",
    )
    variants: int = setting(
        16,
        "Augmented variants of each photo whose latents are cached; nothing else of it is seen.",
        low=1,
        high=1024,
    )
    augmentation: str = setting(
        "crop",
        "What is seen of a photo: a random square or all of it on black (crop); its centre square, "
        "often smaller on grey or larger than the frame, and the caption says so (resize); its "
        "centre square (none).",
        choices=("crop", "resize", "none"),
    )
    crop_probability: float = setting(
        0.5,
        "With augmentation by crops: chance of a random square; otherwise the photo is fitted "
        "whole.",
        low=0.0,
        high=1.0,
    )
    flip_probability: float = setting(
        0.0,
        "Chance that a photo is mirrored. Leave it at 0 for faces, writing and whatever has a left "
        "and a right.",
        low=0.0,
        high=1.0,
    )
    templates: str = setting(
        "varied",
        "Captions: with changing templates and order (varied), also of few words (short), or as "
        "they are written, and with one template where nobody wrote any (plain).",
        choices=("varied", "plain", "short"),
    )
    noise_offset: float = setting(0.0, "Size of the per-channel noise offset.", low=0.0, high=1.0)
    precision: str = setting("fp32", "Arithmetic of the model.", choices=("fp32", "bf16", "fp16"))
    gradient_checkpointing: bool = setting(
        False, "Recompute activations: less memory, about a fifth slower."
    )
    park_text_encoders: bool = setting(
        False,
        "Keep the text encoders off the device while the UNet computes: less memory, and slower "
        "steps. They encode every prompt twice.",
    )
    frozen_fp8: bool = setting(
        False,
        "Keep the weights of the UNet in 8 bits while it learns, and compute in the precision "
        "above: half the memory of bf16, a little coarser.",
    )
    save_every: int = setting(
        100, "Steps between two saved states; 0 saves only when interrupted.", low=0
    )
    preview_every: int = setting(0, "Steps between two sample previews; 0 draws none.", low=0)
    preview_prompt: str = setting(
        "", "Prompt of the previews. By default it is the concept's own words."
    )

    @property
    def all_steps(self) -> int:
        """Optimiser steps of all stages together."""
        return self.steps


def _told(what: str, usual: str = "") -> Any:
    """A field for one of the six numbers about the picture's size that SDXL's UNet reads."""
    help = f"{what}, as SDXL is told. By default {usual or 'the size of the picture drawn'}."
    return setting(None, help, low=0 if usual else 1, high=_MOST_PX)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Settings):
    """How pictures are made (CIDM sections 4.2 and 4.3)."""

    steps: int = setting(50, "Number of denoising steps.", low=1, high=1000, advanced=False)
    guidance_scale: float = setting(
        7.5, "Scale of classifier-free guidance.", low=0.0, high=100.0, advanced=False
    )
    seed: int = setting(0, "Seed of the starting noise.", low=0, high=_MOST_SEED, advanced=False)
    negative_prompt: str = setting("", "What the picture should not show.", advanced=False)
    num_images: int = setting(1, "Pictures per prompt.", low=1, high=256, advanced=False)
    infuse: str = setting(
        "",
        "Concepts that plain words of the prompt are to call: PHRASE=CONCEPT, such as cat=my_cat, "
        "or CONCEPT alone for its own class words; several with commas. Names that hold one stand "
        "in double quotes. Concepts of Infusion without words of their own take part only so.",
        advanced=False,
        several=True,
    )
    width_px: int | None = setting(
        None,
        "Width of the picture. By default it is the family's, or that of the start picture's "
        "shape.",
        low=8,
        high=_MOST_PX,
    )
    height_px: int | None = setting(
        None,
        "Height of the picture. By default it is the family's, or that of the start picture's "
        "shape.",
        low=8,
        high=_MOST_PX,
    )
    original_width_px: int | None = _told("Width of the picture before anything was cut off it")
    original_height_px: int | None = _told("Height of the picture before anything was cut off it")
    crop_left_px: int | None = _told("What was cut off it at the left", "nothing")
    crop_top_px: int | None = _told("What was cut off it at the top", "nothing")
    target_width_px: int | None = _told("Width of what is seen of it")
    target_height_px: int | None = _told("Height of what is seen of it")
    scheduler: str = setting(
        "dpmpp_2m",
        "The sampler, or the class name of a diffusers scheduler.",
    )
    eta: float = setting(
        0.0,
        "Share of new noise in every step of the sampler ddim: 0 adds none, 1 as much as ddpm. "
        "Other samplers leave no choice.",
        low=0.0,
        high=1.0,
    )
    denoise: float | None = setting(
        None,
        "How much of a start picture is redrawn; 0 redraws nothing. By default 0.6, and all of it "
        "where a mask says.",
        low=0.0,
        high=1.0,
    )
    # The paper says nothing of the encoding; the released code has no regions.
    recipe: str = recipe_setting("weighing and regions")
    weights: str = setting(
        {"ours": "gate", "paper": "paper", "released": "released"},
        "Rule that weighs concepts (Eq. 3): the paper's among the concepts that the prompt names "
        "(gate), among all (paper), or the released code's.",
        choices=("gate", "paper", "released"),
    )
    top_k: int = setting(4, "At most this many concepts take part.", low=1, high=4096)
    encoding: str = setting(
        {"ours": "per_task", "paper": "per_task", "released": "joint"},
        "How concept words are encoded for weighing: each concept alone (per_task), or all in one "
        "prompt, as the released code does (joint).",
        choices=("per_task", "joint"),
    )
    strength: float = setting(
        1.0, "Factor on the weights of all concepts.", low=0.0, high=MOST_STRENGTH
    )
    strengths: str = setting(
        "",
        "Factors for single concepts beside that for all: CONCEPT=NUMBER, such as dog=0.8; several "
        "with commas. Numbers from 0, which leaves a concept's words without effect on the model, "
        "to 4. Names that hold a comma or an equals sign stand in double quotes.",
        advanced=False,
        several=True,
    )
    residual_share: float = setting(
        1.0,
        "For how much of the way from noise to the picture, from its beginning, value residuals "
        "(Infusion) act.",
        low=0.0,
        high=1.0,
    )
    second_stream: float = setting(
        1.0,
        "For how much of the way, from its beginning, a concept of Infusion takes its attention "
        "maps from a second stream that does not know it. At 0 it draws with its own: a third "
        "faster, and further from what the prompt says.",
        low=0.0,
        high=1.0,
    )
    residual_layers: str = setting(
        "all",
        "In which part of the UNet value residuals act: everywhere (all), without its middle "
        "(no_mid), on the way down, in the middle (mid), or on the way up.",
        choices=UNET_PARTS,
    )
    key_residuals: bool = setting(
        True, "Let the residuals of keys act that a concept may have beside those of values."
    )
    execution: str = setting(
        "auto",
        "Whether concept weights are folded into the model (merged) or added for each row of the "
        "batch (per_sample).",
        choices=("auto", "merged", "per_sample"),
    )
    region_weights: str = setting(
        {"ours": "per_region", "paper": "global", "released": "global"},
        "Whose prompt weighs the concepts in a region: its own (per_region) or that of the whole "
        "picture (global).",
        choices=("per_region", "global"),
    )
    key_value_routing: str = setting(
        "prompt",
        "What changes keys and values: all concepts by the prompt's weights at every token "
        "(prompt), or each concept at its own words alone (token).",
        choices=("prompt", "token"),
    )
    regional_attention: bool = setting(
        True, "Let cross-attention read a region's own prompt inside it (section 4.3)."
    )
    noise_estimation: bool = setting(
        True, "Estimate the noise of a region with its own prompt (Eq. 4 and 5)."
    )
    alpha: float = setting(
        0.1,
        "Share of the whole picture's noise estimate inside regions (Eq. 5).",
        low=0.0,
        high=1.0,
        advanced=False,
    )
    region_mode: str = setting(
        {"ours": "partition", "paper": "literal", "released": "literal"},
        "How the noise estimates are summed (Eq. 5): with shares that sum to 1 (partition), or as "
        "printed in the paper (literal).",
        choices=("partition", "literal"),
    )
    feather: float = setting(
        0.05,
        "Width of the soft edge of regions, as a share of the shorter side.",
        low=0.0,
        high=0.5,
        advanced=False,
    )
    rows_at_once: int | None = setting(
        None, "UNet rows per call. By default all, or fewer when memory is short.", low=1
    )
    allow_other_base: bool = setting(False, "Use concepts learned on another model of the family.")

    def alone(self, number: int) -> SampleConfig:
        """The settings that draw one of these pictures, counted from 0, by itself."""
        return replace(self, seed=(self.seed + number) % (_MOST_SEED + 1), num_images=1)
