"""`cidm benchmark`: how much the rest of a bank disturbs each of its concepts."""

from __future__ import annotations

import argparse
from typing import Any

from ..config import SampleConfig
from .console import Console
from .flags import add_model, add_output, add_settings, given
from .measuring import add_inputs, keeper, open_bank, read_photos, read_prompt_files

_EPILOG = """\
examples:
  cidm benchmark --bank bank                              the default rule
  cidm benchmark --bank bank --weights released           the rule of the public code
  cidm benchmark --bank bank --weights paper --clip openai/clip-vit-base-patch32 --json

Every concept is drawn twice from the same seeds: with the whole bank, and with that concept alone
(the oracle). "pixel difference" is the mean absolute difference of the two, from 0 to 1; 0 means
that nothing of the concept is lost by living in the bank.
"""


def add_parser(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "benchmark",
        usage="cidm benchmark --bank DIR [options]",
        help="check a bank for forgetting",
        description="Compare each concept with the whole bank and alone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_inputs(parser).add_argument(
        "--clip",
        metavar="PATH",
        help="CLIP model (or mini-clip); adds similarity, TA, and with photos IA.",
    )
    add_model(parser)
    add_settings(parser, SampleConfig)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Draw twice and compare.

    Raises:
        CidmError: Anything the user can mend.
    """
    SampleConfig.from_dict(given(args))
    from ..diffusers_host.clip import load_clip
    from ..diffusers_host.load import load_base
    from ..evaluation.forgetting import measure_forgetting
    from .progress_bar import ProgressBar

    bank = open_bank(str(args.bank))
    photos, prompts = read_photos(args.photos, bank), read_prompt_files(args.prompts)
    clip = load_clip(args.clip, args.device) if args.clip else None
    base = load_base(args.model, device=args.device, dtype=args.dtype, tokenizer=args.tokenizer)
    config = SampleConfig.for_family(base.family.sampling, **given(args))
    keep = keeper(args.keep)
    with ProgressBar(enabled=console.shows_progress) as bar:
        report = measure_forgetting(
            base,
            bank,
            prompts,
            config,
            clip,
            photos,
            on_picture=lambda done, total: bar.update(done, total, verb="Drawing"),
            keep=keep,
        )
    console.say(report.table())
    return {**report.to_dict(), "model": base.name, "settings": config.to_dict()}
