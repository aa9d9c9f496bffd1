"""Markdown: tables shaped like the paper's, every number times 100 with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HEAD = {"ia": "IA", "ta": "TA", "dino": "DINO"}
_NOTES = """\
IA: mean cosine of drawn pictures with the concept's photos. TA: CLIPScore (w = 2.5) against the
prompt with class words. Both times 100, mean over concepts and orders; in brackets the 95 %
interval over prompts (bootstrap). Gap: IA of the oracle, each concept learned and drawn alone,
minus the system's, paired by prompt and seed. Kept: IA after the last task as a share of IA right
after the concept's own training, mean and worst concept. Own: share of pictures nearest to their
own concept's photos, of all concepts. Copies: share of pictures that are nearer to a photo, in
pixels and features, than any two photos are to each other."""

_PERFECT = """\
Perfect pictures: what the prompts ask for, drawn by the small world itself, with the concept's true
look. A TA above theirs is not obedience but the concept's absence: plain pictures of the class fit
a prompt in class words best of all."""
_TIME = "What parts share counts for the first; `results.json` has it by kind of work."
_STRENGTHS = """\
The same concepts after the last task of the first order, drawn at other strengths: the weight that
`strength` puts on all that was learned."""


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a run.

    Args:
        results: As in `results.json`.
    """
    parts = [
        f"# Forgetting benchmark: {results['suite']}, {results['size']}",
        f"Model {results['model']}, encoder {results['clip']}, seed {results['seed']}. "
        f"Made by `{results['command']}`"
        + (f" at {results['commit']}." if results.get("commit") else "."),
    ]
    if main := results.get("main"):
        perfect = results.get("perfect") or {}
        summary = summary_table(main, perfect)
        parts += ["## Single concepts after the last task", summary, _NOTES]
        if perfect:
            parts.append(_PERFECT)
        if strengths := results.get("strengths"):
            parts += ["## Likeness against obedience", strength_table(main, strengths), _STRENGTHS]
        for measure in ("ia", "ta", "dino"):
            if measure in next(iter(main.values()))["scores"]:
                parts += [f"## {_HEAD[measure]} by concept", concept_table(main, measure)]
        parts += ["## Most frequent confusions", confusion_table(main)]
    if multi := results.get("multi"):
        parts += ["## Several concepts in one picture", multi_table(multi)]
    if long := results.get("long"):
        parts += ["## Bank size", long_table(long)]
    parts += ["## Time", time_table(results["seconds"]["parts"]), _TIME]
    return "\n\n".join(parts) + "\n"


def summary_table(main: Mapping[str, Any], perfect: Mapping[str, Any] | None = None) -> str:
    """One row per system, under that of perfect pictures where there are any."""
    measures = [m for m in _HEAD if m in next(iter(main.values()))["scores"]]
    gap = all("oracle_gap" in row for row in main.values())
    head = ["system", *(_HEAD[m] for m in measures), *(["gap"] if gap else [])]
    head += ["kept %", "worst kept %", "own %", "copies %"]
    rows: list[list[str]] = []
    if perfect:
        scores = perfect["scores"]
        known = [interval(scores[m]) if m in scores else "-" for m in measures]
        rows.append([perfect["label"], *known, *["-"] * (len(head) - 1 - len(known))])
    for row in main.values():
        cells = [row["label"], *(interval(row["scores"][m]) for m in measures)]
        cells += [interval(row["oracle_gap"]["ia"])] if gap else []
        kept = row["forgetting"]
        cells += [_number(kept.get("retention")), _number(kept.get("lowest_retention"))]
        cells += [_number(row["confusion"]["accuracy"], 0), _number(row["copies"]["both"], 1)]
        rows.append(cells)
    return markdown_table(head, rows)


def concept_table(main: Mapping[str, Any], measure: str) -> str:
    """Columns V1 ... and their mean, as in the paper."""
    names = list(next(iter(main.values()))["concepts"])
    best = {n: max(row["concepts"][n][measure] for row in main.values()) for n in names}
    rows: list[list[str]] = []
    for row in main.values():
        values = [row["concepts"][name][measure] for name in names]
        cells = [_bold(v, best[n]) for n, v in zip(names, values, strict=True)]
        rows.append([row["label"], *cells, _number(row["scores"][measure]["mean"])])
    return markdown_table(["system", *names, "mean"], rows)


