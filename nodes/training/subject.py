"""A further subject for methods that teach several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..host.inputs import folder_stamp
from ..host.pictures import to_tensor
from ..host.sockets import SubjectsSocket, schema, subjects_input
from .photos import (
    concept_inputs,
    images_input,
    masks_output,
    masks_sheet,
    photos_of,
    prior_input,
    prior_of,
)


class MoreSubjects(io.ComfyNode):
    """Photos, words and prior pictures of one more thing that is learned together with another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_Subject",
            display_name="Subject",
            description=(
                "One more subject for Train Concept, to be learned together with its own: with "
                "photos, words and class words. Chain several. The method must teach several at "
                "once, as Custom Diffusion and CLIF do."
            ),
            search_aliases=[
                *("joint training", "two concepts", "multi concept", "second subject"),
                "look-alikes",
            ],
            is_input_list=True,
            inputs=[
                images_input(),
                *concept_inputs(),
                prior_input(),
                subjects_input("From another Subject, to add this one to it."),
            ],
            outputs=[
                SubjectsSocket.Output("subjects", tooltip="For Train Concept."),
                masks_output(),
            ],
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
        prior: list[Any] | None = None,
        subjects: Sequence[tuple[Any, ...]] = (),
    ) -> io.NodeOutput:
        """The subjects so far and this one.

        Raises:
            PhotoError: If its photos cannot be used.
        """
        from ...cidm_core.training.data import TrainingSubject

        photos = photos_of(
            images or [], photo_folder[0] or "", captions, masks or [], class_words[0]
        )
        this = TrainingSubject(
            photos, words[0], class_words[0], kind[0], prior=prior_of(prior or [])
        )
        before = subjects[0] if subjects else ()
        return io.NodeOutput((*before, this), to_tensor(masks_sheet(photos)))
