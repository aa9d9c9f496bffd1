"""`cidm generate`: pictures of a prompt, with the bank's concepts in drawn regions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SampleConfig
from ..errors import CidmError
from ..paths import user_path
from .bank_action import open_bank
from .console import Console
from .flags import add_model, add_output, add_settings, chosen_base, given

if TYPE_CHECKING:
    from PIL import Image

    from ..bank import Bank
    from ..regions import Region
    from ..sampling.plan import Plan

_EPILOG = """\
examples:
  cidm generate --bank bank --prompt "a photo of a <dog1> <dog2> on grass" --seed 7 --out dog.png
  cidm generate --bank bank --prompt "a <dog1> <dog2> and a <cat1> <cat2> in a bedroom" \\
      --region "0.05,0.3,0.45,0.95:a <dog1> <dog2> on the bed" \\
      --region "0.55,0.3,0.95,0.95:a <cat1> <cat2>" --out both.png --show-layout layout.png
  cidm generate --bank bank --prompt "a <dog1> <dog2> and a <cat1> <cat2>" \\
      --strengths dog=0.8 --strengths cat=1.2          less of one concept, more of the other
  cidm generate --bank bank --prompt "a house in <ink1> <ink2> style" --image photo.jpg \\
      --denoise 0.6 --out painted.png                                         style transfer
  cidm generate --bank bank --prompt "a <dog1> <dog2> on a sofa" --image sofa.jpg \\
      --region "0.5,0.4,0.9,0.9:a <dog1> <dog2>" --mask regions --out edited.png     editing
  cidm generate --bank bank --prompt "a <cat1> cat" --scheduler ddim --eta 1 --steps 200 \\
      --guidance-scale 6                                as Custom Diffusion's authors draw

Boxes are x0,y0,x1,y1 as shares of the picture, from its upper left corner. A regions file is a
JSON list of {"prompt": ..., "box": [x0, y0, x1, y1]} or {"prompt": ..., "mask": "file.png"}, each
with an optional "negative". Several pictures are numbered: both-1.png, both-2.png ... PNG files
carry inside, under the key "cidm", the prompt, seed and settings that draw this picture alone.
"""


def add_generate(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "generate",
        usage="cidm generate --prompt TEXT [--bank DIR] [--region ...] [--out FILE] [options]",
        help="draw pictures with the concepts of a bank",
        description="Draw pictures. Concept words in the prompt call the concepts of the bank.",
        epilog=_EPILOG,
    )
    what = parser.add_argument_group("picture")
    what.add_argument(
        "--bank", metavar="DIR", help="Folder of concepts. Without it the model draws by itself."
    )
    what.add_argument("--prompt", required=True, help="What the picture shows.")
    what.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1:PROMPT",
        help="What a box of the picture shows; it may be given several times.",
    )
    what.add_argument(
        "--regions-json", metavar="FILE", help="File of regions, with boxes or masks."
    )
    what.add_argument("--image", metavar="FILE", help="Picture to start from; see --denoise.")
    what.add_argument(
        "--mask",
        metavar="FILE",
        help='Mask that is white where --image is redrawn, or "regions" to redraw the regions.',
    )
    what.add_argument(
        "--out",
        default="picture.png",
        metavar="FILE",
        help="File the picture is written to [picture.png].",
    )
    what.add_argument("--show-weights", metavar="FILE", help="Draw which concept got which weight.")
    what.add_argument("--show-layout", metavar="FILE", help="Draw the regions over the picture.")
    add_model(parser)
    add_settings(parser, SampleConfig, by_name={"strength": "strengths"})
    add_output(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Draw, write the files, describe them.

    Raises:
        CidmError: Anything the user can mend.
    """
    from ..importers.region_list import read_region_file
    from ..pictures.files import save_picture
    from ..pictures.layout import layout_picture
    from ..regions import parse_region

    asked = SampleConfig.from_dict(given(args))  # a wrong number is told before the model is loaded
    regions = [parse_region(text) for text in args.region]
    if args.regions_json:
        regions += read_region_file(user_path(args.regions_json))
    image, mask = _read_start(args)
    files, weights_file, layout_file = _outputs(args, asked.num_images)

    bank = _bank(args, asked.strengths)

    from ..diffusers_host.pipeline import draw_plan, make_plan
    from ..diffusers_host.start import settle
    from .progress_bar import ProgressBar

    base = chosen_base(args)
    if bank is not None:  # told also where the prompt names none of it
        bank.check(base, allow_other_base=True)
    config = SampleConfig.for_family(base.family.sampling, **given(args))
    drawing = settle(base, config, regions, image, mask)
    if drawing.start and None in (config.width_px, config.height_px):
        width, height = drawing.start.picture.size
        console.note(f"picture  {width} x {height} px, in the shape of --image")
    config, regions = drawing.config, drawing.regions
    plan = make_plan(base, {} if bank is None else bank, args.prompt, regions, config)
    for line in plan.describe().splitlines():
        (console.say if weights_file else console.note)(f"weights  {line}")
    if weights_file:
        save_picture(_weights_picture(plan), weights_file)
    with ProgressBar(enabled=console.shows_progress) as bar:
        pictures = draw_plan(
            base,
            plan,
            config,
            drawing.start,
            on_step=lambda step, steps, _: bar.update(step, steps, verb="Drawing"),
        )
    facts = _facts(args, regions, plan, base.name)
    for i, (picture, path) in enumerate(zip(pictures, files, strict=True)):
        alone = config.alone(i)
        save_picture(picture, path, {**facts, "seed": alone.seed, "settings": alone.to_dict()})
        console.say(str(path))
    if layout_file:
        shown = layout_picture(regions, *pictures[0].size, pictures[0])
        save_picture(shown, layout_file)
    return {**facts, "settings": config.to_dict(), "files": files, "weights": _weights(plan)}


