"""The shapes of the drawn world: every kind is a short list of layers in the square [-1, 1]²."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

_Point = tuple[float, float]


@dataclass(frozen=True)
class Layer:
    """One flat part of a thing.

    Attributes:
        role: who paints it: "body", "accent", "dark", "light" or "green".
        form: "ellipse" (two corners), "polygon" (corners) or "arc" (two corners of the circle).
        points: coordinates in [-1, 1], y pointing down.
    """

    role: str
    form: str
    points: tuple[_Point, ...]

    def mask(self, pixels: int) -> Image.Image:
        """Return the part as an "L" mask of `pixels` × `pixels`, 0 or 255."""
        image = Image.new("L", (pixels, pixels), 0)
        pen = ImageDraw.Draw(image)
        scaled = [((x + 1) / 2 * (pixels - 1), (y + 1) / 2 * (pixels - 1)) for x, y in self.points]
        if self.form == "ellipse":
            pen.ellipse([scaled[0], scaled[1]], fill=255)
        elif self.form == "arc":
            pen.arc([scaled[0], scaled[1]], -110, 110, fill=255, width=max(2, round(0.11 * pixels)))
        else:
            pen.polygon(scaled, fill=255)
        return image


def _ellipse(role: str, x0: float, y0: float, x1: float, y1: float) -> Layer:
    return Layer(role, "ellipse", ((x0, y0), (x1, y1)))


def _polygon(role: str, *points: _Point) -> Layer:
    return Layer(role, "polygon", points)


def _box(role: str, x0: float, y0: float, x1: float, y1: float) -> Layer:
    return _polygon(role, (x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _mirror(layer: Layer) -> Layer:
    """Return the layer reflected left to right."""
    points = tuple((-x, y) for x, y in layer.points)
    if layer.form != "polygon":
        (x0, y0), (x1, y1) = points
        points = ((x1, y0), (x0, y1))
    return Layer(layer.role, layer.form, points)


def _both(layer: Layer) -> list[Layer]:
    return [layer, _mirror(layer)]


def _star() -> Layer:
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    radii = [1.05 if i % 2 == 0 else 0.48 for i in range(10)]
    points = [(r * math.cos(a), r * math.sin(a) + 0.06) for r, a in zip(radii, angles, strict=True)]
    return _polygon("body", *points)


def _heart() -> Layer:
    turns = [2 * math.pi * i / 48 for i in range(48)]
    points = [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]
    return _polygon("body", *[(x, y - 0.08) for x, y in points])


def _petals() -> list[Layer]:
    centres = [(0.5 * math.sin(a), -0.36 - 0.5 * math.cos(a)) for a in _sixths()]
    return [_ellipse("body", x - 0.33, y - 0.33, x + 0.33, y + 0.33) for x, y in centres]


def _sixths() -> list[float]:
    return [2 * math.pi * i / 6 for i in range(6)]


SHAPES: dict[str, list[Layer]] = {
    "ball": [_ellipse("body", -1, -1, 1, 1), _ellipse("light", -0.6, -0.65, -0.2, -0.25)],
    "star": [_star()],
    "heart": [_heart(), _ellipse("light", -0.65, -0.65, -0.3, -0.3)],
    "cat": [
        *_both(_polygon("accent", (-0.92, 0.0), (-0.88, -1.0), (-0.05, -0.5))),
        _ellipse("body", -0.96, -0.62, 0.96, 0.98),
        *_both(_ellipse("dark", -0.58, -0.12, -0.22, 0.28)),
        _polygon("accent", (-0.2, 0.38), (0.2, 0.38), (0.0, 0.64)),
    ],
    "dog": [
        _ellipse("body", -0.8, -0.95, 0.8, 0.98),
        *_both(_ellipse("accent", -1.0, -0.8, -0.52, 0.6)),
        *_both(_ellipse("dark", -0.4, -0.4, -0.12, -0.08)),
        _ellipse("light", -0.36, 0.14, 0.36, 0.8),
        _ellipse("dark", -0.2, 0.14, 0.2, 0.44),
    ],
    "fish": [
        _polygon("accent", (0.3, 0.0), (1.0, -0.7), (0.8, 0.0), (1.0, 0.7)),
        _polygon("accent", (-0.4, -0.4), (0.15, -0.92), (0.3, -0.3)),
        _ellipse("body", -1, -0.62, 0.6, 0.62),
        _ellipse("light", -0.76, -0.36, -0.34, 0.06),
        _ellipse("dark", -0.68, -0.26, -0.44, -0.02),
    ],
    "house": [
        _box("body", -0.78, -0.15, 0.78, 0.98),
        _polygon("accent", (-1, -0.1), (0, -1), (1, -0.1)),
        _box("dark", -0.5, 0.3, -0.05, 0.98),
        _box("light", 0.2, 0.2, 0.58, 0.58),
    ],
    "flower": [
        _box("green", -0.1, 0.1, 0.1, 1.0),
        _ellipse("green", 0.02, 0.5, 0.62, 0.86),
        *_petals(),
        _ellipse("accent", -0.3, -0.66, 0.3, -0.06),
    ],
    "mushroom": [
        _polygon("light", (-0.26, 0.0), (0.26, 0.0), (0.4, 0.98), (-0.4, 0.98)),
        _polygon(
            "body",
            *[
                (math.cos(t), 0.2 - 1.15 * math.sin(t))
                for t in (math.pi * i / 24 for i in range(25))
            ],
        ),
        _ellipse("accent", -0.62, -0.4, -0.24, -0.02),
        _ellipse("accent", -0.16, -0.78, 0.24, -0.4),
        _ellipse("accent", 0.3, -0.36, 0.66, -0.02),
    ],
    "cup": [
        Layer("accent", "arc", ((0.15, -0.4), (0.98, 0.5))),
        _polygon("body", (-0.95, -0.65), (0.55, -0.65), (0.42, 0.95), (-0.82, 0.95)),
        _ellipse("accent", -0.95, -0.9, 0.55, -0.4),
        _ellipse("dark", -0.8, -0.82, 0.4, -0.5),
    ],
    "boat": [
        _box("dark", -0.07, -1.0, 0.07, 0.2),
        _polygon("accent", (0.12, -0.95), (0.12, 0.05), (0.85, 0.05)),
        _polygon("light", (-0.12, -0.75), (-0.12, 0.05), (-0.75, 0.05)),
        _polygon("body", (-1, 0.12), (1, 0.12), (0.62, 0.92), (-0.62, 0.92)),
    ],
    "car": [
        _polygon("body", (-0.66, -0.05), (-0.42, -0.7), (0.36, -0.7), (0.68, -0.05)),
        _polygon("light", (-0.46, -0.08), (-0.32, -0.52), (0.28, -0.52), (0.46, -0.08)),
        _polygon("body", (-1, -0.08), (0.9, -0.08), (1, 0.15), (1, 0.5), (-1, 0.5)),
        *_both(_ellipse("dark", -0.78, 0.22, -0.22, 0.78)),
        *_both(_ellipse("accent", -0.62, 0.38, -0.38, 0.62)),
    ],
}
THING_KINDS: tuple[str, ...] = tuple(SHAPES)
