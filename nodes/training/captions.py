"""The node that shows photos and captions as they will be learned, and edits captions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.errors import HostError, PhotoError
from ...cidm_core.families import FAMILIES
from ..host import comfy as host
from ..host.encoders import HostEncoder, encoders_of
from ..host.inputs import folder_stamp
from ..host.pictures import shown, to_tensor
from ..host.sockets import schema
from .photos import concept_inputs, images_input, photos_of

if TYPE_CHECKING:
    from ...cidm_core.inspection.findings import Reading
    from ...cidm_core.training.data import Photo

_CAPTIONS = (
    "Edited captions: lines such as 'dog1.jpg: a dog on grass' for those that change, as the "
    "report lists them; or one line per photo, or a list. Empty: those beside the photos."
)


class PhotosAndCaptions(io.ComfyNode):
    """Photos and captions in; the same, mended, and a sheet of what will be learned out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_PhotosAndCaptions",
            display_name="Photos and Captions",
            description=(
                "Look before you train: every photo as it will be learned, its mask and its "
                "caption with the words in place, and what is likely wrong. Captions are edited "
                "here and go on to Train Concept or Subject, or back to their files."
            ),
            search_aliases=[
                *("dataset", "check dataset", "caption editor", "edit captions", "tags"),
                *("duplicates", "blurry", "preview crops", "photos", "captions"),
            ],
            is_input_list=True,  # photos of different sizes come as a list
            is_output_node=True,
            inputs=[images_input(), *concept_inputs(_CAPTIONS), *_options()],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, photo_folder: Any = None, **_: Any) -> str:
        """Changes with the files of the photo folder."""
        return folder_stamp(photo_folder)

    @classmethod
    def execute(
        cls,
        words: list[str],
        class_words: list[str],
        kind: list[str],
        images: list[Any] | None = None,
        photo_folder: Sequence[str] = ("",),
        captions: Sequence[str] = (),
        masks: list[Any] | None = None,
        resolution: Sequence[int] = (512,),
        buckets: Sequence[bool] = (False,),
        strip: Sequence[bool] = (False,),
        write_back: Sequence[bool] = (False,),
        clip: Sequence[Any] = (),
    ) -> io.NodeOutput:
        """Look at photos and captions, and write captions back where that is asked for.

        Raises:
            CidmError: What training would refuse, and captions that cannot be written.
        """
        from ...cidm_core.inspection.editing import as_lines
        from ...cidm_core.inspection.findings import ESTIMATE
        from ...cidm_core.inspection.inspect import Frame, hearing, inspect, suggestion_for
        from ...cidm_core.inspection.sheet import report, sheet
        from ...cidm_core.training.data import TrainingSubject

        folder = photo_folder[0] or ""
        if write_back[0] and not folder:
            raise PhotoError(
                "write_back writes captions to files beside the photos, and these photos come by "
                "images. Choose a photo folder, or turn write_back off."
            )
        photos, told = hearing(lambda: photos_of(images or [], folder, (), masks or [], ""))
        photos = _captioned(photos, captions)
        subject = TrainingSubject(photos, words[0], class_words[0], kind[0])
        if strip[0]:
            texts = [suggestion_for(each.caption, subject) or each.caption for each in photos]
            pairs = zip(photos, texts, strict=True)
            photos = [replace(photo, caption=text) for photo, text in pairs]
            subject = replace(subject, photos=photos)
        frame = Frame(resolution[0], buckets=buckets[0])
        reading = _reading(clip[0], subject.subject.words) if clip else ESTIMATE
        (found,) = inspect([subject], frame, reading, told)
        lines = [report([found])]
        if write_back[0]:
            lines.append(_write(folder, photos))
        texts, names = [each.caption for each in photos], [each.name for each in found.photos]
        lines += ["", "To edit, copy lines into captions:", as_lines(names, texts, {}).rstrip()]
        page, text = to_tensor(sheet([found], frame)), "\n".join(lines)
        held = [photo.loaded() for photo in photos]
        return io.NodeOutput(
            [to_tensor(photo.image) for photo in held],
            "\n".join(each or class_words[0] for each in texts),
            _masks(held),
            page,
            text,
            ui=shown(cls, text=text, image=page),
        )


