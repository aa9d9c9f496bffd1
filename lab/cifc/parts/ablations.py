"""One change to the default at a time: how concepts are learned, weighed, and put into regions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..baselines.base import Baseline
from ..baselines.class_kept import ClassKept
from ..bench import Bench
from ..cells import Cell, each_once
from ..draw_cells import draw_cell
from ..intervals import ScoreRows, bootstrap, bootstrap_difference
from ..learners import LEARNERS, Learner
from ..scoring import by_prompt
from ..sizes import spread
from ..systems import MULTI, SYSTEMS, MultiSystem, System
from .scenes import scene_cells, scene_scores

_DEFAULT = "default"
# Rules that let concepts disturb each other show what training does to interference; under the
# gate a concept alone takes part, and only its own learning can differ.
RULES: tuple[System, ...] = (
    SYSTEMS["ours"],
    replace(SYSTEMS["released"], name="dense", label="Dense weights, as released", learner="ours"),
)


@dataclass(frozen=True)
class Change:
    """One difference from the default.

    Attributes:
        name: In tables and file names.
        note: What it is, for the table.
        settings: Overrides of training or sampling settings; of steps and gammas: factors.
        method: What learns, for an idea that is no setting.
    """

    name: str
    note: str = ""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    method: type[Baseline] | None = None


def _change(name: str, note: str = "", **settings: object) -> Change:
    return Change(name, note, settings)


_R1: Mapping[str, object] = {"orthogonality": "subspace"}
_R2: Mapping[str, object] = {"common_subspace": "closed_form"}
TRAINING_CHANGES = (
    _change("R1", "the paper's intent: A_i^T A towards 0, entry by entry", **_R1),
    _change("R1 x 0.1", "a tenth of its weight", gamma1=0.1, **_R1),
    _change("R1 energy", "squares of the inner products", orthogonality="energy"),
    _change("R1 released", "as the public code", orthogonality="released"),
    _change("R1 projection", "A <- A (I - Q Q^T), no loss term", orthogonality="projection"),
    _change("R2", "common subspace in closed form", **_R2),
    _change("R2 x 0.1", "a tenth of its weight", gamma2=0.1, **_R2),
    _change("R2 gradient", "the paper's two steps", common_subspace="gradient"),
    _change("R1 and R2", "Eq. 2", **_R1, **_R2),
    _change("R1 and R2 gradient", "as in the paper", **_R1, common_subspace="gradient"),
    _change("rows of each layer", "the paper's form; the default on mini-sd", token_layers="layer"),
    _change("rows of all layers", "one version of each word", token_layers="one"),
    _change("half the steps", steps=0.5),
    _change("twice the steps", steps=2),
    Change(
        "class preservation",
        "class words estimate what they did; 2.3 times the time of a step",
        method=ClassKept,
    ),
)
WEIGHT_CHANGES = (
    _change("paper", "square, L2 norm (Eq. 3)", weights="paper"),
    _change("released", "fourth power, L1 norm", weights="released"),
    _change("paper, joint", "all tokens in one prompt", weights="paper", encoding="joint"),
    _change("released, joint", "as the public code", weights="released", encoding="joint"),
    _change("gate, top 1", "at most one concept", top_k=1),
    _change("strength 0.7", strength=0.7),
    _change("guidance 2.5", "default 4", guidance_scale=2.5),
    _change("token-routed", "each concept in its own words' keys", key_value_routing="token"),
)
REGION_CHANGES = (
    _change("alpha 0", "no share of the global estimate", alpha=0.0),
    _change("alpha 0.3", alpha=0.3),
    _change("alpha 0.5", alpha=0.5),
    _change("feather 0", "hard edges", feather=0.0),
    _change("feather 0.1", "softer edges", feather=0.1),
    _change("weights global", "the global prompt weighs all", region_weights="global"),
    _change("weights of the paper", "square, L2 norm (Eq. 3)", weights="paper"),
    _change("weights as released", "fourth power, L1 norm", weights="released"),
    _change("gate, top 1 per box", "at most one concept in each prompt", top_k=1),
    _change("literal Eq. 5", "alpha E outside the boxes", region_mode="literal"),
    _change("no regional attention", regional_attention=False),
    _change("no noise estimation", noise_estimation=False),
    _change("no regions", regional_attention=False, noise_estimation=False),
    _change("token-routed keys", "each concept in its own words", key_value_routing="token"),
)
# Ideas that the core does not have, so there is nothing to measure.
MISSING: Mapping[str, str] = {
    "closed-form routing": "active concepts that share tokens, solved for together",
    "warm start": "from the nearest earlier concept",
}


def ablation_cells(bench: Bench) -> list[Cell]:
    """Everything behind the tables of ablations."""
    order, ours = task_order(bench), LEARNERS["ours"]
    chains = [bench.train_cells(changed_learner(bench, change), order) for change in learned()]
    training = [training_cells(bench, rule) for rule in RULES]
    return each_once(
        [cell for row in zip(*chains, strict=True) for cell in row],
        [cell for name in training[0] for cells in training for cell in cells[name]],
        bench.train_cells(ours, order),
        *weight_cells(bench).values(),
        bench.train_cells(ours, bench.suite.orders[0]) if bench.suite.scenes else (),
        *region_cells(bench).values(),
    )


def learned() -> list[Change]:
    """The ways of learning, the default first."""
    return [Change(_DEFAULT), *TRAINING_CHANGES]


def training_cells(bench: Bench, rule: System) -> dict[str, list[Cell]]:
    """Pictures drawn by a rule after learning with each change, task by task."""
    return {
        change.name: _draws(
            bench,
            rule,
            f"-ablation/{change.name.replace(' ', '-')}",
            changed_learner(bench, change),
        )
        for change in learned()
    }


def weight_cells(bench: Bench) -> dict[str, list[Cell]]:
    """Pictures of the default's concepts by each rule for the weights, task by task."""
    ours = SYSTEMS["ours"]
    systems = {_DEFAULT: ours} | {
        change.name: replace(ours, name=change.name, label=change.name, sampling=change.settings)
        for change in WEIGHT_CHANGES
    }
    return {name: _draws(bench, system, "-weights") for name, system in systems.items()}


