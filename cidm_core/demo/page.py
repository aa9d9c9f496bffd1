"""The contact sheet: a stranger must see at a glance that nothing was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ..pictures.layout import layout_picture
from ..pictures.losses import losses_picture
from ..pictures.sheets import Row, beside, contact_sheet, grid, stack
from ..pictures.weights import weights_picture
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
        Row(
            each.name,
            f"{each.words}  learned {order}, in {each.seconds:.0f} s",
            [each.photos, each.after_own, each.after_last],
        )
        for order, each in zip(("first", "second", "third"), learned, strict=True)
    ]
    side = studio.base.family.resolution_px
    names = [concept.name for concept in plan.concepts]
    runs = {each.name: studio.losses(each.name) for each in learned}
    results = [
        ("Two concepts, each in its drawn region", layout_picture(regions, side, side)),
        ("What came out there, four seeds", grid(pairs, 2, 224)),
        ("", losses_picture(runs, "How the loss fell", 580)),
    ]
    weights = [
        weights_picture(names, plan.layers, slot.weights.tolist(), slot.prompt, 528)
        for slot in plan.slots
        if slot.prompt
    ]
    change = max(each.change for each in learned)
    kept = f"differ by at most {change:.0f} of 255" if change else "are equal in every pixel"
    sheet = contact_sheet(
        rows,
        (
            "Reference photos",
            "Right after its own training",
            f"After the last training ({learned[-1].name}), same seeds",
        ),
        f"Three concepts learned one after another{'' if change else '; none forgotten'}",
        f"Drawn by {studio.base.name}, {studio.training.steps} steps per concept, seed "
        f"{studio.seed}. While one concept is learned, no photo of the others is at hand. The two "
        f"columns of drawn pictures {kept}.",
    )
    shown = [("Weight of each concept", picture) for picture in weights]
    return stack([sheet, beside(results), beside(shown)])
