"""How much is drawn and trained: the quick run, the full run on mini-sd, the paper's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from .tasks.suite import Suite


@dataclass(frozen=True)
class Long:
    """The long run: many concepts in one bank.

    Attributes:
        concepts: How many are learned; 0 leaves the long run out.
        banks: Bank sizes at which concepts are drawn again.
        probes: At most this many concepts are drawn at each size, evenly spread.
        prompts: Per concept.
        images: Per prompt.
    """

    concepts: int = 40
    banks: tuple[int, ...] = (1, 5, 10, 20, 40)
    probes: int = 10
    prompts: int = 5
    images: int = 4


@dataclass(frozen=True)
class Ablation:
    """The ablations: few tasks, but two pairs of look-alikes and a style among them.

    Attributes:
        tasks: Indices of the suite's tasks, in learning order.
        prompts: Per concept.
        images: Per prompt.
        scenes: Scenes of several concepts for the variants of regions.
        scene_images: Per scene.
    """

    tasks: tuple[int, ...] = (0, 2, 5, 6, 8)
    prompts: int = 8
    images: int = 3
    scenes: int = 8
    scene_images: int = 4


def _curves() -> Mapping[str, tuple[float, ...]]:
    # Weaker where concepts are at their full strength, stronger where others take a share.
    return {"ours": (0.5, 0.7, 0.85), "released": (1.5, 2.0)}


@dataclass(frozen=True)
class Sizes:
    """All numbers of one run.

    Attributes:
        name: "quick", "full", "paper".
        tasks: Indices of the suite's tasks that take part; None: all.
        orders: At most this many learning orders.
        prompts: At most this many per concept, evenly spread over the task's list.
        images: Per prompt after the last task.
        own_images: Per prompt right after a concept's own training.
        row_images: Per prompt in between (and what the forgetting matrix compares); 0: no rows.
        scenes: At most this many scenes of several concepts.
        scene_images: Per scene.
        training: Overrides of the family's recipe, for all systems alike.
        sampling: Overrides of the family's sampling, for all systems alike.
        at_once: Pictures drawn in one call.
        parts: What is run unless the caller chooses: some of main, multi, long, ablations.
        systems: Which systems are compared unless the caller chooses; none: all.
        strengths: At which further strengths systems are drawn, for curves of IA against TA.
        long: The long run.
        ablation: The ablations.
    """

    name: str
    tasks: tuple[int, ...] | None = None
    orders: int = 3
    prompts: int = 20
    images: int = 10
    own_images: int = 3
    row_images: int = 1
    scenes: int = 30
    scene_images: int = 5
    training: Mapping[str, object] = field(default_factory=dict[str, object])
    sampling: Mapping[str, object] = field(default_factory=dict[str, object])
    at_once: int = 40
    parts: tuple[str, ...] = ("main", "multi", "long", "ablations")
    systems: tuple[str, ...] = ()
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=_curves)
    long: Long = field(default_factory=Long)
    ablation: Ablation = field(default_factory=Ablation)

    def to_dict(self) -> dict[str, object]:
        """What decides the numbers; which parts, systems and strengths are run does not."""
        values, chosen = asdict(self), ("parts", "systems", "strengths")
        return {key: values[key] for key in values if key not in chosen}


# Sampling steps: mini-sd draws 300 held-out captions as well with 10 steps as with 30
# (`python -m lab.mini.evaluate --n 200 --steps N`: one object right in 95.5 % at 8 and 10
# steps, 95.3 % at 25), and time goes with the steps.
# Training steps: half of mini-sd's recipe; the longest part of the run by far.
FULL_RUN = Sizes(
    "full",
    training={"steps": 250, "save_every": 0},
    sampling={"steps": 10},
)
QUICK_RUN = Sizes(
    "quick",
    tasks=(0, 2, 5, 6, 8),  # two pairs of look-alikes and a style
    orders=1,
    prompts=4,
    images=2,
    own_images=2,
    row_images=1,
    scenes=4,
    scene_images=2,
    training={"steps": 120, "save_every": 0},
    sampling={"steps": 8},
    parts=("main", "multi"),
    # The others add a learner each, and LwF and LoRA-Composite cost twice as much and more.
    systems=("oracle", "sequential", "c_lora", "lora_merge", "released", "ours"),
    strengths={},
    long=Long(concepts=0),
    ablation=Ablation(tasks=(0, 3), prompts=4, images=1, scenes=2, scene_images=2),
)
# The paper's: 20 prompts x 50 pictures, one order, DPM-Solver++ with 50 steps; everything that
# decides quality is the family's recipe.
PAPER_PROTOCOL = Sizes(
    "paper",
    orders=1,
    images=50,
    own_images=5,
    scene_images=20,
    sampling={"steps": 50, "guidance_scale": 7.5, "scheduler": "dpmpp_2m"},
    at_once=8,
    strengths={},
    long=Long(concepts=0),
    ablation=Ablation(tasks=(0, 2, 5, 6, 8), images=4),
)


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` indices of a list of `count`, evenly spread, the first one always among them."""
    wanted = min(count, wanted)
    return tuple(k * count // wanted for k in range(wanted)) if wanted else ()


def restricted(suite: Suite, sizes: Sizes) -> Suite:
    """The part of a suite that takes part: fewer tasks, orders and scenes."""
    everything = range(len(suite.tasks))
    kept = [k for k in (sizes.tasks or everything) if k in everything]
    tasks = tuple(suite.tasks[k] for k in kept)
    orders = [tuple(kept.index(k) for k in order if k in kept) for order in suite.orders]
    names = {task.name for task in tasks}
    scenes = [scene for scene in suite.scenes if {part.task for part in scene.parts} <= names]
    chosen = tuple(scenes[k] for k in spread(len(scenes), sizes.scenes))
    different = tuple(dict.fromkeys(orders))[: sizes.orders]
    return replace(suite, tasks=tasks, orders=different, scenes=chosen)
