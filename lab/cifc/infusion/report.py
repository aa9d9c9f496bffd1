"""What the ways come to: intervals, a page of tables, and the plot of likeness against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from cidm_core.pictures.likeness import Ends, Point, likeness_picture

from ..cells import Cell, seconds_of
from ..intervals import average, bootstrap, bootstrap_difference
from ..parts.perfect import LABEL
from ..reports.tables import interval, markdown_table
from ..scoring import by_prompt
from .drawn import PERFECT, Drawing
from .ways import Way

_NOTES = """\
IA, TA: as in the forgetting benchmark, times 100, with the 95 % interval over prompts. All others:
mean over the concepts, and in brackets the mean of the ends of their intervals over pictures, which
is no narrower than that of the mean. Few pictures make distances too large; the brackets are less
that, and may lie below the number.

Astray: 2-Wasserstein distance (features of the encoder) of the drawn pictures from perfect pictures
of the same prompts; two draws of these have that of their row. W2: that of "photo of a dog", drawn
as the concept, from pictures of the class words by the model alone, the same seeds; by chance
{chance}. LFD: latent Fisher divergence, times 1000, at prompts that ask for other things
(elsewhere) and at the plain class words where no concept is meant (at class), as papers draw: the
weights of CIDM and Custom Diffusion in the model, and Infusion's concept wherever its class word
stands. As concepts are drawn here, at their own words or where `infuse` asks for them,
{here}.

