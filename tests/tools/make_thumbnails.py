"""A workflow's thumbnail: `python tests/tools/make_thumbnails.py TITLE LEFT.png RIGHT.png`.

TITLE is a part of the workflow's; the pictures are two that a mini model drew with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
INK, SIDE, TOP = (26, 32, 44), 192, 56


def thumbnail(title: str, pictures: list[Path]) -> Image.Image:
    """The title over the pictures, each pixel of which becomes a square."""
    made = Image.new("RGB", (416, 264), "white")
    draw = ImageDraw.Draw(made)
    font = ImageFont.load_default(17)
    draw.text((17, 16), title, INK, font, stroke_width=0.4, stroke_fill=INK)
    for number, path in enumerate(pictures):
        with Image.open(path) as picture:
            large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        made.paste(large, (12 + number * 200, TOP))
    return made


def main(word: str, *pictures: str) -> None:
    (path,) = (each for each in FOLDER.glob("*.json") if word in each.stem)
    title = path.stem.removesuffix(".app").split(" ", 1)[1]
    made = thumbnail(title, [Path(each) for each in pictures])
    made.save(path.with_name(f"{path.stem}.jpg"), quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:4])
