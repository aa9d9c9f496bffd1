"""What the embedded models' training never shows."""

import random

import pytest

from cidm_core.mini.common_things import things
from cidm_core.mini.draw import Background, Placed, WorldScene
from cidm_core.mini.looks import reference_scene
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import COLORS, any_scene
from lab.mini.held_out import (
    HELD_OUT_LOOKS,
    HELD_OUT_PAIRS,
    is_held_out,
    random_scene,
    resembles_look,
)
from lab.mini.looks import CONCEPTS


def test_training_scenes_avoid_held_out_combinations_and_concepts():
    rng = random.Random(11)
    for _ in range(3000):
        scene = random_scene(rng)
        assert not is_held_out(scene)
        assert not resembles_look(scene)


def test_held_out_combinations_exist_and_are_recognised():
    assert len(HELD_OUT_LOOKS) == round(0.1 * len(COLORS) * len(THING_KINDS))
    assert HELD_OUT_PAIRS
    rng = random.Random(3)
    assert any(is_held_out(any_scene(rng)) for _ in range(200))


@pytest.mark.parametrize("name", CONCEPTS)
def test_reference_pictures_of_a_concept_are_recognised(name):
    rng = random.Random(1)
    assert all(resembles_look(reference_scene(CONCEPTS[name], rng)[0]) for _ in range(6))


def test_common_things_of_composites_are_ones_that_training_showed():
    white = Background("plain", (1, 1, 1), (1, 1, 1))
    for thing in things():
        scene = WorldScene((Placed(thing, 0.5, 0.5, 0.8),), white)
        assert not is_held_out(scene)
        assert not resembles_look(scene)
