"""What the ways of teaching come to: intervals, and a page of tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from ..cells import Cell, seconds_of
from ..intervals import ScoreRows, average, bootstrap, bootstrap_difference
from ..parts.scenes import scene_scores
from ..reports.tables import interval, markdown_table
from ..scoring import Scores, by_prompt
from .drawn import REGIONS, Drawing
from .ways import OURS, Way

_NOTES = """\
IA, TA: as in the forgetting benchmark, times 100, with the 95 % interval over prompts. Own: share
of pictures nearest to their own concept's photos, of all concepts. Twin: of a concept that has a
look-alike, share of pictures nearest to that one's photos. Size: all tensors that the
concepts are drawn with."""
_PAIRS = """\
Both look-alikes of a pair in one picture. Both there: each half is nearest to its own concept's
photos, of all concepts. Own: one half is. Swapped: it is nearer to the other of the pair. The
intervals are over pictures."""
_PAIR_MEASURES = ("all_present", "present", "swapped")
_MODES = {"none": "the prompt alone", "both": "boxes (ours)"}
_DRIFT = """\
Class drift, times 1000: how far pictures of the bare class words ("photo of a dog", of a style "a
painting") are carried off where the weights are folded into the model, from the same seeds by the
model alone (`cidm evaluate --class-drift`). Under the gate it is 0: no concept takes part that the
prompt does not call."""


def collect(drawings: Sequence[Drawing], cells: Sequence[Cell]) -> dict[str, Any]:
    """All figures of a finished run.

    Args:
        drawings: One for each seed.
        cells: All its work.
    """
    first = drawings[0]
    held = {way.name: singles(drawings, way) for way in first.ways}
    prompts = [task.prompts for task in first.bench.suite.tasks]
    ways: dict[str, Any] = {}
    default = by_prompt_of(held[OURS])
    for way in first.ways:
        rows = by_prompt_of(held[way.name])
        ways[way.name] = {
            "label": way.label,
            "bytes": _bytes(first, way),
            **{m: bootstrap(rows[m], prompts).to_dict() for m in rows},
            "change": {
                m: bootstrap_difference(rows[m], default[m], prompts).to_dict()
                for m in ("ia", "ta")
            },
            "concepts": {
                task.name: {m: average(rows[m][k]) for m in ("ia", "ta", "own")}
                for k, task in enumerate(first.bench.suite.tasks)
            },
            **twins(first, held[way.name]),
            "pairs": _pairs(drawings, way),
            "drift": _drift(drawings, way),
        }
    return {"ways": ways, "seconds": seconds_of(first.bench.board, {"all": cells})}


def singles(drawings: Sequence[Drawing], way: Way) -> list[Scores]:
    """Of each task, with the pictures of all seeds."""
    return [
        reduce(Scores.joined, (_scores(each, way, n) for each in drawings))
        for n in range(len(drawings[0].bench.suite.tasks))
    ]


def _scores(drawing: Drawing, way: Way, index: int) -> Scores:
    read, wanted = drawing.bench.board.read, Scores.__dataclass_fields__
    held = read(drawing.single_key(way, index))
    return Scores(**{k: v for k, v in held.items() if k in wanted})


def by_prompt_of(held: Sequence[Scores]) -> dict[str, ScoreRows]:
    """IA, TA and the share of pictures nearest to their own concept, by concept and prompt."""
    found = {m: [by_prompt(getattr(each, m)) for each in held] for m in ("ia", "ta")}
    own = [_share(each, index) for index, each in enumerate(held)]
    return {**found, "own": own}


def _share(scores: Scores, index: int) -> list[float]:
    return [average(int(n) == index for n in row) for row in scores.nearest]


def twins(drawing: Drawing, held: Sequence[Scores]) -> dict[str, Any]:
    """How often a concept is drawn as its look-alike; nothing where none has one."""
    twins = [drawing.twin(task) for task in drawing.bench.suite.tasks]
    found = [(n, twin) for n, twin in enumerate(twins) if twin is not None]
    shares = [_share(held[n], twin) for n, twin in found]
    prompts = [drawing.bench.suite.tasks[n].prompts for n, _ in found]
    return {"twin": bootstrap(shares, prompts).to_dict()} if shares else {}


def _pairs(drawings: Sequence[Drawing], way: Way) -> dict[str, Any]:
    found: dict[str, Any] = {}
    numbers = range(len(drawings[0].pairs))
    if not way.needs(drawings[0].taught) or not numbers:
        return found
    for mode in REGIONS:
        scores = [
            [
                _picture(cell, k)
                for each in drawings
                for cell in (each.bench.board.read(each.pair_key(way, mode, n)),)
                for k in range(len(cell["ta"]))
            ]
            for n in numbers
        ]
        found[mode] = {
            m: bootstrap([[one[m] for one in scene] for scene in scores]).to_dict()
            for m in ("all_present", "present", "swapped", "ia", "ta")
        }
    return found


def _drift(drawings: Sequence[Drawing], way: Way) -> dict[str, float]:
    """By class, the mean over its concepts and the seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for drawing in drawings:
        if drawing.drift is not None and way.needs(drawing.taught):
            for task in drawing.bench.suite.tasks:
                cell = drawing.bench.board.read(drawing.drift_key(way, task))
                found[task.class_words].append(cell["drift"])
    return {name: average(values) for name, values in found.items()}


def _picture(cell: Mapping[str, Any], k: int) -> dict[str, float]:
    return scene_scores(
        {"own": cell["own"], "cosines": cell["cosines"][k : k + 1], "ta": cell["ta"][k : k + 1]}
    )


def _bytes(drawing: Drawing, way: Way) -> int:
    keys = [drawing.learn_key(name) for name in way.needs(drawing.taught)]
    return sum(int(drawing.bench.board.read(key)["bytes"]) for key in keys)


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a run."""
    ways = results["ways"].values()
    head = ["way", "IA", "TA", "IA against ours", "TA against ours", "own %", "twin %", "size, kB"]
    rows = [
        [
            row["label"],
            interval(row["ia"], 1),
            interval(row["ta"], 1),
            *(interval(row["change"][m], 1) for m in ("ia", "ta")),
            interval(row["own"], 0),
            interval(row["twin"], 0) if "twin" in row else "-",
            f"{row['bytes'] / 1e3:.0f}",
        ]
        for row in ways
    ]
    names = list(next(iter(ways))["concepts"])
    by_concept = [
        [row["label"], *(f"{100 * row['concepts'][n]['ia']:.1f}" for n in names)] for row in ways
    ]
    pairs = [
        [row["label"], _MODES[mode], *(interval(found[m], 0) for m in _PAIR_MEASURES)]
        for row in ways
        for mode, found in row["pairs"].items()
    ]
    parts = [
        "# Custom Diffusion beside CIDM",
        f"Model {results['model']}, encoder {results['clip']}, seeds "
        f"{' and '.join(map(str, results['seeds']))}. Made by `{results['command']}`.",
        results["footing"],
        "## Single concepts",
        markdown_table(head, rows),
        _NOTES,
        "## IA by concept",
        markdown_table(["way", *names], by_concept),
        "## Look-alikes in one picture",
        markdown_table(["way", "drawn by", "both there %", "own %", "swapped %"], pairs),
        _PAIRS,
        *_drift_part(results["ways"]),
        f"CPU seconds: {results['seconds']['parts']['all']['cpu_seconds']:.0f}.",
    ]
    return "\n\n".join(parts) + "\n"


def _drift_part(ways: Mapping[str, Any]) -> list[str]:
    held = {name: row for name, row in ways.items() if row["drift"]}
    if not held:
        return []
    classes = list(next(iter(held.values()))["drift"])
    rows = [
        [
            row["label"].removesuffix(", gate"),
            *(f"{1000 * row['drift'][name]:.0f}" for name in classes),
            f"{1000 * average(row['drift'].values()):.0f}",
        ]
        for row in held.values()
    ]
    return ["## Class drift", markdown_table(["weights of", *classes, "mean"], rows), _DRIFT]