def _bank(args: argparse.Namespace, strengths: str) -> Bank | None:
    """The bank, if one is given; what is wrong with the strengths is told before a model is loaded.

    Raises:
        CidmError: If strengths are malformed, or for concepts that the bank does not have.
    """
    from ..sampling.strengths import at_strengths

    if args.bank:
        bank = open_bank(args)
        at_strengths(bank, strengths)
        return bank
    if strengths:
        raise CidmError("--strengths names concepts of a bank. Give the bank with --bank.")
    return None


def _outputs(args: argparse.Namespace, count: int) -> tuple[list[Path], Path | None, Path | None]:
    """Files for the pictures, the weights and the layout.

    Raises:
        CidmError: If one of them is read here, or two are the same.
    """
    from ..pictures.files import numbered, picture_path

    files = numbered(picture_path(args.out), count)
    weights, layout = (
        picture_path(name) if name else None for name in (args.show_weights, args.show_layout)
    )
    taken = [(flag, user_path(name)) for flag in ("image", "mask") if (name := vars(args)[flag])]
    for path in [*files, *filter(None, (weights, layout))]:
        for flag, other in taken:
            both_exist = path.exists() and other.exists()
            if path.samefile(other) if both_exist else path.resolve() == other.resolve():
                raise CidmError(
                    f"'{path}' would be written over '{other}' of --{flag}. Choose another file."
                )
        taken.append(("out", path))
    return files, weights, layout


def _read_start(args: argparse.Namespace) -> tuple[Image.Image | None, Any]:
    """The picture to start from and the mask."""
    if not args.image:
        if args.mask:
            raise CidmError("--mask says where to redraw --image. Give that picture too.")
        return None, None
    from ..images import read_image
    from ..masks import HOLES, read_mask

    image = read_image(args.image)
    if not args.mask or args.mask == "regions":
        return image, args.mask
    return image, read_mask(args.mask, HOLES)


def _weights_picture(plan: Plan) -> Image.Image:
    """One weights picture per prompt of the plan, below one another."""
    from ..pictures.sheets import stack
    from ..pictures.weights import weights_picture
    from ..sampling.strengths import acting_weights, name_with_strength

    names = [name_with_strength(concept) for concept in plan.concepts]
    drawn = [
        weights_picture(
            names, plan.layers, acting_weights(plan.concepts, slot.weights).tolist(), slot.prompt
        )
        for slot in plan.slots
        if slot.prompt
    ]
    return stack(drawn)


def _weights(plan: Plan) -> list[dict[str, object]]:
    """Mean weight of each concept over the layers, as it acts, per prompt."""
    from ..sampling.strengths import acting_weights

    names = [concept.name for concept in plan.concepts]
    shown = [slot for slot in plan.slots if slot.prompt]
    means = [acting_weights(plan.concepts, slot.weights).mean(0).tolist() for slot in shown]
    return [
        {"prompt": slot.prompt, "weights": dict(zip(names, each, strict=True))}
        for slot, each in zip(shown, means, strict=True)
    ]


def _facts(
    args: argparse.Namespace, regions: Sequence[Region], plan: Plan, model: str
) -> dict[str, object]:
    from .. import __version__

    rows = [
        {"prompt": r.prompt, "box": r.box, "mask": r.mask is not None, "negative": r.negative}
        for r in regions
    ]
    return {
        "prompt": args.prompt,
        "regions": rows,
        "model": model,
        "concepts": [concept.name for concept in plan.concepts],
        "image": args.image,
        "mask": args.mask,
        "version": __version__,
    }
