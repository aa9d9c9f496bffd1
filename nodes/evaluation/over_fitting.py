"""Measure Over-fitting: what concepts do to the model where nobody asked for it (Infusion)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import find_entry
from ...cidm_core.concept import Concept
from ...cidm_core.config import SampleConfig
from ...cidm_core.errors import BankError
from ...cidm_core.storage.compatibility import check_fit
from ..host import comfy as host
from ..host.base import base_of, lora_notes, usual_precision
from ..host.inputs import (
    first_of,
    folder_stamp,
    inputs_of,
    photo_folder_input,
    settings_given,
    text_input,
)
from ..host.pictures import shown, to_tensor
from ..host.sockets import bank_input, schema
from .encoders import HostEncoder
from .references import Photos, photos_by_concept

if TYPE_CHECKING:
    from ...cidm_core.evaluation.over_fitting import OverFitting

_USUAL = "0 takes what is usual for the model."


class MeasureOverFitting(io.ComfyNode):
    """Draws with each concept of a bank by itself, and compares with the bare model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_MeasureOverFitting",
            display_name="Measure Over-fitting",
            description="Measures how alike each concept of a bank is and what it costs: how far "
            "it is from others of its class (W2), and how much it changes the model where nobody "
            "asked for it (latent Fisher divergence). It draws all pictures itself.",
            search_aliases=[
                *("over-fitting", "overfitting", "LFD", "latent Fisher divergence", "Wasserstein"),
                *("Infusion", "compare methods", "metrics", "likeness", "CIDM"),
            ],
            is_input_list=True,  # photos of different sizes come as a list
            is_output_node=True,
            inputs=[*_sockets(), *_settings()],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, photo_folder: Any = None, **_: Any) -> str:
        """Changes with the files of the photo folder and of those in it."""
        root = first_of(photo_folder)
        inside = [each for each in host.input_folders() if root and each.startswith(f"{root}/")]
        return "\n".join(folder_stamp(each) for each in (root, *inside))

    @classmethod
    def execute(
        cls,
        model: list[Any],
        clip: list[Any],
        vae: list[Any],
        bank: list[Bank],
        clip_vision: list[Any],
        references: list[Tensor] | None = None,
        photo_folder: Sequence[str] = ("",),
        concepts: Sequence[str] = ("",),
        pictures: Sequence[int] = (100,),
        **settings: list[Any],
    ) -> io.NodeOutput:
        """Measure; numbers are those of `cidm evaluate --over-fitting`.

        Raises:
            CidmError: Anything the user can mend, with what to do.
        """
        from ...cidm_core.evaluation.report import over_fitting_picture, over_fitting_table

        names = _chosen(bank[0], ",".join(concepts))
        photos = photos_by_concept(names, references or [], photo_folder[0] or "")
        given = {name: value[0] for name, value in settings.items() if value[0]}
        sampling = settings_given(SampleConfig, given)
        for note in lora_notes(model[0], clip[0]):
            host.warn(note)
        taught = [bank[0][name] for name in names]
        sockets, encoder = (model[0], clip[0], vae[0]), HostEncoder(clip_vision[0])
        found = _measured(cls, sockets, encoder, taught, photos, pictures[0], sampling)
        text, picture = over_fitting_table(found), to_tensor(over_fitting_picture(found))
        numbers = json.dumps([asdict(each) for each in found], indent=2)
        likeness = _mean(each.likeness.value for each in found if each.likeness is not None)
        far = _mean(each.wasserstein.value for each in found)
        gap = _mean(each.at_class_merged.weighted.value for each in found)
        ui = shown(cls, text="\n".join(map(_in_words, found)), image=picture)
        return io.NodeOutput(text, picture, numbers, likeness, far, gap, ui=ui)


def _measured(
    cls: type[io.ComfyNode],
    sockets: tuple[Any, Any, Any],
    encoder: HostEncoder,
    concepts: Sequence[Concept],
    photos: Photos,
    pictures: int,
    sampling: Mapping[str, object],
) -> list[OverFitting]:
    """Each concept in turn; the host's models leave the device first, and ours afterwards."""
    from ...cidm_core.evaluation.over_fitting import OverFittings

    host.unload_models()
    with base_of(*sockets, usual_precision()) as base:
        config = SampleConfig.for_family(base.family.sampling, **sampling)
        check_fit(concepts, base, allow_other_base=config.allow_other_base)
        base.unet.register_forward_pre_hook(_leave_if_cancelled)
        fitting = OverFittings(base, encoder, pictures, config)
        tell = _teller(cls, fitting.work(concepts))
        return [fitting.of(each, photos.get(each.name, ()), tell) for each in concepts]


