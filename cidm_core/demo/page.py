"""The contact sheet: a stranger must see at a glance that nothing was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ..pictures import (
    Panel,
    Row,
    contact_sheet,
    grid,
    layout_picture,
    losses_picture,
    weights_picture,
)
from ..regions import Region
from ..sampling.plan import Plan
from .studio import DemoConcept, Studio


def page(
    studio: Studio,
    learned: Sequence[DemoConcept],
    regions: Sequence[Region],
    pairs: Sequence[Image.Image],
    plan: Plan,
) -> Image.Image:
    """The contact sheet."""
    rows = [
        Row(each.name, _note(each, number), [each.photos, each.after_own, each.after_last])
        for number, each in enumerate(learned, start=1)
    ]
    side = studio.base.family.resolution_px
    names = [concept.name for concept in plan.concepts]
    prompts = [slot for slot in plan.slots if slot.prompt]
    heads = ["Weight of each concept, prompt by prompt", *[""] * len(prompts)]
    weights = [
        Panel(head, weights_picture(names, plan.layers, slot.weights.tolist(), slot.prompt, 528))
        for head, slot in zip(heads, prompts, strict=False)
    ]
    runs = {each.name: studio.losses(each.name) for each in learned}
    panels = [
        Panel("Two concepts, each in its drawn region", layout_picture(regions, side, side)),
        Panel("What came out there, four seeds", grid(pairs, 2, 224)),
        Panel("", losses_picture(runs, "How the loss fell", 580)),
        *weights,
    ]
    return contact_sheet(
        rows,
        (
            "Reference photos",
            "Right after its own training",
            f"After the last training ({learned[-1].name}), same seeds",
        ),
        panels,
        f"Three concepts learned one after another{'' if _change(learned) else '; none forgotten'}",
        _subtitle(studio, learned),
    )


def _subtitle(studio: Studio, learned: Sequence[DemoConcept]) -> str:
    change = _change(learned)
    kept = (
        "The two columns of drawn pictures are equal in every pixel."
        if change == 0
        else f"The two columns of drawn pictures differ by at most {change:.0f} of 255."
    )
    return (
        f"Drawn by {studio.base.name}, {studio.training.steps} steps per concept, seed "
        f"{studio.seed}. While one concept is learned, no photo of the others is at hand. {kept}"
    )


def _change(learned: Sequence[DemoConcept]) -> float:
    return max(each.change for each in learned)


def _note(each: DemoConcept, number: int) -> str:
    order = ("first", "second", "third")[number - 1]
    return f"{each.words}  learned {order}, in {each.seconds:.0f} s"