def strength_table(main: Mapping[str, Any], strengths: Mapping[str, Any]) -> str:
    """One row per system and strength."""
    rows = [
        [main[name]["label"], f"{each['strength']:g}", interval(each["ia"]), interval(each["ta"])]
        for name, points in strengths.items()
        for each in points
    ]
    return markdown_table(["system", "strength", "IA", "TA"], rows)


def confusion_table(main: Mapping[str, Any]) -> str:
    rows = [
        [row["label"], ", ".join(f"{a} for {b} {share:.0%}" for b, a, share in worst) or "none"]
        for row in main.values()
        for worst in [row["confusion"]["worst"]]
    ]
    return markdown_table(["system", "drawn for asked"], rows)


def multi_table(multi: Mapping[str, Any]) -> str:
    """Presence by number of concepts, then the rest over all scenes."""
    groups = [g for g in next(iter(multi.values()))["concepts"] if g != "all"]
    head = ["way of drawing", *(f"present % ({g})" for g in groups)]
    head += ["all present %", "swapped %", "IA in boxes", "TA"]
    rows: list[list[str]] = []
    for row in multi.values():
        every = row["concepts"]["all"]
        cells = [interval(row["concepts"][g]["present"], 1) for g in groups]
        cells += [interval(every[k], 1) for k in ("all_present", "swapped")]
        rows.append([row["label"], *cells, interval(every["ia"]), interval(every["ta"])])
    note = (
        "Present: the box is nearest to its own concept's photos, of all concepts of the suite. "
        "Swapped: it is nearer to another concept that the scene asks for."
    )
    return f"{markdown_table(head, rows)}\n\n{note}"


def long_table(long: Mapping[str, Any]) -> str:
    head = ["weights", *(f"IA at {size}" for size in long["sizes"])]
    head += [f"gap at {size}" for size in long["sizes"]]
    rows: list[list[str]] = []
    for row in long["systems"].values():
        cells = [_number(each["ia"]["mean"]) for each in row["sizes"]]
        rows.append([row["label"], *cells, *(interval(r["oracle_gap"]) for r in row["sizes"])])
    return markdown_table(head, rows)


def time_table(parts: Mapping[str, Any]) -> str:
    rows = [
        [part, str(row["cells"]), f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}"]
        for part, row in parts.items()
    ]
    return markdown_table(["part", "cells", "seconds of one process", "CPU seconds"], rows)


def ablation_markdown(results: Mapping[str, Any]) -> str:
    """One table per group; a change whose interval excludes 0 is bold."""
    parts = ["# Ablations: one change to the default at a time, paired by prompt or scene and seed"]
    for group, rows in results["groups"].items():
        measures = [k.removesuffix("_change") for k in rows[0] if k.endswith("_change")]
        digits = {m: 1 if m in ("present", "swapped") else 2 for m in measures}
        head = ["variant", *(t for m in measures for t in (_title(m), "change")), "what it is"]
        lines: list[list[str]] = []
        for row in rows:
            cells: list[str] = []
            for m in measures:
                cells.append(_number(row[m]["mean"], digits[m]))
                cells.append(_change(row[f"{m}_change"], digits[m]))
            lines.append([row["name"], *cells, row["note"]])
        parts += [f"## {group[0].upper()}{group[1:]}", markdown_table(head, lines)]
    missing = [[name, what] for name, what in results["missing"].items()]
    parts += [
        "## Not in the core, so not measured",
        markdown_table(["idea", "what it is"], missing),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(value: Mapping[str, float], digits: int = 2) -> str:
    mean, low, high = (f"{100 * value[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _change(value: Mapping[str, float], digits: int) -> str:
    if not any(value.values()):
        return "0"
    mean, low, high = (f"{100 * value[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    text = f"{mean} [{low}, {high}]"
    return f"**{text}**" if value["low"] > 0 or value["high"] < 0 else text


def _title(measure: str) -> str:
    return _HEAD.get(measure, f"{measure} %")


def _bold(value: float, best: float) -> str:
    text = f"{100 * value:.1f}"
    return f"**{text}**" if value == best else text


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"