def region_cells(bench: Bench) -> dict[str, list[Cell]]:
    """Scenes of the default's concepts by each way of drawing regions."""
    if not bench.suite.scenes:
        return {}
    order, size = bench.suite.orders[0], bench.sizes.ablation
    numbers = spread(len(bench.suite.scenes), size.scenes)
    return {
        change.name: scene_cells(bench, _changed_regions(change), order, numbers, size.scene_images)
        for change in (Change(_DEFAULT), *REGION_CHANGES)
    }


def _changed_regions(change: Change) -> MultiSystem:
    """Named apart from the main run's scenes, which have other numbers of pictures."""
    both = MULTI["both"]
    sampling = {**both.sampling, **change.settings}
    return replace(both, name=f"ablation {change.name}", sampling=sampling)


def _draws(
    bench: Bench, system: System, tag: str, learner: Learner = LEARNERS["ours"]
) -> list[Cell]:
    order, size = task_order(bench), bench.sizes.ablation
    return [
        draw_cell(bench, system, order, len(order), k, size.prompts, size.images, tag, learner)
        for k in order
    ]


def task_order(bench: Bench) -> tuple[int, ...]:
    """The tasks that the ablations learn, in order."""
    every = range(len(bench.suite.tasks))
    return tuple(k for k in bench.sizes.ablation.tasks if k in every) or tuple(every)


def changed_learner(bench: Bench, change: Change) -> Learner:
    """The learner of `ours` with a change."""
    ours = LEARNERS["ours"]
    if change.name == _DEFAULT:
        return ours
    settings = dict(change.settings)
    for name in ("gamma1", "gamma2", "steps"):
        if name in settings:
            default = getattr(bench.training, name)
            settings[name] = type(default)(float(str(settings[name])) * default)
    return replace(
        ours,
        name=f"ours {change.name}",
        config={**ours.config, **settings},
        order_free=False,  # a term may look at the earlier concepts
        method=change.method,
        weight=1.0,
    )


# What they say --------------------------------------------------------------------------------


ReadScores = Callable[[Sequence[Cell]], dict[str, ScoreRows]]


def ablation_results(bench: Bench) -> dict[str, Any]:
    """By group: for each change its scores, and its distance from the default."""
    prompts = [bench.suite.tasks[index].prompts for index in task_order(bench)]

    def single(cells: Sequence[Cell]) -> dict[str, ScoreRows]:
        held = [bench.scores(cell.key) for cell in cells]
        return {m: [by_prompt(getattr(each, m)) for each in held] for m in ("ia", "ta")}

    def multi(cells: Sequence[Cell]) -> dict[str, ScoreRows]:
        held = [scene_scores(bench.board.read(cell.key)) for cell in cells]
        return {m: [[each[m] for each in held]] for m in ("present", "swapped", "ia", "ta")}

    found = {
        f"training, {rule.label}": _compared(training_cells(bench, rule), single, prompts)
        for rule in RULES
    }
    found["weights"] = _compared(weight_cells(bench), single, prompts)
    if bench.suite.scenes:
        found["regions"] = _compared(region_cells(bench), multi)
    return {"groups": found, "missing": dict(MISSING)}


def _compared(
    changes: Mapping[str, Sequence[Cell]],
    read: ReadScores,
    categories: Sequence[Hashable] | None = None,
) -> list[dict[str, object]]:
    """One row per change, the default first."""
    notes = {
        change.name: change.note for change in (*TRAINING_CHANGES, *WEIGHT_CHANGES, *REGION_CHANGES)
    }
    default: dict[str, ScoreRows] = {}
    rows: list[dict[str, object]] = []
    for name, cells in changes.items():
        scores = read(cells)
        default = default or scores
        row: dict[str, object] = {"name": name, "note": notes.get(name, "")}
        for measure, values in scores.items():
            row[measure] = bootstrap(values, categories).to_dict()
            gap = bootstrap_difference(values, default[measure], categories)
            row[f"{measure}_change"] = gap.to_dict()
        rows.append(row)
    return rows
