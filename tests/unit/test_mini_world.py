"""The drawn world: deterministic, readable, and clear of what is kept for evaluation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cidm_core.mini.draw import STYLES, TEXTURES, Background, Placed, Style, Thing, WorldScene, draw
from cidm_core.mini.looks import DEMO_LOOKS, example_photos, reference_scene
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import COLORS, any_scene
from lab.mini.looks import CONCEPTS


def _pixels(scene: WorldScene, size: int = 32) -> np.ndarray:
    return np.asarray(draw(scene, size), dtype=np.int16)


def _single(thing: Thing, style: Style | None = None) -> WorldScene:
    sky = (0.8, 0.85, 0.9)
    return WorldScene(
        (Placed(thing, 0.5, 0.5, 0.45),), Background("plain", sky, sky), style or Style()
    )


def test_scene_and_picture_follow_from_the_seed() -> None:
    first, second = random.Random(7), random.Random(7)
    for _ in range(20):
        a, b = any_scene(first), any_scene(second)
        assert a == b
        assert np.array_equal(_pixels(a), _pixels(b))


def test_a_picture_can_be_drawn_at_any_size() -> None:
    scene = any_scene(random.Random(5))
    large = draw(scene, 128)
    assert large.size == (128, 128)
    reduced = np.asarray(large.resize((32, 32)), dtype=np.int16)
    assert np.abs(reduced - _pixels(scene)).mean() < 12


def test_kinds_differ_even_when_small() -> None:
    red, white = COLORS["red"], COLORS["white"]
    drawn = [_pixels(_single(Thing(kind, red, white, white))) for kind in THING_KINDS]
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            assert np.abs(a - b).mean() > 2.0


@pytest.mark.parametrize("texture", TEXTURES[1:])
def test_each_texture_changes_the_body(texture: str) -> None:
    plain = Thing("ball", COLORS["red"], COLORS["white"], COLORS["blue"])
    other = Thing("ball", COLORS["red"], COLORS["white"], COLORS["blue"], texture)
    assert np.abs(_pixels(_single(plain)) - _pixels(_single(other))).mean() > 2.0


@pytest.mark.parametrize("mode", STYLES[1:])
def test_each_style_changes_the_whole_picture(mode: str) -> None:
    thing = Thing("cat", COLORS["red"], COLORS["white"], COLORS["blue"])
    flat, styled = _single(thing), _single(thing, Style(mode, (0.1, 0.1, 0.4), (1.0, 0.8, 0.4)))
    assert np.abs(_pixels(flat) - _pixels(styled)).mean() > 8.0


@pytest.mark.parametrize("name", CONCEPTS)
def test_reference_pictures_of_a_concept_vary_and_use_its_class_word(name: str) -> None:
    look, rng = CONCEPTS[name], random.Random(1)
    drawn = [reference_scene(look, rng) for _ in range(6)]
    assert len({picture.tobytes() for picture in (_pixels(scene) for scene, _ in drawn)}) == 6
    for _, text in drawn:
        assert look.kind in text.split()


def test_the_demo_teaches_two_look_alikes_and_a_style() -> None:
    first, second, style = DEMO_LOOKS
    assert first.kind == second.kind
    assert first.thing != second.thing
    assert style.style is not None


def test_masks_of_example_photos_are_white_on_the_cat_and_black_around_it() -> None:
    for look in DEMO_LOOKS[:2]:
        for photo, caption, mask in example_photos(look):
            assert caption.startswith("a cat ")
            assert mask.shape == photo.size[::-1]
            assert 0.1 < mask.mean() < 0.6
            assert ((mask == 0) | (mask > 0.99)).mean() > 0.85  # the rest is the outline
            assert not mask[0].any()
