"""Regions with their conditionings: one at a time by number, or several from an editor or text."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.errors import RegionError
from ...cidm_core.importers.region_list import Area, read_areas, read_regions
from ...cidm_core.regions import Box, Region
from ..host import comfy as host
from ..host.inputs import text_input
from ..host.pictures import shown, to_pictures, to_tensor
from ..host.sockets import RegionPrompt, RegionsSocket, schema
from ..sampling.prompts import prompt_in

_SIZE = 512

# By name, because older hosts lack these types; forceInput keeps the canvas from drawing a widget.
_BoxSocket = io.Custom("BOUNDING_BOX")
_ListSocket = io.Custom("ARRAY")
_ALIASES = ["regional prompt", "box prompt", "area prompt", "layout", "CIDM", "bounding box"]


class ConceptRegion(io.ComfyNode):
    """One region of a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ConceptRegion",
            display_name="Concept Region",
            description="A part of the picture and what it shows. Chain several of these, then "
            "draw with Regional Noise Guider.",
            search_aliases=_ALIASES,
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="What the region shows, from a text encode node."
                ),
                _share("x", 0.0, "Left edge, as a share of the picture's width."),
                _share("y", 0.0, "Upper edge, as a share of the picture's height."),
                _share("width", 0.5, "Width, as a share of the picture's width."),
                _share("height", 1.0, "Height, as a share of the picture's height."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What the region should not show. By default the picture's negative.",
                ),
                _earlier(),
                _BoxSocket.Input(
                    "box",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="A box in pixels, used instead of the four numbers.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="A painted region, instead of the four numbers."
                ),
                text_input("label", "The region's name in the preview and in messages."),
                io.Int.Input(
                    "box_number",
                    default=1,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Which box to take where several are connected.",
                ),
                *_picture(advanced=True),
            ],
            outputs=_outputs(),
            **host.shows_result(),
        )

    @classmethod
    def execute(
        cls,
        positive: list[Any],
        x: float,
        y: float,
        width: float,
        height: float,
        negative: list[Any] | None = None,
        regions: tuple[RegionPrompt, ...] | None = None,
        box: Any = None,
        mask: Tensor | None = None,
        label: str = "",
        box_number: int = 1,
        **picture: Any,
    ) -> io.NodeOutput:
        earlier = regions or ()
        number = len(earlier) + 1
        if box is not None and mask is not None:
            raise RegionError(
                f"Region {number} has a box and a mask connected. Disconnect one of them."
            )
        text = label.strip() or _concepts(positive) or f"region {number}"
        try:
            if mask is not None:
                region = Region(text, mask=_single(mask))
            elif box is not None:
                region = Region(text, box=_numbered_box(box, box_number, _size(**picture)))
            else:
                region = Region(text, box=(x, y, x + width, y + height))
        except RegionError as error:
            raise RegionError(f"Region {number}: {error}") from None
        return _result(cls, (*earlier, RegionPrompt(region, positive, negative)), **picture)


