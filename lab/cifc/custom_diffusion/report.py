"""What the ways of teaching come to: intervals, and a page of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cells import Board, Cell, seconds_of
from ..intervals import ScoreRows, average, bootstrap, bootstrap_difference
from ..parts.scenes import scene_scores
from ..reports.tables import interval, markdown_table
from ..scoring import Scores, by_prompt
from .drawn import REGIONS, Drawing, learn_key, pair_key, single_key
from .ways import OURS, Taught, Way

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


def collect(drawing: Drawing, cells: Sequence[Cell]) -> dict[str, Any]:
    """All figures of a finished run."""
    held = {way.name: _singles(drawing, way) for way in drawing.ways}
    prompts = [task.prompts for task in drawing.bench.suite.tasks]
    ways: dict[str, Any] = {}
    default = _by_prompt(held[OURS])
    for way in drawing.ways:
        rows = _by_prompt(held[way.name])
        ways[way.name] = {
            "label": way.label,
            "bytes": _bytes(drawing.bench.board, way, drawing.taught),
            **{m: bootstrap(rows[m], prompts).to_dict() for m in rows},
            "change": {
                m: bootstrap_difference(rows[m], default[m], prompts).to_dict()
                for m in ("ia", "ta")
            },
            "concepts": {
                task.name: {m: average(rows[m][k]) for m in ("ia", "ta", "own")}
                for k, task in enumerate(drawing.bench.suite.tasks)
            },
            **_twins(drawing, held[way.name]),
            "pairs": _pairs(drawing, way),
        }
    return {"ways": ways, "seconds": seconds_of(drawing.bench.board, {"all": cells})}


def _singles(drawing: Drawing, way: Way) -> list[Scores]:
    read, tasks = drawing.bench.board.read, drawing.bench.suite.tasks
    wanted = Scores.__dataclass_fields__
    return [
        Scores(**{k: v for k, v in read(single_key(way, n)).items() if k in wanted})
        for n in range(len(tasks))
    ]


def _by_prompt(held: Sequence[Scores]) -> dict[str, ScoreRows]:
    found = {m: [by_prompt(getattr(each, m)) for each in held] for m in ("ia", "ta")}
    own = [_share(each, index) for index, each in enumerate(held)]
    return {**found, "own": own}


def _share(scores: Scores, index: int) -> list[float]:
    return [average(int(n) == index for n in row) for row in scores.nearest]


def _twins(drawing: Drawing, held: Sequence[Scores]) -> dict[str, Any]:
    twins = [drawing.twin(task) for task in drawing.bench.suite.tasks]
    found = [(n, twin) for n, twin in enumerate(twins) if twin is not None]
    shares = [_share(held[n], twin) for n, twin in found]
    prompts = [drawing.bench.suite.tasks[n].prompts for n, _ in found]
    return {"twin": bootstrap(shares, prompts).to_dict()} if shares else {}


def _pairs(drawing: Drawing, way: Way) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if way.name == "none" or not drawing.pairs:
        return found
    for mode in REGIONS:
        cells = [
            drawing.bench.board.read(pair_key(way, mode, n)) for n in range(len(drawing.pairs))
        ]
        scores = [[_picture(cell, k) for k in range(len(cell["ta"]))] for cell in cells]
        found[mode] = {
            m: bootstrap([[one[m] for one in scene] for scene in scores]).to_dict()
            for m in ("all_present", "present", "swapped", "ia", "ta")
        }
    return found


def _picture(cell: Mapping[str, Any], k: int) -> dict[str, float]:
    return scene_scores(
        {"own": cell["own"], "cosines": cell["cosines"][k : k + 1], "ta": cell["ta"][k : k + 1]}
    )


def _bytes(board: Board, way: Way, taught: Taught) -> int:
    keys = [learn_key(name) for name in way.needs(taught)]
    return sum(int(board.read(key)["bytes"]) for key in keys)


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
        f"Model {results['model']}, encoder {results['clip']}, seed {results['seed']}. Made by "
        f"`{results['command']}`.",
        results["footing"],
        "## Single concepts",
        markdown_table(head, rows),
        _NOTES,
        "## IA by concept",
        markdown_table(["way", *names], by_concept),
        "## Look-alikes in one picture",
        markdown_table(["way", "drawn by", "both there %", "own %", "swapped %"], pairs),
        _PAIRS,
        f"CPU seconds: {results['seconds']['parts']['all']['cpu_seconds']:.0f}.",
    ]
    return "\n\n".join(parts) + "\n"
