"""Photos of things that the mini models have never seen, to learn from without any of one's own."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...cidm_core.mini.looks import DEMO_LOOKS, example_photos
from ..host import comfy as host
from ..host.pictures import shown, to_tensor
from ..host.sockets import CATEGORY, schema

_LOOKS = {look.name.replace("-", " "): look for look in DEMO_LOOKS if look.thing is not None}


class MiniPhotos(io.ComfyNode):
    """Four photos with captions and masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_MiniPhotos",
            display_name="Mini Photos (try-out)",
            category=f"{CATEGORY}/try out",
            description=(
                "Four photos of a cat for the mini models, with captions and masks. The two cats "
                "look alike to a model that has seen neither."
            ),
            search_aliases=["mini", "example photos", "demo photos", "masks", "look-alikes"],
            **host.shows_result(),
            inputs=[
                io.Combo.Input(
                    "look",
                    options=list(_LOOKS),
                    default=next(iter(_LOOKS)),
                    optional=True,
                    tooltip="Which cat: purple and striped, as Load Mini Model shows it, or teal "
                    "and spotted.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="photos", tooltip="32 x 32 pixels, for Train Concept or Subject."
                ),
                io.String.Output(display_name="captions", tooltip="A line for each photo."),
                io.Mask.Output(display_name="masks", tooltip="One for each photo, white on it."),
            ],
        )

    @classmethod
    def execute(cls, look: str = next(iter(_LOOKS))) -> io.NodeOutput:
        photos, captions, masks = zip(*example_photos(_LOOKS[look]), strict=True)
        image = torch.cat([to_tensor(photo) for photo in photos])
        white = torch.stack([torch.from_numpy(mask) for mask in masks])
        return io.NodeOutput(image, "\n".join(captions), white, ui=shown(cls, image=image))
