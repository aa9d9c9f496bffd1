"""`cidm evaluate`: how well a bank's concepts are drawn, and what the rest of the bank changes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SampleConfig
from ..errors import BankError, CidmError
from ..paths import user_path
from .console import Console
from .flags import add_model, add_output, add_settings, chosen_base, given

if TYPE_CHECKING:
    from PIL import Image

    from ..bank import Bank
    from ..evaluation.evaluate import Keep, Prompts
    from ..training.data import Photo

_EPILOG = """\
examples:
  cidm evaluate --model sd15.safetensors --bank bank --clip openai/clip-vit-base-patch32 \\
      --photos dog=photos/dog --photos ink=photos/ink --prompts object=pets.txt \\
      --prompts style=styles.txt --num-images 50 --json > scores.json
  cidm evaluate --bank bank --alone                        is anything forgotten?
  cidm evaluate --bank bank --alone --weights released     and by the rule of the public code?
  cidm evaluate --bank bank --clip mini-clip --class-drift 200     do other dogs become this one?
  cidm evaluate --bank bank --clip mini-clip --photos photos --over-fitting 100 --plot fit.png

IA is the mean CLIP cosine between drawn pictures and photos, TA the CLIPScore 2.5 max(cos, 0) of
picture and prompt with the concept words written back as class words; both times 100, as in the
CIDM paper. The whole bank takes part in every picture.

With --alone every concept is drawn a second time from the same seeds, without the rest of the bank.
"pixel difference" is the mean absolute difference of the two, from 0 to 1: 0 means that nothing of
the concept is lost by living in the bank.

With --class-drift, "class drift" is how far "photo of a dog" is carried off by what was learned of
a dog: KID's unbiased kernel distance, times 1000, of N pictures to those that the model draws alone
from the same seeds; below 0 by chance. In the bank it is 0 as long as no concept takes part where
it is not called; "merged" has the concept's weights in the model, as other programs load them. KID
itself needs the weights of Inception v3: numbers of --clip compare with each other only.

With --over-fitting, each concept by itself, with 95 % intervals over pictures. "W2" is the
2-Wasserstein distance of Gaussians fitted to the features of N pictures of the concept and of its
class words by the model alone: how far the concept is from any dog, in look and in variety. Few
pictures make it too large; "by chance" is what two halves of the model's own pictures have. "LFD"
is the latent Fisher divergence, how much the concept changes the model's score where nobody asked
for it: at prompts of other things (elsewhere) and at the plain class words (at class); 0 as long as
the concept takes no part there, so "merged" has its weights in the model.
"""


def add_evaluate(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "evaluate",
        usage="cidm evaluate --bank DIR (--clip PATH --photos [NAME=]DIR | --alone) [options]",
        help="measure likeness and obedience of the concepts, and check for forgetting",
        description="Draw pictures of the concepts and compare them with photos and prompts, or "
        "with what each concept draws alone.",
        epilog=_EPILOG,
    )
    what = parser.add_argument_group("what")
    what.add_argument("--bank", required=True, metavar="DIR", help="Folder of concepts.")
    what.add_argument(
        "--clip",
        metavar="PATH",
        help="CLIP model: a folder, a cached name, or mini-clip for pictures of mini-sd and "
        "mini-sdxl. With --alone it may be left out, and pixels are compared.",
    )
    what.add_argument(
        "--photos",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="Reference photos of a concept; repeatable. Without NAME: a folder with one folder "
        "per concept.",
    )
    what.add_argument(
        "--prompts",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="Prompts, one per line, with <TOK> or {} where the concept goes; repeatable. NAME is "
        "a concept or a kind. Default: four simple ones.",
    )
    what.add_argument(
        "--alone",
        action="store_true",
        help="Draw every concept without the rest of the bank as well, and compare.",
    )
    what.add_argument(
        "--class-drift",
        type=int,
        default=0,
        metavar="N",
        help="Draw N pictures of each concept's class words by the model alone, in the bank, and "
        "with the concept's weights merged, and compare; 200 tell something.",
    )
    what.add_argument(
        "--over-fitting",
        type=int,
        default=0,
        metavar="N",
        help="Draw N pictures of each concept, of its class words and of other prompts by the "
        "model alone, and tell how far the concept is from its class (W2) and how much of the "
        "model it changes elsewhere (LFD); 100 tell something.",
    )
    what.add_argument(
        "--plot",
        metavar="FILE",
        help="With --over-fitting and --photos: a picture of likeness against over-fitting.",
    )
    what.add_argument("--keep", metavar="DIR", help="Save all pictures there.")
    add_model(parser)
    add_settings(parser, SampleConfig, by_name={"strength": "strengths"})
    add_output(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Draw and score.

    Raises:
        CidmError: Anything the user can mend.
    """
    asked = SampleConfig.from_dict(given(args))  # a wrong number is told before the model is loaded
    from ..bank import Bank
    from ..diffusers_host.clip import load_clip
    from ..evaluation.evaluate import evaluate
    from ..pictures.files import picture_path, save_picture
    from ..sampling.strengths import at_strengths
    from .progress_bar import ProgressBar

    bank = Bank(args.bank)
    if not len(bank):
        raise BankError(f"Bank '{bank.path}' holds no concept. Train one with `cidm train` first.")
    at_strengths(bank, asked.strengths)  # likewise
    photos, prompts = _read_photos(args.photos, bank), _read_prompts(args.prompts)
    _check_measures(args, photos)
    plot = picture_path(args.plot) if args.plot else None
    if not args.alone and not args.clip:
        raise CidmError("Give a CLIP model with --clip, or compare with each concept --alone.")
    clip = load_clip(args.clip, args.device) if args.clip else None
    base = chosen_base(args)
    config = SampleConfig.for_family(base.family.sampling, **given(args))
    with ProgressBar(enabled=console.shows_progress) as bar:
        report = evaluate(
            base,
            bank,
            clip,
            photos,
            prompts,
            config,
            on_picture=lambda done, total: bar.update(done, total, verb="Drawing"),
            keep=_keeper(args.keep),
            alone=args.alone,
            class_drift=args.class_drift,
            over_fitting=args.over_fitting,
        )
    console.say(report.table())
    if plot:
        save_picture(report.picture(), plot)
    facts = {"model": base.name, "clip": args.clip, "class_drift_pictures": args.class_drift}
    return {**report.to_dict(), **facts, "settings": config.to_dict()}


