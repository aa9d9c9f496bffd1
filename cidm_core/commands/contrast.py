"""The flags of `cidm train` about words that learn by contrast: CLIP, common things, composites."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CidmError
from .console import Console
from .flags import own_device
from .idle import told_of_idle
from .progress_bar import ProgressBar

if TYPE_CHECKING:
    from ..bank import Bank
    from ..concept import Concept
    from ..diffusers_host.base import Base
    from ..diffusers_host.composites import Contrast
    from ..diffusers_host.contrast import ContrastClip
    from ..families import Family
    from ..methods.base import MethodClass
    from ..methods.shared import CompositesConfig
    from ..training.composites.cutouts import CutOut
    from ..training.composites.folder import Composite
    from ..training.data import TrainingSubject

logger = logging.getLogger(__name__)

CONTRAST_FLAGS = ("--clip", "--common", "--composites", "--show-composites")
_COUNTS = ("global_pairs", "region_pairs", "meeting_pairs")
_CLIP_OF: Mapping[str, str] = {"MINI_XL": "mini-clip"}  # families that bring their own
_MINI = ("MINI", "MINI_XL")
CONTRAST_EPILOG = """
words that learn by contrast (--method clif; with others --contrast):
  cidm train --method clif --model sdxl.safetensors --bank bank --subjects dogs.json \\
      --clip openai/clip-vit-large-patch14 --common cutouts --show-composites composites.png
They are told apart on composites: cut-outs of the photos, by their masks, beside common things and
beside each other, with captions that say what is left and right. Parts are cut out by masks with a
name, dog1_mask_left_ear.png beside dog1.jpg; without any the photos are split by colour. Composites
are kept in BANK/.composites. A folder of your own (--composites) has metadata.jsonl with lines
  {"file_name": "1.png", "text": "a photo of <dog1> <dog2> on the left and chef on the right"}
What became of the words is in BANK/.runs/NAME/contrast.png.
"""


def may_contrast(method: MethodClass) -> bool:
    """Whether a method's words can learn by contrast."""
    from ..methods.shared import CompositesConfig

    return issubclass(method.Config, CompositesConfig)


def add_contrast(group: Any, method: MethodClass) -> None:
    """--clip, --common, --composites and --show-composites, for methods that can use them."""
    if not may_contrast(method):
        return
    group.add_argument(
        "--clip",
        metavar="PATH",
        help="For words that learn by contrast: the CLIP model that the first text encoder comes "
        "from, a folder or cached name: openai/clip-vit-large-patch14 for SD 1.x and XL, mini-clip "
        "for mini-sdxl, which is its default.",
    )
    group.add_argument(
        "--common",
        metavar="DIR",
        help="Folder of common things to stand beside the subjects: chef.png with transparency, or "
        "chef.jpg with chef_mask.png; other names are other things. By default the model draws "
        "some and CLIPSeg (--segment) cuts them out, kept in BANK/.common; mini-sdxl has its own.",
    )
    group.add_argument(
        "--composites",
        metavar="DIR",
        help="Folder of composites made already, with a metadata.jsonl, instead of new ones.",
    )
    group.add_argument(
        "--show-composites",
        metavar="FILE",
        help="Picture of some composites of each kind, written before learning starts.",
    )


@dataclass(frozen=True)
class Contrasted:
    """What words are contrasted by, as far as it is there before the model.

    Attributes:
        clip: What sees the composites.
        made: Composites of a folder of the user's; otherwise they are made.
        common: Common things; None if the model is to draw them.
        subjects: What is learned.
        segment: CLIPSeg that cuts out what the model draws.
        shown: Hears of the composites before anything is learned.
    """

    clip: ContrastClip
    made: Sequence[Composite]
    common: Sequence[CutOut] | None
    subjects: Sequence[TrainingSubject]
    segment: str | None
    shown: Callable[[Sequence[Composite]], None]

    def on(self, base: Base, bank: Bank, bar: ProgressBar) -> Contrast:
        """With what only the model can give."""
        from ..diffusers_host.composites import Contrast

        common = self._drawn(base, bank, bar) if self.common is None else self.common
        return Contrast(self.clip, common, self.made, self.shown)

    def _drawn(self, base: Base, bank: Bank, bar: ProgressBar) -> Sequence[CutOut]:
        from ..diffusers_host.common_things import COMMON, NAMES, draw_common_things
        from ..diffusers_host.processes import LaunchedProcesses
        from ..diffusers_host.segmentation import load_segmenter
        from ..training.composites.common import unlike

        processes = LaunchedProcesses(base.device)
        if processes.rank:
            processes.wait()  # the main one draws; then they are all there
        segmenter = load_segmenter(self.segment, base.device) if self.segment else None
        found = draw_common_things(
            base,
            bank.path / COMMON,
            segmenter,
            unlike(NAMES, self.subjects),
            on_progress=lambda e: bar.update(e.step, e.steps, verb="Drawing common things"),
        )
        if not processes.rank:
            processes.wait()
        return found


