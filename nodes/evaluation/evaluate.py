"""Evaluate Concepts: IA, TA, presence and W2 of finished pictures (CIDM section 5, Infusion)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...cidm_core.errors import CidmError
from ..host.inputs import first_of
from ..host.pictures import shown, to_pictures, to_tensor
from ..host.sockets import BankSocket, RegionsSocket, schema
from .encoders import HostEncoder, progress_of

_SETS = 6
Photos = Tensor | list[Tensor]


class EvaluateConcepts(io.ComfyNode):
    """Likeness of pictures to reference photos and prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_EvaluateConcepts",
            display_name="Evaluate Concepts",
            description="Measures how much pictures look like the photos of a concept (IA), how "
            "well they follow the prompt (TA), whether each concept is in its own region, and how "
            "far it is from others of its class (W2).",
            search_aliases=[
                *("CLIP score", "image alignment", "text alignment", "metrics", "CIDM"),
                *("likeness", "photos", "over-fitting", "Wasserstein"),
            ],
            is_input_list=True,  # photos of different sizes come as a list
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to judge: a batch or a list."),
                io.ClipVision.Input(
                    "clip_vision", tooltip="A CLIP model from Load CLIP Vision, such as ViT-L/14."
                ),
                io.Image.Input(
                    "references",
                    tooltip="Photos of the concept: a batch, or a list as dataset loaders give it. "
                    "With regions, those of the first region's concept.",
                ),
                *[
                    io.Image.Input(
                        f"references_{k}",
                        optional=True,
                        tooltip=f"Photos of a further concept. With regions, that of region {k}.",
                    )
                    for k in range(2, _SETS + 1)
                ],
                io.String.Input(
                    "names",
                    default="",
                    optional=True,
                    tooltip="Names of the concepts for the table, separated by commas.",
                ),
                RegionsSocket.Input(
                    "regions",
                    optional=True,
                    tooltip="With regions, each region's part of the picture is judged on its own: "
                    "which concept's photos are the nearest?",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    optional=True,
                    multiline=True,
                    tooltip="What the pictures should show, for TA: one line for all, or one for "
                    "each picture (or for each equal part of the batch).",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="For TA: the text encoder of the same CLIP as clip_vision, with its "
                    "text projection. Those in SD 1.5 checkpoints have none, see the help page.",
                ),
                BankSocket.Input(
                    "bank",
                    optional=True,
                    tooltip="Lets TA read concept words as the class words they stand for.",
                ),
                io.Image.Input(
                    "class_pictures",
                    optional=True,
                    tooltip="For W2: pictures of the plain class words by the model alone, without "
                    "the bank, as many as images. A hundred of each tell something.",
                ),
            ],
            outputs=[
                io.String.Output("table", tooltip="All scores; IA and TA times 100, as in papers."),
                io.Image.Output("picture", tooltip="The scores as a chart."),
                io.Float.Output(
                    "ia",
                    tooltip="Mean cosine with the photos, from -1 to 1. With regions, each region "
                    "is compared with its own concept's photos.",
                ),
                io.Float.Output(
                    "ta", tooltip="CLIPScore with the prompts, from 0 to 2.5. Without clip it is 0."
                ),
                io.Float.Output(
                    "presence", tooltip="Share of regions with their own concept, or 0."
                ),
                io.Float.Output(
                    "w2",
                    tooltip="2-Wasserstein distance of images and class_pictures: how far the "
                    "concept is from any of its class, in look and in variety. Without "
                    "class_pictures it is 0.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Photos,
        clip_vision: Any,
        references: Photos,
        names: Any = "",
        regions: Any = (),
        prompts: Any = "",
        clip: Any = None,
        bank: Any = None,
        class_pictures: Photos | None = None,
        **further: Photos | None,
    ) -> io.NodeOutput:
        from ...cidm_core.evaluation.judge import judge
        from ...cidm_core.evaluation.prompts import prompts_of_pictures

        # The host gives every input as a list.
        prompts = "\n".join(prompts) if isinstance(prompts, list) else prompts
        clip_vision, names, clip, bank = map(first_of, (clip_vision, names, clip, bank))
        pictures = _pictures(images)
        photos = _named(names, [references, *_further(further)])
        entries = bank.entries() if bank is not None else ()
        texts = prompts_of_pictures(prompts, len(pictures), entries) if clip is not None else []
        areas = [each.region for each in first_of(regions) or ()]
        plain = _pictures(class_pictures) if class_pictures is not None else []
        passes = len(areas) + (1 if texts or plain or not areas else 0)
        total = len(pictures) * passes + sum(map(len, (*photos.values(), plain)))
        encoder = HostEncoder(clip_vision, clip, progress_of(cls, total))
        found = judge(encoder, pictures, photos, areas, texts, plain)
        text, image = found.table(), to_tensor(found.picture())
        far = found.from_class.distance.value if found.from_class else 0.0
        numbers = found.image_alignment, found.text_alignment or 0.0, found.presence or 0.0, far
        return io.NodeOutput(text, image, *numbers, ui=shown(cls, text=text, image=image))


def _pictures(images: Photos) -> list[Image.Image]:
    """Pictures of a batch, or of several of different sizes."""
    batches = images if isinstance(images, list) else [images]
    return [picture for batch in batches for picture in to_pictures(batch)]


def _further(sockets: Mapping[str, Photos | None]) -> list[Photos]:
    """The further sets of photos, in order.

    Raises:
        CidmError: If one is missing in between.
    """
    numbered = {k: sockets.get(f"references_{k}") for k in range(2, _SETS + 1)}
    found = {k: photos for k, photos in numbered.items() if photos is not None}
    for k in range(2, len(found) + 2):
        if k not in found:
            raise CidmError(
                f"references_{k} is not connected, but a later one is. Connect them in order, "
                "because the k-th belongs to the k-th region."
            )
    return list(found.values())


def _named(names: str, sets: Sequence[Photos]) -> dict[str, list[Image.Image]]:
    """Photos by the names given, or by their number."""
    given = [name.strip() for name in names.split(",")] if names.strip() else []
    if len(given) > len(sets):
        raise CidmError(
            f"More names ({len(given)}) than sets of photos ({len(sets)}). Take some out."
        )
    given += [""] * (len(sets) - len(given))
    labels = [name or f"concept {k}" for k, name in enumerate(given, start=1)]
    if len(set(labels)) != len(labels):
        raise CidmError(f"Two concepts have the same name in {names!r}. Give each its own.")
    return {label: _pictures(photos) for label, photos in zip(labels, sets, strict=True)}