def _check_measures(args: argparse.Namespace, photos: Mapping[str, Sequence[Photo]]) -> None:
    """Refuse what cannot be measured, before the model is loaded."""
    asked = {"--class-drift": args.class_drift, "--over-fitting": args.over_fitting}
    for flag in (flag for flag, count in asked.items() if count and not args.clip):
        raise CidmError(f"{flag} is told by a CLIP model. Give one with --clip.")
    if args.plot and not (args.over_fitting and photos):
        raise CidmError(
            "--plot shows likeness against over-fitting. Give --over-fitting N and --photos."
        )


def _read_photos(given: Sequence[str], bank: Bank) -> dict[str, list[Photo]]:
    """Reference photos by concept name."""
    from ..training.data import Photo

    folders: dict[str, Path] = {}
    for text in given:
        name, _, folder = text.rpartition("=")
        if name:
            folders[name] = user_path(folder)
            continue
        inside = {name: user_path(folder) / name for name in bank}
        found = {name: path for name, path in inside.items() if path.is_dir()}
        if not found:
            raise CidmError(
                f"'{folder}' has no folder named as a concept ({', '.join(bank)}). "
                "Name the concept: --photos NAME=DIR."
            )
        folders |= found
    return {name: Photo.from_folder(path) for name, path in folders.items()}


def _read_prompts(given: Sequence[str]) -> Prompts | None:
    """Prompts for all concepts, or by concept name or kind; none given: None."""
    from ..evaluation.prompts import read_prompts

    pairs = [text.rpartition("=") for text in given]
    if not pairs:
        return None
    if len({bool(name) for name, _, _ in pairs}) > 1:
        raise CidmError("Give every --prompts file a name (NAME=FILE), or none of them.")
    if pairs[0][0]:
        return {name: read_prompts(user_path(file)) for name, _, file in pairs}
    return [prompt for _, _, file in pairs for prompt in read_prompts(user_path(file))]


def _keeper(folder: str | None) -> Keep | None:
    """Saves pictures as FOLDER/concept/0001_prompt.png."""
    if folder is None:
        return None
    from ..pictures.files import save_picture
    from ..storage.atomic import make_folder
    from ..storage.names import file_stem

    root = make_folder(user_path(folder))
    counts: dict[str, int] = {}

    def keep(name: str, prompt: str, pictures: Sequence[Image.Image]) -> None:
        target = make_folder(root / file_stem(name))
        for picture in pictures:
            counts[name] = counts.get(name, 0) + 1
            words = re.sub(r"[^\w]+", "_", prompt).strip("_")[:60]
            path = target / f"{counts[name]:04}_{words}.png"
            save_picture(picture, path, {"prompt": prompt})

    return keep
