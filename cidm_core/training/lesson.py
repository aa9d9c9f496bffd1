"""What is to be learned, and how: subjects with their photos, the method and its settings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch

from ..config import TrainConfig
from ..devices import DTYPES
from ..errors import ConceptError, HostError, TrainingError
from ..families import Family
from ..methods import METHODS, adopted, config_for, method_called
from ..methods.base import MakeMethod
from ..methods.shared import CompositesConfig, PriorConfig
from ..words import parse_words
from .captions import SHORT, plain_caption
from .data import Photo, TrainingSubject

logger = logging.getLogger(__name__)

_PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}


class Model(Protocol):
    """What of a base model decides the name of a run; a `Base` has it."""

    @property
    def family(self) -> Family: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def scheduler_config(self) -> Mapping[str, Any]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Lesson:
    """What is to be learned, and how.

    Attributes:
        subjects: With their photos and prior pictures; most methods teach one at a time.
        method: A name in `METHODS`.
        config: Its settings, from `settled`.
        make: Builds the method instead of the row in `METHODS`.
        contrast: What decides how words are contrasted, apart from the settings; None: they cannot.
    """

    subjects: tuple[TrainingSubject, ...]
    method: str
    config: TrainConfig
    make: MakeMethod | None = None
    contrast: Mapping[str, object] | None = None

    @classmethod
    def of(
        cls,
        subjects: Sequence[TrainingSubject],
        method: str,
        config: TrainConfig,
        make: MakeMethod | None = None,
        contrast: Mapping[str, object] | None = None,
    ) -> Lesson:
        """With words where the method puts them: before the class words or in their place."""
        modifier = method_called(method).modifier
        asked = getattr(method_called(method), "on_request", False)
        flags = {"modifier": modifier, "on_request": asked}
        held = tuple(replace(subject, **flags) for subject in subjects)
        return cls(held, method, config, make, contrast)

    def photo_sets(self) -> tuple[list[Photo], list[Photo]]:
        """The photos with bound captions, and the prior pictures, whose captions stay as they are.

        Raises:
            PhotoError: If a subject has no photos, or none of its captions names it.
        """
        photos: list[Photo] = []
        prior: list[Photo] = []
        for number, subject in enumerate(self.subjects):
            photos += [replace(photo, subject=number) for photo in subject.bound()]
            prior += [_prior_of(subject, photo, number) for photo in subject.prior]
        return photos, prior

    def templated(self, photos: Sequence[Photo], templates: str | None = None) -> list[Photo]:
        """The photos as they are drawn: with plain templates their captions vary no more.

        Args:
            photos: With bound captions.
            templates: A choice of `TrainConfig.templates`; None: the one in the settings.
        """
        templates = templates or self.config.templates
        if templates == "varied":
            return list(photos)
        if templates == SHORT:
            return [replace(p, kind=p.kind if p.kind in ("", "style") else SHORT) for p in photos]
        bare = {text for each in self.subjects for text in (each.bare_caption, each.class_words)}
        return [
            replace(photo, caption=plain_caption(photo.caption, photo.kind, bare), kind="")
            for photo in photos
        ]

    def inputs(
        self, base: Model, photos: Sequence[Photo], prior: Sequence[Photo]
    ) -> dict[str, object]:
        """What decides the result, beside the settings and the bank's earlier concepts."""
        schedule = base.scheduler_config
        prediction = schedule.get("prediction_type", "epsilon")
        found: dict[str, object] = {
            "method": self.method,
            "subjects": [asdict(each.subject) for each in self.subjects],
            "photos": [(_digest(each), each.caption, each.kind) for each in photos],
            "prior": [(_digest(each), each.caption, each.kind) for each in prior],
            "base": (base.fingerprint, str(base.dtype), prediction),
            "size_px": size_px(self.config, base.family),
        }
        if levels := schedule.get("trained_betas"):  # can be said too, as zero-terminal SNR is
            found["trained_betas"] = levels
        if self.contrasts:
            found["contrast"] = self.contrast
        return found if self.make is None else found | {"make": repr(self.make)}

    @property
    def contrasts(self) -> bool:
        """Whether words learn by contrast."""
        return isinstance(self.config, CompositesConfig) and self.config.contrasts

    def check(self) -> None:
        """Whether the method can teach this.

        Raises:
            TrainingError: If it cannot.
        """
        method = method_called(self.method)
        if len(self.subjects) > 1 and not method.several:
            raise TrainingError(
                f"The method {self.method} teaches one subject at a time, and {len(self.subjects)} "
                "were given. Teach them one after another, or by a method that teaches several at "
                f"once ({', '.join(name for name, row in METHODS.items() if row.several)})."
            )
        prior = [photo for subject in self.subjects for photo in subject.prior]
        if method.prior == "unused" and prior:
            raise TrainingError(
                f"The method {self.method} does not learn from prior pictures. Leave them out."
            )
        if method.prior == "needed" and not all(subject.prior for subject in self.subjects):
            raise TrainingError(
                f"The method {self.method} needs prior pictures: other things of the class, such "
                "as other dogs. Give a folder of them."
            )
        wanted = isinstance(self.config, PriorConfig) and self.config.prior_images > 0
        if self.config.buckets and (prior or wanted):
            raise TrainingError(
                "Prior pictures are learned in squares beside the photos. Leave `buckets` off, or "
                "learn without any (prior_images 0)."
            )
        if self.config.buckets and self.config.augmentation == "resize":
            raise TrainingError(
                "Photos that are resized on purpose are learned in squares. Leave `buckets` off, "
                "or set `augmentation` to crop or none."
            )
        bare = [each.class_words.strip().lower() for each in self.subjects if not each.words]
        if twice := next((name for name in bare if bare.count(name) > 1), None):
            raise TrainingError(
                f"Two subjects without words are both called by {twice!r}. Put their photos "
                "together, or give one of them a word."
            )
        self._check_contrast()
        for number, subject in enumerate(self.subjects, start=1):
            which = f" of subject {number}" if len(self.subjects) > 1 else ""
            self._check_words(subject, which)

    def _check_contrast(self) -> None:
        if self.contrasts and not any(each.words for each in self.subjects):
            raise TrainingError(
                "A contrast tells words apart, and no subject has any. Give words, or leave the "
                "contrast out."
            )
        if self.contrasts and self.contrast is None:
            raise TrainingError(
                "To learn words by contrast takes the CLIP model that the first text encoder comes "
                "from: OpenAI's ViT-L/14 for SD 1.5 and SDXL, mini-clip for mini-sdxl. Give it "
                "(--clip; in ComfyUI by Word Contrast), or leave the contrast out."
            )
        if self.contrast is not None and not self.contrasts:
            logger.warning("CLIP is given, but these settings ask for no contrast of words.")

    def _check_words(self, subject: TrainingSubject, which: str) -> None:
        wanted = method_called(self.method).words
        if not subject.class_words.strip():
            raise TrainingError(
                f"The class words{which} are empty. Say in plain words what it is, such as 'dog'."
            )
        if wanted == "needed" and which and not subject.words:
            raise ConceptError(
                f"There are no words{which}, {subject.class_words!r}. Give it some of its own, "
                "such as '<dog1> <dog2>'."
            )
        if wanted == "needed":
            parse_words(subject.words)
        elif wanted == "unused" and subject.words:
            raise TrainingError(
                f"The method {self.method} teaches no words: {subject.class_words!r} itself "
                "will call the concept. Leave the words out."
            )


