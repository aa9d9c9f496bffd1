"""What the contrast changes in each method: with it minus without, from the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..custom_diffusion.report import by_prompt_of, singles
from ..custom_diffusion.ways import OURS
from ..intervals import bootstrap_difference
from ..reports.tables import interval, markdown_table
from .drawn import ALONE, BOXES, LookAlikes
from .ways import CONTRASTED, WAYS

_COMPARED = (
    ("CLIF", "clif", "no_contrast"),
    ("CIDM (ours)", CONTRASTED, OURS),
    ("Custom Diffusion, all at once", "joint_contrast", "joint"),
)
_HEAD = ("method", "IA", "TA", "both right of each seed", "in boxes, of each seed")
NOTES = """\
With the contrast minus without it, prompt by prompt, the same seeds. What one seed gains another
loses: that is as much as these figures can tell of pairs."""


def changes(drawings: Sequence[LookAlikes], ways: Mapping[str, Any]) -> dict[str, Any]:
    """By method: differences of IA and TA with intervals, and of pairs by seed."""
    found: dict[str, Any] = {}
    for label, with_it, without in _COMPARED:
        if not {with_it, without} <= ways.keys():
            continue
        pair = [WAYS[with_it], WAYS[without]]
        both = [each for each in drawings if set(pair) <= set(each.ways)]
        rows, plain = (by_prompt_of(singles(both, way)) for way in pair)
        prompts = [task.prompts for task in drawings[0].bench.suite.tasks]
        found[label] = {
            m: bootstrap_difference(rows[m], plain[m], prompts).to_dict() for m in ("ia", "ta")
        }
        for mode in (ALONE, BOXES):
            held = [ways[name]["scenes"].get(mode, {}).get("2") for name in (with_it, without)]
            if all(held):
                shares = [each["cosines"]["right"]["seeds"] for each in held]
                found[label][mode] = [a - b for a, b in zip(*shares, strict=False)]
    return found


def change_table(found: Mapping[str, Any]) -> str:
    """The same as a table, times 100."""
    return markdown_table(_HEAD, [_line(label, row) for label, row in found.items()])


def _line(label: str, row: Mapping[str, Any]) -> list[str]:
    seeds = [", ".join(f"{100 * each:+.0f}" for each in row.get(m, [])) for m in (ALONE, BOXES)]
    return [label, *(interval(row[m], 1) for m in ("ia", "ta")), *(each or "-" for each in seeds)]
