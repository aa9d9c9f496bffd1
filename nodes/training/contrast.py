"""What words are told apart by: CLIP, and common things that stand beside the subjects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.errors import HostError, PhotoError
from ..host import comfy as host
from ..host.clip_text import text_projection, token_table
from ..host.clip_vision import picture_features, picture_projection
from ..host.inputs import NO_FOLDER, folder_stamp, photo_folder_input, text_input
from ..host.sockets import ContrastChoice, ContrastSocket, schema
from .photos import rows_of

if TYPE_CHECKING:
    from ...cidm_core.diffusers_host.composites import Contrast
    from ...cidm_core.diffusers_host.contrast import ContrastClip
    from ...cidm_core.families import Family
    from ...cidm_core.training.composites.cutouts import CutOut

_WHOLE_CLIP = (
    "It needs the text projection of the very CLIP that CLIP vision is of: put CLIP's whole file "
    "(such as model.safetensors of clip-vit-large-patch14) into models/text_encoders and "
    "models/clip_vision and load it with Load CLIP and Load CLIP Vision."
)
_MINI = "MINI"  # what the families of the mini models begin with


class WordContrast(io.ComfyNode):
    """CLIP vision, CLIP and common things, as a CONTRAST."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_WordContrast",
            display_name="Word Contrast",
            description=(
                "What new words are told apart by, for Method: CLIF and for methods with contrast "
                "on: CLIP, and common things that stand beside your subjects on composites. Photos "
                "need masks. For mini-sdxl leave everything open: it brings its own."
            ),
            search_aliases=["clif", "contrastive", "look-alikes", "confused", "composites"],
            is_input_list=True,
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From Load CLIP Vision: the CLIP that the model's first text encoder "
                    "is of, OpenAI's ViT-L/14 for SD 1.5 and SDXL.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder of the same file, from Load CLIP: its text "
                    "projection is used. Not the checkpoint's, which has none.",
                ),
                io.Image.Input(
                    "things",
                    optional=True,
                    tooltip="Pictures of common things that the model knows: a chef, a stool ...",
                ),
                io.Mask.Input(
                    "thing_masks", optional=True, tooltip="One mask per thing, white on it."
                ),
                text_input(
                    "thing_names",
                    "What each thing is called, one line per picture: chef.",
                    multiline=True,
                ),
                photo_folder_input(
                    "Instead of things: a sub-folder of the input directory with cut-outs, such as "
                    "chef.png without a background, or chef.jpg with chef_mask.png."
                ),
            ],
            outputs=[ContrastSocket.Output("contrast", tooltip="For Train Concept.")],
        )

    @classmethod
    def fingerprint_inputs(cls, photo_folder: Any = None, **_: Any) -> str:
        """Changes with the files of the folder, and of those in it."""
        return folder_stamp(photo_folder, nested=True)

    @classmethod
    def execute(
        cls,
        clip_vision: list[Any] | None = None,
        clip: list[Any] | None = None,
        things: list[Any] | None = None,
        thing_masks: list[Any] | None = None,
        thing_names: Sequence[str] = ("",),
        photo_folder: Sequence[str] = (NO_FOLDER,),
    ) -> io.NodeOutput:
        """Read CLIP and the things.

        Raises:
            HostError: If one half of CLIP is missing, or has no projection.
            PhotoError: If things cannot be used.
        """
        names = [line for text in thing_names for line in text.splitlines() if line.strip()]
        common = _common(things or [], thing_masks or [], names, photo_folder[0] or "")
        return io.NodeOutput(ContrastChoice(_clip(clip_vision, clip), common))


def _clip(vision: list[Any] | None, clip: list[Any] | None) -> ContrastClip | None:
    """CLIP from both sockets; None if both are open."""
    from ...cidm_core.diffusers_host.contrast import ContrastClip, sampled
    from ...cidm_core.fingerprints import fingerprint

    if not vision and not clip:
        return None
    if not vision or not clip:
        missing = "clip" if vision else "clip_vision"
        raise HostError(f"{missing} is not connected. {_WHOLE_CLIP}")
    found, of_pictures = text_projection(clip[0]), picture_projection(vision[0])
    if found is None:
        raise HostError(f"This CLIP has no text projection. {_WHOLE_CLIP}")
    weight, scale = found
    if of_pictures is None or len(of_pictures) != len(weight):
        count = "none" if of_pictures is None else len(of_pictures)
        raise HostError(
            f"clip_vision and clip are of two models: texts have {len(weight)} features and "
            f"pictures {count}. {_WHOLE_CLIP}"
        )
    see, name = partial(picture_features, vision[0]), fingerprint([weight, of_pictures])
    with torch.inference_mode(False):
        entries = sampled(token_table(clip[0])).clone()
    return ContrastClip(see, weight, scale, name, host.unload_models, entries)


def _common(
    things: Sequence[Any], masks: Sequence[Any], names: Sequence[str], folder: str
) -> tuple[CutOut, ...]:
    from ...cidm_core.training.composites.common import common_things

    pictures, white = rows_of(things, 4), rows_of(masks, 3)
    if folder and pictures:
        raise PhotoError(
            f"Both things ({len(pictures)}) and the folder {folder!r} are given. Disconnect the "
            "things, or leave the folder empty."
        )
    if folder:
        return tuple(common_things(host.input_folder(folder)))
    if not len(pictures) == len(white) == len(names):
        raise PhotoError(
            f"There are {len(pictures)} things, {len(white)} masks and {len(names)} names. Give "
            "one mask per thing, white on it, and one name, a line each."
        )
    parts = zip(pictures, white, names, strict=True)
    return tuple(_thing(name, picture, mask) for picture, mask, name in parts)


def _thing(name: str, picture: Tensor, mask: Tensor) -> CutOut:
    from ...cidm_core.training.composites.common import label_of
    from ...cidm_core.training.composites.cutouts import CutOut, cut_out
    from ...cidm_core.training.data import Photo

    try:
        held = Photo.from_image(picture.clamp(0, 1), mask=mask)
    except PhotoError as error:
        raise PhotoError(f"Thing {name!r}: {error}") from error
    assert held.mask_values is not None
    piece = cut_out(held.image, held.mask_values)
    if piece is None:
        raise PhotoError(
            f"The mask of {name!r} leaves nothing of it, or all. Paint it white on the thing and "
            "black around it."
        )
    return CutOut(piece, label=label_of(name))


def contrast_of(choice: ContrastChoice | None, family: Family, **more: Any) -> Contrast | None:
    """What `train_concept` takes; the mini models bring CLIP and things themselves.

    Args:
        choice: From the socket; None if it is open.
        family: Of the model.
        more: Further fields of `Contrast`.
    """
    from ...cidm_core.diffusers_host.clip import MINI_CLIP
    from ...cidm_core.diffusers_host.composites import Contrast
    from ...cidm_core.diffusers_host.contrast import load_contrast_clip
    from ...cidm_core.mini.common_things import drawn_things

    choice = choice or ContrastChoice()
    is_mini = family.name.startswith(_MINI)
    clip, common = choice.clip, choice.common
    if clip is None and not is_mini:
        return None
    clip = clip or load_contrast_clip(MINI_CLIP, "cpu")
    return Contrast(clip, common or (drawn_things() if is_mini else ()), **more)