def _prior_of(subject: TrainingSubject, photo: Photo, number: int) -> Photo:
    """A prior picture of a subject; one without a caption gets a template like a photo."""
    if photo.caption:
        return replace(photo, subject=number)
    return replace(photo, caption=subject.class_words, kind="object", subject=number)


def size_px(config: TrainConfig, family: Family) -> int:
    """Side of the training square.

    Raises:
        TrainingError: If it is no whole number of latent cells.
        FamilyError: If it is too large for the model.
    """
    size, cell = config.resolution_px or family.resolution_px, family.latent_px
    if size % cell:
        raise TrainingError(
            f"resolution_px is {size}; {family.name} needs a multiple of its latent cell of "
            f"{cell} px. Use {max(1, size // cell) * cell}."
        )
    family.check_size(size, size)
    return size


def settled(config: TrainConfig | None, method: str, base: Model) -> TrainConfig:
    """The settings as they will be used on this model, in no better precision than its weights'.

    Raises:
        CidmError: If the method is unknown or the settings are another method's.
        HostError: If the model cannot learn in the precision asked for.
    """
    config = adopted(method, config or config_for(method, base.family))
    held = _PRECISIONS.get(base.dtype, "fp32")
    precision = held if config.precision == "fp32" else config.precision
    if "fp16" in (precision, held) and base.device.type == "cpu":
        raise HostError(
            "Learning in fp16 needs a GPU, and the model is on the CPU. Use precision bf16 or "
            "fp32, and load the model in one of them."
        )
    return replace(config, precision=precision)


def _digest(photo: Photo) -> str:
    """Content of a photo and its mask, whatever file they came from."""
    held = photo.loaded()
    digest = hashlib.sha256(repr(held.image.size).encode() + held.image.tobytes())
    if held.mask is not None:
        digest.update(held.mask.tobytes())
    return digest.hexdigest()