def _leave_if_cancelled(*_: object) -> None:
    """End within a step of drawing or of looking at noise."""
    if host.is_interrupted():
        host.interrupt()


def _teller(cls: type[io.ComfyNode], total: int) -> Callable[[int], None]:
    """Moves the node's progress bar and says how far it is."""
    done, node = 0, host.node_id_of(cls)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        host.show_progress(done, total, None, node)
        host.say_on_node(f"Picture {done} of {total}", node)

    return tell


def _chosen(bank: Bank, text: str) -> list[str]:
    """Names of the concepts that are asked for, or of all.

    Raises:
        BankError: If there is none, or one of them is not in the bank.
    """
    asked = [each for each in re.split(r"[\n,]", text) if each.strip()]
    names = list(dict.fromkeys(find_entry(bank, each).name for each in asked)) or list(bank)
    if not names:
        raise BankError(f"Bank '{bank.name}' holds no concept yet. Train or import one first.")
    return names


def _in_words(found: OverFitting) -> str:
    """A line for the node, which has no room for the table."""
    alike = "-" if found.likeness is None else f"{found.likeness.value:.3f}"
    here, there = found.at_class_merged.weighted.value, found.elsewhere_merged.weighted.value
    return (
        f"{found.concept} ({found.method}): likeness {alike}, W2 {found.wasserstein.value:.3f} "
        f"(by chance {found.chance:.3f}), LFD {here:.3f} at class, {there:.3f} elsewhere"
    )


def _mean(values: Any) -> float:
    held = list(values)
    return sum(held) / len(held)


def _sockets() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model that the concepts were learned on."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint, without a bank."),
        io.Vae.Input("vae", tooltip="A VAE for the model."),
        bank_input(),
        io.ClipVision.Input(
            "clip_vision",
            tooltip="A CLIP model from Load CLIP Vision, such as ViT-L/14, to compare pictures by.",
        ),
        io.Image.Input(
            "references",
            optional=True,
            tooltip="Photos of the concept, where one is measured: a batch or a list.",
        ),
        photo_folder_input(
            "Instead of references: a sub-folder of the input directory. For several concepts it "
            "has a folder of photos for each, of the concept's name."
        ),
        text_input(
            "concepts",
            "Which concepts of the bank, with commas between. Empty means all of them.",
        ),
    ]


def _settings() -> list[io.Input]:
    return [
        io.Int.Input(
            "pictures",
            default=100,
            min=8,
            max=10_000,
            optional=True,
            tooltip="How many of each kind: of the concept, of its class by the model alone, and "
            "of other things. A hundred tell something.",
        ),
        *inputs_of(SampleConfig, ("seed",)),
        _usual_number("steps", "Number of denoising steps.", 1000),
        io.Float.Input(
            "guidance_scale",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=True,
            tooltip=f"Scale of classifier-free guidance. {_USUAL}",
        ),
        _usual_number("width_px", "Width of the pictures.", 8192, step=8),
        _usual_number("height_px", "Height of the pictures.", 8192, step=8),
        *inputs_of(SampleConfig, ("allow_other_base",)),
    ]


def _usual_number(name: str, help: str, most: int, step: int = 1) -> io.Input:
    text = f"{help} {_USUAL}"
    return io.Int.Input(name, default=0, min=0, max=most, step=step, optional=True, tooltip=text)


def _outputs() -> list[io.Output]:
    return [
        io.String.Output("table", tooltip="A row for each concept, with 95 % intervals."),
        io.Image.Output(
            "picture", tooltip="Likeness against over-fitting, a point for each concept."
        ),
        io.String.Output(
            "numbers", tooltip="All that was measured as JSON, unweighted divergences too."
        ),
        io.Float.Output(
            "likeness", tooltip="Mean cosine of pictures and photos, from -1 to 1; of all concepts."
        ),
        io.Float.Output(
            "w2",
            tooltip="Mean 2-Wasserstein distance of pictures of the concept and of its class.",
        ),
        io.Float.Output(
            "lfd",
            tooltip="Mean weighted latent Fisher divergence at the plain class words, with the "
            "concept's weights in the model.",
        ),
    ]
