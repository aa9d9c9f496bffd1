"""`cidm evaluate`: image and text alignment of a bank's concepts."""

from __future__ import annotations

import argparse
from typing import Any

from ..config import SampleConfig
from .console import Console
from .flags import add_model, add_output, add_settings, given
from .measuring import add_inputs, keeper, open_bank, read_photos, read_prompt_files

_EPILOG = """\
example:
  cidm evaluate --model sd15.safetensors --bank bank --clip openai/clip-vit-base-patch32 \\
      --photos dog=photos/dog --photos ink=photos/ink --prompts object=pets.txt \\
      --prompts style=styles.txt --num-images 50 --json > scores.json

IA is the mean CLIP cosine between drawn pictures and photos, TA the CLIPScore 2.5 max(cos, 0) of
picture and prompt with the concept words written back as class words; both times 100, as in the
CIDM paper. The whole bank takes part in every picture.
"""


def add_parser(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "evaluate",
        usage="cidm evaluate --bank DIR --clip PATH --photos [NAME=]DIR [options]",
        help="image and text alignment of the concepts",
        description="Draw pictures of the concepts and compare them with photos and prompts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_inputs(parser).add_argument(
        "--clip",
        required=True,
        metavar="PATH",
        help="CLIP model: a folder, a cached name, or mini-clip for mini-sd's pictures.",
    )
    add_model(parser)
    add_settings(parser, SampleConfig)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Draw and score.

    Raises:
        CidmError: Anything the user can mend.
    """
    SampleConfig.from_dict(given(args))
    from ..diffusers_host.clip import load_clip
    from ..diffusers_host.load import load_base
    from ..evaluation.evaluate import evaluate
    from .progress_bar import ProgressBar

    bank = open_bank(args.bank)
    photos, prompts = read_photos(args.photos, bank), read_prompt_files(args.prompts)
    clip = load_clip(args.clip, args.device)
    base = load_base(args.model, device=args.device, dtype=args.dtype, tokenizer=args.tokenizer)
    config = SampleConfig.for_family(base.family.sampling, **given(args))
    keep = keeper(args.keep)
    with ProgressBar(enabled=console.shows_progress) as bar:
        report = evaluate(
            base,
            bank,
            clip,
            photos,
            prompts,
            config,
            on_picture=lambda done, total: bar.update(done, total, verb="Drawing"),
            keep=keep,
        )
    console.say(report.table())
    return {**report.to_dict(), "model": base.name, "clip": args.clip, "settings": config.to_dict()}
