"""Load one of the small models that come with the pack into the stock sockets."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..host import comfy as host
from ..host.pictures import shown, to_tensor
from ..host.sockets import CATEGORY, schema

MINI_MODELS = ("mini-sd", "mini-sdxl")


class LoadMiniModel(io.ComfyNode):
    """A mini model as MODEL, CLIP and VAE, and photos to learn from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_LoadMiniModel",
            display_name="Load Mini Model (try-out)",
            category=f"{CATEGORY}/try out",
            description=(
                "A tiny model of 32 x 32 pixels that comes with the pack. It learns a concept in a "
                "minute or two, without a download, and knows simple scenes such as 'a photo of a "
                "red cat'. Draw with width and height 32, 30 steps, cfg 4. mini-sdxl is built as "
                "SDXL is: two text encoders, pooled text, sizes and several layers in a block."
            ),
            search_aliases=[
                "mini",
                "mini-sd",
                "mini-sdxl",
                "tiny model",
                "toy model",
                "demo checkpoint",
                "CIDM",
            ],
            **host.shows_result(),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(MINI_MODELS),
                    default=MINI_MODELS[0],
                    optional=True,
                    tooltip="mini-sd is built as SD 1.5 is, mini-sdxl as SDXL. Concepts of one do "
                    "not fit the other.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="Its UNet: 8 latent channels, 4 pixels per latent cell.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="Its text encoders: up to 48 tokens of plain English.",
                ),
                io.Vae.Output(
                    display_name="VAE",
                    tooltip="Its autoencoder: width and height in steps of 8 pixels.",
                ),
                io.Image.Output(
                    display_name="photos",
                    tooltip="Four photos of a cat it has never seen, for Train Concept.",
                ),
                io.String.Output(display_name="captions", tooltip="A line for each photo."),
            ],
        )

    @classmethod
    def execute(cls, model: str = MINI_MODELS[0]) -> io.NodeOutput:
        from ...cidm_core.diffusers_host.load import load_base
        from ...cidm_core.mini.looks import example_photos
        from .clip import clip_of
        from .objects import model_of, vae_of

        base = load_base(model, device="cpu", dtype="fp32")
        photos, captions, _ = zip(*example_photos(), strict=True)
        image = torch.cat([to_tensor(photo) for photo in photos])
        parts = model_of(base), clip_of(base), vae_of(base)
        return io.NodeOutput(*parts, image, "\n".join(captions), ui=shown(cls, image=image))