def _captioned(photos: Sequence[Photo], captions: Sequence[str]) -> list[Photo]:
    from ...cidm_core.inspection.editing import captioned
    from ...cidm_core.inspection.inspect import name_of_photo

    names = [name_of_photo(photo, number) for number, photo in enumerate(photos)]
    return captioned(photos, captions, names)


def _reading(clip: Any, words: Sequence[str]) -> Reading:
    """How much of a caption the text encoders of a CLIP read.

    Raises:
        HostError: If they are of no family that can learn.
    """
    from ...cidm_core.diffusers_host.tokens import count_tokens
    from ...cidm_core.inspection.findings import Reading

    encoders, names = _encoders(clip), [(word,) for word in words]
    return Reading(
        lambda text: max(count_tokens(each.tokenizer(clip), text, names) for each in encoders),
        min(each.row.max_tokens for each in encoders) - 2,
    )


def _encoders(clip: Any) -> tuple[HostEncoder, ...]:
    first, *others = FAMILIES.values()
    for family in others:
        with contextlib.suppress(HostError):
            return encoders_of(clip, family)
    return encoders_of(clip, first)


def _write(folder: str, photos: Sequence[Photo]) -> str:
    """Write captions back to the files of a photo folder, and tell of it."""
    from ...cidm_core.inspection.editing import edits
    from ...cidm_core.inspection.writing import Source, write_captions

    source = Source.of(host.input_folder(folder))
    after = {number: photo.caption for number, photo in enumerate(photos) if photo.caption}
    changed = edits(source.texts, after)
    _, kept = write_captions(source, changed)
    if kept is None:
        return "The captions in the files are these already."
    return f"{len(changed)} of {len(photos)} captions written; what they were is in '{kept}'."


def _masks(photos: Sequence[Photo]) -> list[Tensor]:
    """A mask for each photo, white where it has none; nothing where none has one."""
    if not any(photo.has_mask for photo in photos):
        return []
    return [_mask(photo)[None] for photo in photos]


def _mask(photo: Photo) -> Tensor:
    if photo.mask_values is None:
        return torch.ones(photo.image.height, photo.image.width)
    return torch.from_numpy(np.ascontiguousarray(photo.mask_values))


def _options() -> list[io.Input]:
    return [
        io.Int.Input(
            "resolution",
            default=512,
            min=8,
            max=4096,
            step=8,
            optional=True,
            tooltip="Side of the square that photos are learned at: 512 on SD 1.x, 1024 on SDXL, "
            "32 on the mini models.",
        ),
        io.Boolean.Input(
            "buckets",
            default=False,
            optional=True,
            tooltip="Show photos in shapes near their own, as the setting of the Method nodes "
            "learns them.",
        ),
        io.Boolean.Input(
            "strip",
            default=False,
            optional=True,
            tooltip="Strip attribute words: take colour, material, pattern and texture from before "
            "the class words, so that the concept learns them.",
        ),
        io.Boolean.Input(
            "write_back",
            default=False,
            optional=True,
            tooltip="Write the captions to their files beside the photos, for a photo folder only. "
            "What they were is kept in one hidden file there.",
        ),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="The model's CLIP, to count the tokens of captions as it does. Without one "
            "they are estimated.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Image.Output(
            "images", is_output_list=True, tooltip="The photos, for Train Concept or Subject."
        ),
        io.String.Output(
            "captions",
            tooltip="The captions, a line for each photo, for Train Concept or Subject. Photos "
            "without one have the class words.",
        ),
        io.Mask.Output(
            "masks",
            is_output_list=True,
            tooltip="A mask for each photo, for Train Concept or Subject; none where no photo has "
            "one.",
        ),
        io.Image.Output("sheet", tooltip="All photos as they are learned, with what was found."),
        io.String.Output("report", tooltip="What was found, and the captions as lines to edit."),
    ]
