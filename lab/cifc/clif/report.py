"""What the ways come to: intervals, and a page of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any

from ..cells import Cell, seconds_of
from ..custom_diffusion.report import by_prompt_of, singles, twins
from ..custom_diffusion.ways import Way
from ..intervals import average, bootstrap
from ..reports.tables import interval, markdown_table
from .change import NOTES, change_table, changes
from .drawn import ALONE, BOXES, PERFECT, LookAlikes

_WITNESSES = ("cosines", "colors")
_NOTES = """\
IA, TA: as in the forgetting benchmark, times 100, with the 95 % interval over prompts. Own, twin:
share of pictures nearest to their own concept's photos, and to its look-alike's."""
_PAIRS = """\
Two look-alikes by one prompt ("a ... on the left and a ... on the right"), without regions. Both
right: each half is nearest to its own concept's photos, of all concepts. Sides swapped: each is
nearest to the other's. One twice: both halves are nearest to the same of the two. By colour: a half
is that of the concept whose true colours fill most of it, and no encoder is asked; CLIP is what the
contrast learned from. The intervals are over pictures, and tell nothing of what another seed would
teach: for that there are the means of each seed (0, 100, and so on)."""
_TRIPLES = """\
Two look-alikes and a third concept in a row. All right: each third is nearest to its own concept's
photos. Own: one third is."""
_BOXES = "Each concept in its box, with regional attention and region noise estimation."
_WORDS = """\
What the contrast did to the words, before and after it: cosine of "a photo of ..." between the
words, as CLIP reads it, means over pairs (of CIDM, with the bank's words and the class word); right
name: share of held-out composites that CLIP finds nearer to their caption than to the same with
another name. Seconds: of one processor, to learn all concepts, composites and contrast included."""


def collect(drawings: Sequence[LookAlikes], cells: Sequence[Cell]) -> dict[str, Any]:
    """All figures of a finished run.

    Args:
        drawings: One for each seed.
        cells: All its work.
    """
    first = drawings[0]
    prompts = [task.prompts for task in first.bench.suite.tasks]
    ways: dict[str, Any] = {}
    for way in first.ways:
        own = [each for each in drawings if way in each.ways]
        held = singles(own, way)
        rows = by_prompt_of(held)
        ways[way.name] = {
            "label": way.label,
            "seeds": [each.bench.seed for each in own],
            **{m: bootstrap(rows[m], prompts).to_dict() for m in rows},
            **twins(first, held),
            "scenes": _scenes(own, way),
            **_learned(own, way),
        }
    perfect = {str(count): _scored(drawings, None, ALONE, count) for count in (2, 3)}
    return {
        "ways": ways,
        "contrast_changes": changes(drawings, ways),
        PERFECT: {"label": "Perfect pictures (no model)", "scenes": {ALONE: perfect}},
        "seconds": seconds_of(first.bench.board, {"all": cells}),
    }


def _scenes(drawings: Sequence[LookAlikes], way: Way) -> dict[str, Any]:
    """By mode, then by the number of concepts."""
    first = drawings[0]
    if not way.needs(first.taught):
        return {}
    found: dict[str, Any] = {}
    for mode in (ALONE, BOXES):
        for count in (2, 3):
            numbers = first.numbers(count)
            if numbers and all(mode in first.modes(way, n) for n in numbers):
                found.setdefault(mode, {})[str(count)] = _scored(drawings, way, mode, count)
    return found


def _scored(
    drawings: Sequence[LookAlikes], way: Way | None, mode: str, count: int
) -> dict[str, Any]:
    """Shares of pictures, by CLIP and by colour, over all seeds and of each."""
    found: dict[str, Any] = {}
    for witness in _WITNESSES:
        scenes = [
            [_outcomes(each, way, mode, number, witness) for each in drawings]
            for number in drawings[0].numbers(count)
        ]
        found[witness] = {m: _told(scenes, m) for m in (scenes[0][0][0] if scenes else ())}
    return found if any(found.values()) else {}


def _told(scenes: Sequence[Sequence[Sequence[Mapping[str, float]]]], measure: str) -> Any:
    """The interval over pictures, and the mean of each seed; every scene counts alike."""
    rows = [[one[measure] for seed in scene for one in seed] for scene in scenes]
    seeds = range(len(scenes[0]))
    means = [average(average(one[measure] for one in scene[k]) for scene in scenes) for k in seeds]
    return {**bootstrap(rows).to_dict(), "seeds": means}


def _outcomes(
    drawing: LookAlikes, way: Way | None, mode: str, number: int, witness: str
) -> list[dict[str, float]]:
    """What became of each picture of a scene."""
    perfect = drawing.perfect_key(number)
    key = perfect if way is None else drawing.pair_key(way, mode, number)
    cell = drawing.bench.board.read(key)
    return [outcome(picture, cell["own"]) for picture in cell[witness]]


def outcome(boxes: Sequence[Sequence[float]], own: Sequence[int]) -> dict[str, float]:
    """What became of the concepts of one picture.

    Args:
        boxes: For each box, how much it is like each task.
        own: The task that belongs into each box.

    Returns:
        1 or 0 for `right`: every box shows its own; `swapped`: each shows another that was asked
        for, and none is missing; `twice`: one that was asked for is in two boxes; and `own`, the
        share of boxes that show their own.
    """
    seen = [row.index(max(row)) if any(row) else None for row in map(list, boxes)]
    pairs = list(zip(seen, own, strict=True))
    whole = set(seen) == set(own)
    return {
        "right": float(seen == list(own)),
        "swapped": float(whole and seen != list(own)),
        "twice": float(any(seen.count(k) > 1 for k in own)),
        "own": average(float(k == wanted) for k, wanted in pairs),
    }


def _learned(drawings: Sequence[LookAlikes], way: Way) -> dict[str, Any]:
    """Seconds for all concepts of a seed, and what the contrast did to their words."""
    names = way.needs(drawings[0].taught)
    cells = [each.bench.board.read(each.learn_key(name)) for each in drawings for name in names]
    if not cells:
        return {}
    told = [cell["contrast"] for cell in cells if cell.get("contrast")]
    seconds = sum(cell["cpu_seconds"] for cell in cells) / len(drawings)
    found: dict[str, Any] = {"learning": seconds}
    if told:
        found["words"] = {
            m: [_known([each[when][m] for each in told]) for when in ("before", "after")]
            for m in ("cosine", "right_name", "retrieval")
        }
    return found


def _known(values: Sequence[float | None]) -> float:
    """The mean of those that could be told; NaN without any."""
    known = [value for value in values if value is not None]
    return average(known) if known else nan


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a run."""
    ways: Mapping[str, Any] = results["ways"]
    with_perfect = [*ways.values(), results[PERFECT]]
    parts = [
        "# CLIF: look-alikes together",
        f"Model {results['model']}, encoder {results['clip']}, seeds "
        f"{' and '.join(map(str, results['seeds']))}. Made by `{results['command']}`.",
        results["footing"],
        "## Two look-alikes in one picture",
        _table(with_perfect, ALONE, 2, _pair_line, _PAIR_HEAD),
        _PAIRS,
        "## Three in one picture",
        _table(with_perfect, ALONE, 3, _triple_line, _TRIPLE_HEAD),
        _TRIPLES,
        "## Two look-alikes in boxes",
        _table(with_perfect, BOXES, 2, _pair_line, _PAIR_HEAD),
        _BOXES,
        "## Single concepts",
        markdown_table(_SINGLE_HEAD, [_single_line(row) for row in ways.values()]),
        _NOTES,
        "## What the contrast changes",
        change_table(results["contrast_changes"]),
        NOTES,
        "## Words",
        markdown_table(_WORD_HEAD, [_word_line(row) for row in ways.values() if "learning" in row]),
        _WORDS,
        f"CPU seconds: {results['seconds']['parts']['all']['cpu_seconds']:.0f}.",
    ]
    return "\n\n".join(parts) + "\n"


_PAIR_HEAD = (
    *("way", "both right %", "of each seed", "sides swapped %", "one twice %", "halves own %"),
    *("both right by colour %", "of each seed"),
)
_TRIPLE_HEAD = [
    "way",
    "all right %",
    "of each seed",
    "own %",
    "all right by colour %",
    "own by colour %",
]
_SINGLE_HEAD = ["way", "IA", "TA", "own %", "twin %"]
_WORD_HEAD = ["way", "cosine", "right name %", "seconds"]

_Line = Callable[[str, Mapping[str, Any]], list[str]]


def _table(
    rows: Sequence[Mapping[str, Any]], mode: str, count: int, line: _Line, head: Sequence[str]
) -> str:
    lines = [
        line(row["label"], found)
        for row in rows
        if (found := row["scenes"].get(mode, {}).get(str(count)))
    ]
    return markdown_table(head, lines)


def _pair_line(label: str, found: Mapping[str, Any]) -> list[str]:
    clip, color = (found[witness] for witness in _WITNESSES)
    return [
        *(label, interval(clip["right"], 0), _by_seed(clip["right"])),
        *(interval(clip[m], 0) for m in ("swapped", "twice", "own")),
        *(interval(color["right"], 0), _by_seed(color["right"])),
    ]


def _by_seed(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{100 * share:.0f}" for share in found["seeds"])


def _triple_line(label: str, found: Mapping[str, Any]) -> list[str]:
    shares = [interval(found[w][m], 0) for w in _WITNESSES for m in ("right", "own")]
    return [label, shares[0], _by_seed(found["cosines"]["right"]), *shares[1:]]


def _single_line(row: Mapping[str, Any]) -> list[str]:
    return [
        row["label"],
        *(interval(row[m], 1) for m in ("ia", "ta")),
        interval(row["own"], 0),
        interval(row["twin"], 0) if "twin" in row else "-",
    ]


def _word_line(row: Mapping[str, Any]) -> list[str]:
    told = row.get("words")
    words = ["-", "-"]
    if told:
        cosine, right = told["cosine"], told["right_name"]
        words = [f"{cosine[0]:.2f} to {cosine[1]:.2f}", f"{right[0]:.0%} to {right[1]:.0%}"]
    return [row["label"], *words, f"{row['learning']:.0f}"]
