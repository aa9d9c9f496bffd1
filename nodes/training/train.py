"""The node that teaches a concept from photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.config import AGAIN, AGAIN_HELP
from ...cidm_core.errors import ConceptError
from ...cidm_core.training.presets import PRESET_HELP
from ..host import comfy as host
from ..host.inputs import NO_FOLDER, first_of, folder_stamp, passes, text_input
from ..host.pictures import shown, to_tensor
from ..host.sockets import (
    BankSocket,
    ContrastChoice,
    ContrastSocket,
    MethodChoice,
    MethodSocket,
    schema,
    subjects_input,
)
from .inputs import LABELS, ON_THE_NODE, MethodInputs
from .photos import (
    concept_inputs,
    images_input,
    masks_output,
    masks_sheet,
    photos_of,
    prior_input,
    prior_of,
)

_DEFAULT = "cidm"  # the method without a node that says another


class TrainConcept(io.ComfyNode):
    """Photos, captions and concept words in; a concept in the bank out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_TrainConcept",
            display_name="Train Concept (CIDM)",
            description=(
                "Teaches the model one concept from 3 to 20 photos and adds it to the bank. "
                "Concepts learned earlier stay as they are. Cancel keeps the state; queue the same "
                "graph again to go on."
            ),
            search_aliases=[
                *("train lora", "teach concept", "learn concept", "dreambooth"),
                *("textual inversion", "continual learning", "fine-tune", "custom diffusion"),
                *("likeness", "style", "character", "photos"),
            ],
            is_input_list=True,  # photos of different sizes come as a list
            is_output_node=True,
            inputs=[
                *_sockets(),
                *_concept(),
                *MethodInputs(_DEFAULT).inputs(ON_THE_NODE),
                io.Combo.Input(
                    "again",
                    options=list(AGAIN),
                    default=AGAIN[0],
                    optional=True,
                    tooltip=f"{AGAIN_HELP}. With refuse the message says what differs.",
                ),
                prior_input(),
                subjects_input("For methods that can: more to learn at once, from Subject."),
                ContrastSocket.Input(
                    "contrast",
                    optional=True,
                    tooltip="From Word Contrast, where words are to be told apart first: by "
                    "Method: CLIF, or by a method with contrast on.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, photo_folder: Any = None) -> bool | str:
        """What can be known before running."""
        asked = host.inputs_asked(cls)
        if asked is None:
            return True
        asked["photo_folder"] = first_of(photo_folder)
        return passes(lambda: _check(asked))

    @classmethod
    def fingerprint_inputs(cls, photo_folder: Any = None, **_: Any) -> str:
        """Changes with the files of the photo folder."""
        return folder_stamp(photo_folder)

    @classmethod
    def execute(
        cls,
        model: list[Any],
        clip: list[Any],
        vae: list[Any],
        bank: list[Any],
        words: list[str],
        class_words: list[str],
        kind: list[str],
        preset: list[str],
        images: list[Any] | None = None,
        photo_folder: Sequence[str] = (NO_FOLDER,),
        captions: Sequence[str] = (),
        masks: list[Any] | None = None,
        name: Sequence[str] = ("",),
        method: Sequence[MethodChoice] = (),
        again: Sequence[str] = (AGAIN[0],),
        prior: list[Any] | None = None,
        subjects: Sequence[tuple[Any, ...]] = (),
        contrast: Sequence[ContrastChoice] = (),
        **settings: list[Any],
    ) -> io.NodeOutput:
        """Learn; see `train_run.learn`.

        Raises:
            CidmError: Anything the user can mend, with what to do.
        """
        from .ahead import check_prompts_after
        from .progress import Reporter
        from .run import Order, learn

        check_prompts_after(cls.hidden.prompt or {}, str(cls.hidden.unique_id), bank[0])
        photos = photos_of(
            images or [], photo_folder[0] or "", captions, masks or [], class_words[0]
        )
        chosen = method[0] if method else MethodChoice(_DEFAULT, {})
        shown_here = {key: value[0] for key, value in settings.items()}
        order = Order(
            photos=photos,
            words=words[0],
            class_words=class_words[0],
            kind=kind[0],
            name=name[0].strip() or None,
            preset=preset[0],
            method=chosen.method,
            settings={**chosen.settings, **MethodInputs(chosen.method).asked(shown_here)},
            again=again[0],
            subjects=subjects[0] if subjects else (),
            prior=prior_of(prior or []),
            contrast=contrast[0] if contrast else None,
        )
        reporter = Reporter(cls.hidden.unique_id, words[0])
        seen = [*photos, *(photo for each in order.subjects for photo in each.photos)]
        sheet = masks_sheet(seen)
        if any(photo.has_mask for photo in seen):
            reporter.show(sheet)
        learned = learn(order, bank[0], (model[0], clip[0], vae[0]), reporter)
        return _output(cls, bank[0], learned, reporter, to_tensor(sheet))


def _check(asked: Mapping[str, Any]) -> None:
    """Look at a node's inputs; None is a link, whose value comes later."""
    from ...cidm_core.storage.names import clean_name
    from ...cidm_core.words import new_words

    given = {name: str(value).strip() for name, value in asked.items() if value is not None}
    # Another method may teach no words.
    if given.get("words") or ("words" in given and "method" not in asked):
        new_words(given["words"])
    if not given.get("class_words", "later"):
        raise ConceptError("class_words is empty. Say in plain words what it is, such as 'dog'.")
    if given.get("name"):
        clean_name(str(asked["name"]))
    if given.get("photo_folder"):
        host.input_folder(given["photo_folder"])


def _output(
    cls: type[io.ComfyNode], bank: Any, learned: Any, reporter: Any, sheet: Tensor
) -> io.NodeOutput:
    from ...cidm_core.catalogue import listing
    from ...cidm_core.pictures.losses import loss_picture
    from ...cidm_core.storage.stock_lora import lora_tensors
    from ...cidm_core.training.progress import duration

    concept, facts = learned.concept, learned.concept.facts
    picture = loss_picture(learned.rows, concept.phrase)
    reporter.leave(picture)
    curve = to_tensor(picture)
    loss, seconds = facts.get("final_loss"), float(facts.get("seconds") or 0)
    earlier = facts.get("earlier_steps")
    text = "\n".join([
        f"Learned '{concept.phrase}' as '{concept.name}' in {duration(seconds)}"
        + (f", after {earlier} earlier steps" if earlier else "")
        + (f", loss {loss:.4f}." if isinstance(loss, float) else "."),
        *learned.notes,
        listing(bank),
    ])  # fmt: skip
    lora = {key: tensor.clone() for key, tensor in lora_tensors(concept).items()}
    steps = int(facts.get("steps") or len(learned.losses))
    outputs = bank, {"loss": learned.losses}, curve, lora, steps, sheet
    return io.NodeOutput(*outputs, ui=shown(cls, text=text, image=curve))


def _sockets() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="A Stable Diffusion 1.x or SDXL model. It is copied."),
        io.Clip.Input("clip", tooltip="The model's own CLIP, for SDXL with both text encoders."),
        io.Vae.Input("vae", tooltip="A VAE for the model; a tiny one works too."),
        BankSocket.Input("bank", tooltip="Where the concept goes, after the earlier ones."),
        images_input(),
        MethodSocket.Input(
            "method",
            optional=True,
            tooltip="From a Method node: how it is learned, with all settings. Without one: CIDM.",
        ),
    ]


def _concept() -> list[io.Input]:
    return [
        *concept_inputs(),
        text_input("name", "Name in the bank. Empty: made from the words."),
        io.Combo.Input(
            "preset",
            options=list(LABELS),
            default="Balanced",
            tooltip=f"{PRESET_HELP}. Settings you change yourself go before it.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        BankSocket.Output("bank", tooltip="The bank, with the concept in it."),
        io.Custom("LOSS_MAP").Output(
            "loss_map", tooltip="The loss of every step, for Plot Loss Graph."
        ),
        io.Image.Output("loss_picture", tooltip="How the loss and its terms fell."),
        io.Custom("LORA_MODEL").Output(
            "lora",
            tooltip="The weights as an ordinary LoRA, without the words, for Load LoRA Model or "
            "Save LoRA Weights.",
        ),
        io.Int.Output("steps", tooltip="Steps learned."),
        masks_output(),
    ]
