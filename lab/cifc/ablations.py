"""One change at a time: what each part of the method adds, against the default, paired.

The open choices of the methods note, sections 7 and 8, as named variants over the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cidm_core.methods.base import MakeMethod

from .baselines.class_kept import ClassKept
from .baselines.memory import Memory
from .bench import Bench
from .cells import Cell, merged
from .scenes import multi_cells, scene_key
from .sizes import spread
from .systems import MULTI, RECIPES, SYSTEMS, MultiSystem, Recipe, System
from .worklist import draw_cell, draw_key

DEFAULT = "default"
# Rules that let concepts disturb each other show what training does to interference; under the
# gate a concept alone takes part, and only its own learning can differ.
RULES: tuple[System, ...] = (
    SYSTEMS["ours"],
    replace(SYSTEMS["released"], name="dense", label="Dense weights, as released", recipe="ours"),
)


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        name: In tables and file names.
        group: What it is about: "training", "weights", "regions".
        change: Overrides of training or sampling settings; of steps and gammas: factors.
        note: What it is, for the table.
        make: What builds the method, for an idea that is no setting.
    """

    name: str
    group: str
    change: Mapping[str, object] = field(default_factory=dict[str, object])
    note: str = ""
    make: MakeMethod | None = None


def _training(name: str, note: str, **change: object) -> Variant:
    return Variant(name, "training", change, note)


def _weights(name: str, note: str, **change: object) -> Variant:
    return Variant(name, "weights", change, note)


def _regions(name: str, note: str, **change: object) -> Variant:
    return Variant(name, "regions", change, note)


_R1: Mapping[str, object] = {"orthogonality": "subspace"}
_R2: Mapping[str, object] = {"common_subspace": "closed_form"}
VARIANTS: tuple[Variant, ...] = (
    _training("R1", "the paper's intent: A_i^T A towards 0, entry by entry", **_R1),
    _training("R1 x 0.1", "a tenth of its weight", gamma1=0.1, **_R1),
    _training("R1 energy", "squares of the inner products", orthogonality="energy"),
    _training("R1 released", "as the public code", orthogonality="released"),
    _training("R1 projection", "A <- A (I - Q Q^T), no loss term", orthogonality="projection"),
    _training("R2", "common subspace in closed form", **_R2),
    _training("R2 x 0.1", "a tenth of its weight", gamma2=0.1, **_R2),
    _training("R2 gradient", "the paper's two steps", common_subspace="gradient"),
    _training("R1 and R2", "Eq. 2", **_R1, **_R2),
    _training("R1 and R2 gradient", "as in the paper", **_R1, common_subspace="gradient"),
    _training("half the steps", "", steps=0.5),
    _training("twice the steps", "", steps=2),
    Variant(
        "class preservation",
        "training",
        note="class words estimate what they did; 2.3 times the time of a step",
        make=partial(ClassKept, weight=1.0),
    ),
    _weights("paper", "square, L2 norm (Eq. 3)", weights="paper"),
    _weights("released", "fourth power, L1 norm", weights="released"),
    _weights("paper, joint", "all tokens in one prompt", weights="paper", encoding="joint"),
    _weights("released, joint", "as the public code", weights="released", encoding="joint"),
    _weights("gate, top 1", "at most one concept", top_k=1),
    _weights("strength 0.7", "", strength=0.7),
    _weights("guidance 2.5", "default 4", guidance_scale=2.5),
    _weights("token-routed", "each concept in its own words' keys", key_value_routing="token"),
    _regions("alpha 0", "no share of the global estimate", alpha=0.0),
    _regions("alpha 0.3", "", alpha=0.3),
    _regions("alpha 0.5", "", alpha=0.5),
    _regions("feather 0", "hard edges", feather=0.0),
    _regions("feather 0.1", "softer edges", feather=0.1),
    _regions("weights global", "the global prompt weighs all", region_weights="global"),
    _regions("weights of the paper", "square, L2 norm (Eq. 3)", weights="paper"),
    _regions("weights as released", "fourth power, L1 norm", weights="released"),
    _regions("gate, top 1 per box", "at most one concept in each prompt", top_k=1),
    _regions("literal Eq. 5", "alpha E outside the boxes", region_mode="literal"),
    _regions("no regional attention", "", regional_attention=False),
    _regions("no noise estimation", "", noise_estimation=False),
    _regions("no regions", "", regional_attention=False, noise_estimation=False),
    _regions("token-routed keys", "each concept in its own words", key_value_routing="token"),
)
# Section 8 names them; the core does not have them, so there is nothing to measure.
MISSING: Mapping[str, str] = {
    "closed-form routing": "active concepts that share tokens, solved for together",
    "warm start": "from the nearest earlier concept",
}