def contrasted(
    args: argparse.Namespace,
    settings: Mapping[str, object],
    subjects: Sequence[TrainingSubject],
    console: Console,
) -> Contrasted | None:
    """What words are to be contrasted by; None if they do not learn so.

    What can be wrong with it is found here, before the model is loaded.

    Raises:
        CidmError: If something is missing, or given and of no use.
    """
    from ..diffusers_host.contrast import load_contrast_clip
    from ..methods import method_called
    from ..training.lesson import Lesson

    if not may_contrast(method_called(args.method)):
        return None
    config, family = _config(args, settings)
    if idle := told_of_idle(config, settings, len(subjects)):
        logger.warning("%s", idle)
    if not config.contrasts or family is None:
        _refuse_idle(args)
        return None
    path = args.clip or _CLIP_OF.get(family.name)
    lesson = Lesson.of(subjects, args.method, config, contrast={} if path else None)
    lesson.check()
    shown = _shown(args, console)
    made = _made(args, settings, lesson.subjects)
    common = () if made else _common(args, config, family, lesson.subjects)
    clip = load_contrast_clip(str(path), own_device(args.device))
    clip.check(family, Path(args.model).name)
    return Contrasted(clip, made, common, lesson.subjects, args.segment, shown)


def _config(
    args: argparse.Namespace, settings: Mapping[str, object]
) -> tuple[CompositesConfig, Family | None]:
    """The settings as on the model's family, which is looked up where it matters."""
    from ..diffusers_host.unet_facts import unet_facts
    from ..families import FAMILIES
    from ..methods import config_for

    found: Any = {key: config_for(args.method, row, **settings) for key, row in FAMILIES.items()}
    if not any(config.contrasts for config in found.values()):
        return next(iter(found.values())), None
    family = unet_facts(args.model).family
    return found[family.name], family


def _refuse_idle(args: argparse.Namespace) -> None:
    """Make sure that nothing is given for a contrast that is not asked for."""
    given = [f for f in CONTRAST_FLAGS if getattr(args, f.strip("-").replace("-", "_"))]
    if given:
        how = "Let stages hold contrast" if args.method == "clif" else "Add --contrast"
        raise CidmError(
            f"{given[0]} is for words that learn by contrast, and by these settings they do not. "
            f"{how}, or leave it out."
        )


def _made(
    args: argparse.Namespace, settings: Mapping[str, object], subjects: Sequence[TrainingSubject]
) -> Sequence[Composite]:
    """Composites of a folder, which nothing else given may be about."""
    from ..training.composites.reading import read_composites

    if not args.composites:
        return ()
    of_new = ["common"] if args.common else [name for name in _COUNTS if name in settings]
    if of_new:
        raise CidmError(
            f"--{of_new[0].replace('_', '-')} is about composites that are made, and --composites "
            "are there already. Leave one of them out."
        )
    return read_composites(args.composites, subjects)


def _common(
    args: argparse.Namespace,
    config: CompositesConfig,
    family: Family,
    subjects: Sequence[TrainingSubject],
) -> Sequence[CutOut] | None:
    """Common things; None if the model is to draw them."""
    from ..mini.common_things import drawn_things
    from ..training.composites.common import common_things, unlike
    from ..training.composites.folder import beside, check

    options = config.composite_options(family.resolution_px)
    check(subjects, options)
    if not options.beside_common:
        if args.common:
            raise CidmError(
                "--common is for composites beside common things, and with --global-pairs 0 and "
                "--region-pairs 0 there are none. Raise one of them, or leave it out."
            )
        return ()
    if args.common:
        return beside(common_things(args.common), subjects, options)
    if family.name in _MINI:
        drawn = drawn_things()
        known = unlike([thing.label for thing in drawn], subjects)
        return [thing for thing in drawn if thing.label in known]
    if not args.segment:
        raise CidmError(
            "Composites need common things that stand beside the subjects. Give a folder of "
            "cut-outs such as chef.png (--common), or CLIPSeg (--segment) to cut out what the "
            "model draws of them, or ask for none (--global-pairs 0 --region-pairs 0)."
        )
    return None


def _shown(args: argparse.Namespace, console: Console) -> Callable[[Sequence[Composite]], None]:
    """What tells of the composites, and shows them where that was asked for."""
    from ..pictures.files import picture_path, save_picture

    sheet = picture_path(args.show_composites) if args.show_composites else None

    def show(found: Sequence[Composite]) -> None:
        from ..training.composites.preview import preview

        console.note(f"{len(found)} composites are in {found[0].path.parent}.")
        if sheet is not None:
            save_picture(preview(found), sheet)
            console.note(f"Some of them are shown in {sheet}.")

    return show


def contrast_told(concept: Concept, bank: Bank) -> str:
    """Figures and picture of what the contrast did to a concept's words; "" without one."""
    from ..diffusers_host.job import folder_of

    facts: Any = concept.facts.get("contrast")
    if not isinstance(facts, Mapping):
        return ""
    before, after = facts["before"], facts["after"]
    shares = [
        f"{name} in {after[key]:.0%} (before {before[key]:.0%})"
        for key, name in (("retrieval", "their caption"), ("right_name", "the right name"))
        if after[key] is not None
    ]
    found = f"Of composites that were held out CLIP finds {' and '.join(shares)}"
    if not shares:
        found = "There were too few composites to hold any out, every tenth of a kind"
    alike = f"; names are alike by {after['cosine']:.2f} (before {before['cosine']:.2f})"
    return (
        f"{found}{'' if after['cosine'] is None else alike}: "
        f"{folder_of(bank, concept.name) / 'contrast.png'}"
    )
