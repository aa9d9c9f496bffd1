"""Load mini-sd, the small model that comes with the pack, into the stock sockets."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..host import comfy as host
from ..host.pictures import shown, to_tensor
from ..host.sockets import CATEGORY, schema


class LoadMiniModel(io.ComfyNode):
    """mini-sd as MODEL, CLIP and VAE, and photos to learn from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_LoadMiniModel",
            display_name="Load Mini Model (try-out)",
            category=f"{CATEGORY}/try out",
            description=(
                "A tiny model of 32 x 32 pixels that comes with the pack. It learns a concept in a "
                "minute or two, without a download, and knows simple scenes such as 'a photo of a "
                "red cat'. Draw with width and height 32, 30 steps, cfg 4."
            ),
            search_aliases=[
                "mini",
                "mini-sd",
                "tiny model",
                "toy model",
                "demo checkpoint",
                "CIDM",
            ],
            **host.shows_result(),
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The UNet of mini-sd: 8 latent channels, 4 pixels per latent cell.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="Its text encoder: up to 48 tokens of plain English.",
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
    def execute(cls) -> io.NodeOutput:
        from ...cidm_core.diffusers_host.load import MINI_SD, load_base
        from ...cidm_core.mini.looks import example_photos
        from .objects import clip_of, model_of, vae_of

        base = load_base(MINI_SD, device="cpu", dtype="fp32")
        photos, captions = zip(*example_photos(), strict=True)
        image = torch.cat([to_tensor(photo) for photo in photos])
        parts = model_of(base), clip_of(base), vae_of(base)
        return io.NodeOutput(*parts, image, "\n".join(captions), ui=shown(cls, image=image))