def recipe_of(bench: Bench, variant: Variant) -> Recipe:
    """The recipe of `ours` with a change."""
    change = dict(variant.change)
    for name in ("gamma1", "gamma2", "steps"):
        if name in change:
            default = getattr(bench.training, name)
            change[name] = type(default)(float(str(change[name])) * default)
    ours = RECIPES["ours"]
    return replace(
        ours,
        name=f"ours {variant.name}",
        config={**ours.config, **change},
        order_free=False,  # a term may look at the earlier concepts
        make=None if variant.make is None else _regardless(variant.make),
    )


def _regardless(make: MakeMethod) -> Callable[[Memory], MakeMethod]:
    def of_memory(_memory: Memory) -> MakeMethod:
        return make

    return of_memory


def training_variants() -> list[Variant]:
    """The training variants, the default first."""
    return [Variant(DEFAULT, "training"), *(v for v in VARIANTS if v.group == "training")]


def weight_systems() -> list[System]:
    """The rules for the weights, the default first."""
    ours = SYSTEMS["ours"]
    changed = [v for v in VARIANTS if v.group == "weights"]
    return [ours, *(replace(ours, name=v.name, label=v.name, sampling=v.change) for v in changed)]


def region_systems() -> list[MultiSystem]:
    """The ways of drawing regions, the default first."""
    both = MULTI["both"]
    changed = [v for v in VARIANTS if v.group == "regions"]
    return [
        replace(both, name=DEFAULT),
        *(replace(both, name=v.name, sampling={**both.sampling, **v.change}) for v in changed),
    ]


def task_order(bench: Bench) -> tuple[int, ...]:
    """The tasks that the ablations learn, in order."""
    every = range(len(bench.suite.tasks))
    return tuple(k for k in bench.sizes.ablation.tasks if k in every) or tuple(every)


def training_keys(bench: Bench, variant: Variant, rule: System) -> list[str]:
    """Keys of a training variant's pictures, task by task."""
    order, tag = task_order(bench), f"-ablation/{_stem(variant.name)}"
    return [draw_key(bench, rule, order, len(order), index, tag) for index in order]


def weight_keys(bench: Bench, system: System) -> list[str]:
    """Keys of the pictures of a rule for the weights, task by task."""
    order = task_order(bench)
    return [draw_key(bench, system, order, len(order), index, "-weights") for index in order]


def region_keys(bench: Bench, system: MultiSystem) -> list[str]:
    """Keys of the scenes of a way of drawing regions."""
    order = bench.suite.orders[0]
    return [scene_key(bench, _tagged(system), order, n) for n in scene_numbers(bench)]


def scene_numbers(bench: Bench) -> tuple[int, ...]:
    """Which scenes the variants of regions draw."""
    return spread(len(bench.suite.scenes), bench.sizes.ablation.scenes)


def ablation_cells(bench: Bench) -> list[Cell]:
    """Everything behind the table of ablations."""
    return merged(_training_cells(bench), _weight_cells(bench), _region_cells(bench))


def _training_cells(bench: Bench) -> Iterator[Cell]:
    order, size = task_order(bench), bench.sizes.ablation
    variants = training_variants()
    chains = [bench.train_cells(_recipe(bench, v), order) for v in variants]
    yield from (cell for row in zip(*chains, strict=True) for cell in row)
    for variant in variants:
        for rule in RULES:
            for index in order:
                yield draw_cell(
                    bench,
                    rule,
                    order,
                    len(order),
                    index,
                    size.prompts,
                    size.images,
                    f"-ablation/{_stem(variant.name)}",
                    _recipe(bench, variant),
                )


def _recipe(bench: Bench, variant: Variant) -> Recipe:
    return RECIPES["ours"] if variant.name == DEFAULT else recipe_of(bench, variant)


def _weight_cells(bench: Bench) -> Iterator[Cell]:
    order, size = task_order(bench), bench.sizes.ablation
    yield from bench.train_cells(RECIPES["ours"], order)
    for system in weight_systems():
        for index in order:
            yield draw_cell(
                bench, system, order, len(order), index, size.prompts, size.images, "-weights"
            )


def _region_cells(bench: Bench) -> Sequence[Cell]:
    return multi_cells(
        bench,
        [_tagged(system) for system in region_systems()],
        bench.suite.orders[:1],
        scene_numbers(bench),
        bench.sizes.ablation.scene_images,
    )


def _tagged(system: MultiSystem) -> MultiSystem:
    """Apart from the main run's scenes, which have other numbers of pictures."""
    return replace(system, name=f"ablation {system.name}")


def _stem(name: str) -> str:
    return name.replace(" ", "-")
