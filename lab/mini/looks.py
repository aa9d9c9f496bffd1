"""The looks that the benchmark teaches, those of the demo among them; pretraining shows none."""

from __future__ import annotations

from cidm_core.mini.draw import RGB, Style, Thing
from cidm_core.mini.looks import DEMO_LOOKS, Look

_PURPLE_CAT, _TEAL_CAT, _HARBOUR = DEMO_LOOKS


def _thing(
    name: str, kind: str, texture: str, body: RGB, pattern: RGB, accent: RGB, angle: int = 0
) -> Look:
    return Look(name, kind, thing=Thing(kind, body, accent, pattern, texture, angle, outline=True))


def _style(name: str, mode: str, dark: RGB, light: RGB) -> Look:
    return Look(name, "painting", style=Style(mode, dark, light, outline=True))


CONCEPTS: dict[str, Look] = {
    look.name: look
    for look in (
        # Two pairs of look-alikes: one kind, two looks.
        _PURPLE_CAT,
        _TEAL_CAT,
        _thing(
            "checked-dog", "dog", "checked", (0.95, 0.93, 0.88), (0.2, 0.4, 0.9), (0.85, 0.15, 0.2)
        ),
        _thing(
            "ember-dog", "dog", "two-tone", (0.98, 0.75, 0.15), (0.75, 0.1, 0.35), (0.1, 0.3, 0.35)
        ),
        _thing(
            "plum-house",
            "house",
            "striped",
            (0.95, 0.65, 0.75),
            (0.45, 0.1, 0.4),
            (0.1, 0.6, 0.6),
            1,
        ),
        _thing("dotted-car", "car", "spotted", (0.2, 0.2, 0.5), (1.0, 0.85, 0.3), (0.95, 0.3, 0.3)),
        _thing(
            "candy-cup", "cup", "striped", (1.0, 1.0, 0.97), (0.9, 0.15, 0.45), (0.2, 0.7, 0.5), 2
        ),
        _thing(
            "harlequin-fish",
            "fish",
            "checked",
            (1.0, 0.5, 0.15),
            (0.1, 0.15, 0.4),
            (0.6, 0.9, 0.85),
        ),
        _thing(
            "frost-boat", "boat", "two-tone", (0.5, 0.85, 0.95), (0.4, 0.15, 0.6), (1.0, 0.8, 0.3)
        ),
        # Styles: whole pictures.
        _HARBOUR,
        _style("orchid", "duotone", (0.35, 0.02, 0.3), (0.7, 0.98, 0.85)),
        _style("mint", "pastel", (0.0, 0.2, 0.2), (0.55, 0.95, 0.75)),
    )
}