Seconds: of one processor, to learn one concept (with Custom Diffusion's prior pictures). kB: all
tensors of the concept."""
_BOTH = """\
Both there: {} in one picture, by the prompt alone, each half
nearest to its own concept's photos, of all concepts."""
_MEASURES = {"wasserstein": "wasserstein", "likeness": "likeness"}
_DIVERGENCES = {"elsewhere": "elsewhere_merged", "at_class": "at_class_merged"}


def collect(drawing: Drawing, cells: Sequence[Cell]) -> dict[str, Any]:
    """All figures of a finished run.

    Args:
        drawing: The run.
        cells: All its work.
    """
    ways = {way.name: _row(drawing, way) for way in drawing.ways}
    tasks = range(len(drawing.bench.suite.tasks))
    own = [drawing.bench.board.read(drawing.draw_key(PERFECT, k)) for k in tasks]
    perfect = {
        "label": LABEL,
        **_scores(drawing, PERFECT),
        "wasserstein": _mean([each["wasserstein"] for each in own]),
    }
    fits = [_fits(drawing, way) for way in drawing.ways if way.lesson]
    return {
        "ways": ways,
        PERFECT: perfect,
        "chance": average([each["chance"] for each in fits[0]]) if fits else None,
        "pair": [task.name for task in drawing.pair],
        "seconds": seconds_of(drawing.bench.board, {"all": cells}),
    }


def _row(drawing: Drawing, way: Way) -> dict[str, Any]:
    read, tasks = drawing.bench.board.read, drawing.bench.suite.tasks
    row = {"label": way.label, "bytes": 0.0, **_scores(drawing, way.name)}
    if not way.lesson:
        return row
    learned, fits = [read(drawing.learn_key(way, task)) for task in tasks], _fits(drawing, way)
    row["change"] = {m: _change(drawing, way.name, m) for m in ("ia", "ta")}
    row["bytes"] = average([each["bytes"] for each in learned])
    row["learning"] = average([each["cpu_seconds"] for each in learned])
    row |= {name: _mean([each[found] for each in fits]) for name, found in _MEASURES.items()}
    for name, found in _DIVERGENCES.items():
        row[name] = _mean([each[found]["weighted"] for each in fits])
        row[f"{name}_plain"] = _mean([each[found]["plain"] for each in fits])
    row["fits"] = {task.name: each for task, each in zip(tasks, fits, strict=True)}
    if len(drawing.pair) == 2:
        found = read(drawing.both_key(way))["both"]
        row["both"] = bootstrap([[float(each) for each in found]]).to_dict()
    return row


def _fits(drawing: Drawing, way: Way) -> list[dict[str, Any]]:
    tasks = range(len(drawing.bench.suite.tasks))
    return [drawing.bench.board.read(drawing.fit_key(way, k)) for k in tasks]


def _held(drawing: Drawing, name: str) -> list[dict[str, Any]]:
    tasks = range(len(drawing.bench.suite.tasks))
    return [drawing.bench.board.read(drawing.draw_key(name, k)) for k in tasks]


def _by_prompt(drawing: Drawing, name: str, measure: str) -> list[list[float]]:
    return [by_prompt(each[measure]) for each in _held(drawing, name)]


def _scores(drawing: Drawing, name: str) -> dict[str, Any]:
    tasks, held = drawing.bench.suite.tasks, _held(drawing, name)
    groups = [task.prompts for task in tasks]
    found: dict[str, Any] = {
        m: bootstrap(_by_prompt(drawing, name, m), groups).to_dict() for m in ("ia", "ta")
    }
    found["astray"] = _mean([each["astray"] for each in held])
    found["concepts"] = {
        task.name: {
            **{m: average(by_prompt(each[m])) for m in ("ia", "ta")},
            "astray": each["astray"]["value"],
        }
        for task, each in zip(tasks, held, strict=True)
    }
    return found


def _change(drawing: Drawing, name: str, measure: str) -> dict[str, float]:
    """Against the model alone."""
    own, plain = (_by_prompt(drawing, each, measure) for each in (name, "none"))
    groups = [task.prompts for task in drawing.bench.suite.tasks]
    return bootstrap_difference(own, plain, groups).to_dict()


def _mean(held: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several measured numbers, and of the ends of their intervals."""
    ends = {"mean": "value", "low": "low", "high": "high"}
    return {to: average([each[of] for each in held]) for to, of in ends.items()}


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a run."""
    rows, perfect = results["ways"], results[PERFECT]
    head = ["way", "IA", "TA", "astray", "W2", "LFD elsewhere", "LFD at class"]
    head += ["both there %", "seconds", "kB"]
    table = [_line(each) for each in (*rows.values(), perfect)]
    names = list(perfect["concepts"])
    notes = [_NOTES.format(chance=f"{results['chance']:.3f}", here=_here(rows.values()))]
    if len(results["pair"]) == 2:
        notes.append(_BOTH.format(" and ".join(results["pair"])))
    parts = [
        "# Infusion, and over-fitting",
        f"Model {results['model']}, encoder {results['clip']}, seed {results['seed']}. Made by "
        f"`{results['command']}`.",
        results["footing"],
        markdown_table(head, table),
        *notes,
        "## By concept",
        *(
            f"{title}\n\n{markdown_table(['way', *names], _by_concept(rows, names, take))}"
            for title, take in _TAKEN.items()
        ),
        f"CPU seconds: {results['seconds']['parts']['all']['cpu_seconds']:.0f}.",
    ]
    return "\n\n".join(parts) + "\n"


def _here(rows: Iterable[Mapping[str, Any]]) -> str:
    fits = [each for row in rows for each in row.get("fits", {}).values()]
    largest = max(each[m]["weighted"]["value"] for each in fits for m in _DIVERGENCES)
    return "all of these are 0" if largest == 0 else f"the largest is {1000 * largest:.1f}"


def _line(row: Mapping[str, Any]) -> list[str]:
    def told(name: str, digits: int, factor: float = 0.01) -> str:
        scaled = {end: factor * value for end, value in row[name].items()} if name in row else {}
        return interval(scaled, digits) if scaled else "-"

    return [
        row["label"],
        *(interval(row[m], 1) for m in ("ia", "ta")),
        *(told(m, 3) for m in ("astray", "wasserstein")),
        *(told(m, 1, 10) for m in ("elsewhere", "at_class")),
        told("both", 0, 1),
        f"{row['learning']:.0f}" if "learning" in row else "-",
        f"{row['bytes'] / 1e3:.1f}" if "bytes" in row else "-",
    ]


_Take = Callable[[Mapping[str, Any], str], "float | None"]


def _fitted(measure: str) -> _Take:
    def take(row: Mapping[str, Any], name: str) -> float | None:
        if "fits" not in row:
            return None
        found = row["fits"][name][measure]
        return 1000 * found["weighted"]["value"] if "weighted" in found else found["value"]

    return take


_TAKEN: Mapping[str, _Take] = {
    "IA": lambda row, name: 100 * row["concepts"][name]["ia"],
    "Astray": lambda row, name: row["concepts"][name]["astray"],
    "W2": _fitted("wasserstein"),
    "LFD at class": _fitted("at_class_merged"),
}


def _by_concept(
    rows: Mapping[str, Mapping[str, Any]], names: Sequence[str], take: _Take
) -> list[list[str]]:
    def told(row: Mapping[str, Any], name: str) -> str:
        value = take(row, name)
        return "-" if value is None else f"{value:.3g}"

    return [[row["label"], *(told(row, name) for name in names)] for row in rows.values()]


def plot(results: Mapping[str, Any]) -> Image.Image:
    """Likeness against over-fitting, a point for each way."""
    points = [
        Point(
            "",
            row["label"],
            _ends(row["likeness"]),
            {
                "2-Wasserstein distance": _ends(row["wasserstein"]),
                "Fisher divergence of the class words": _ends(row["at_class"]),
            },
        )
        for row in results["ways"].values()
        if "likeness" in row
    ]
    return likeness_picture(points, f"Likeness against over-fitting, {results['model']}")


def _ends(found: Mapping[str, float]) -> Ends:
    return found["low"], found["mean"], found["high"]