class ConceptRegions(io.ComfyNode):
    """Several regions at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ConceptRegions",
            display_name="Concept Regions",
            description="Several parts of the picture, each with a prompt: drawn in the core's "
            "Create Bounding Boxes, painted as masks, or written as text.",
            search_aliases=[*_ALIASES, "regions from boxes", "multi concept"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="Encodes the prompts. Take that of Apply Concept Bank for concepts.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    # No dynamic prompts: they would take the braces out of JSON.
                    tooltip="The k-th line is the prompt of the k-th region; an empty line takes "
                    "the box's description. Without boxes and masks write lines such as "
                    "'0.05,0.3,0.45,0.95: a dog' (left, top, right, bottom as shares), or JSON, "
                    "whose form is on the help page.",
                ),
                io.MultiType.Input(
                    "elements",
                    [_ListSocket, _BoxSocket, io.String],
                    optional=True,
                    tooltip="The output elements or bboxes of Create Bounding Boxes, or JSON.",
                ),
                io.Mask.Input(
                    "masks", optional=True, tooltip="A mask for each region, after the boxes."
                ),
                _earlier(),
                *_picture(advanced=None),
            ],
            outputs=_outputs(),
            **host.shows_result(),
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        prompts: str,
        elements: Any = None,
        masks: Tensor | None = None,
        regions: tuple[RegionPrompt, ...] | None = None,
        **picture: Any,
    ) -> io.NodeOutput:
        size = _size(**picture)
        areas = read_areas(elements, size)
        if masks is not None:
            areas += [Area(mask=mask) for mask in (masks if masks.ndim == 3 else masks[None])]
        made = [_encoded(clip, region) for region in read_regions(areas, prompts, size)]
        return _result(cls, (*(regions or ()), *made), **picture)


def _share(name: str, default: float, tooltip: str) -> io.Input:
    low = 0.0 if name in ("x", "y") else 0.01
    return io.Float.Input(name, default=default, min=low, max=1.0, step=0.01, tooltip=tooltip)


def _earlier() -> io.Input:
    return RegionsSocket.Input(
        "regions", optional=True, tooltip="Earlier regions, which come before those made here."
    )


def _picture(advanced: bool | None) -> list[io.Input]:
    """What is known of the picture that the regions lie in; see `_size` and `_result`."""
    sides = (("picture_width", "Width"), ("picture_height", "Height"))
    sizes: list[io.Input] = [
        io.Int.Input(
            name,
            default=_SIZE,
            min=16,
            max=16384,
            step=8,
            optional=True,
            advanced=advanced,
            tooltip=f"{side} of the picture, for boxes in pixels (take that of the box editor) and "
            "for the preview.",
        )
        for name, side in sides
    ]
    background = io.Image.Input(
        "background", optional=True, tooltip="A picture to lay under the preview, for nothing else."
    )
    return [*sizes, background]


def _outputs() -> list[io.Output]:
    return [
        RegionsSocket.Output("regions", tooltip="For Regional Noise Guider, or a further region."),
        io.Image.Output("preview", tooltip="Where the regions lie, with their prompts."),
    ]


def _concepts(conditioning: list[Any]) -> str:
    """The concept words that a conditioning names, if its CLIP knew any."""
    found = (prompt_in(entry[1]) for entry in conditioning)
    return " ".join(prompt.named for prompt in found if prompt is not None)


def _single(mask: Tensor) -> Tensor:
    """The only mask of a MASK batch."""
    if mask.ndim == 3 and len(mask) > 1:
        raise RegionError(f"{len(mask)} masks came. Use Concept Regions for several, or pick one.")
    return mask


def _numbered_box(boxes: Any, number: int, size: tuple[int, int]) -> Box | None:
    found = read_areas(boxes, size)
    if number > len(found):
        count = f"{len(found)} box{'' if len(found) == 1 else 'es'}"
        raise RegionError(f"Box {number} was asked for; {count} came. Correct box_number or draw.")
    return found[number - 1].box


def _encoded(clip: Any, region: Region) -> RegionPrompt:
    negative = None if region.negative is None else host.encode_text(clip, region.negative)
    return RegionPrompt(region, host.encode_text(clip, region.prompt), negative)


def _size(picture_width: int = _SIZE, picture_height: int = _SIZE, **_: Any) -> tuple[int, int]:
    return picture_width, picture_height


def _result(
    cls: type[io.ComfyNode],
    regions: tuple[RegionPrompt, ...],
    background: Tensor | None = None,
    **size: Any,
) -> io.NodeOutput:
    """The regions, and a preview of where they lie."""
    from ...cidm_core.pictures.layout import layout_picture

    under = None if background is None else to_pictures(background[:1])[0]
    shape = _size(**size) if under is None else under.size
    image = to_tensor(layout_picture([each.region for each in regions], *shape, under))
    return io.NodeOutput(regions, image, ui=shown(cls, image=image))
