"""mini-CIFC: the paper's ten tasks in miniature, on looks that mini-sd has never seen.

The order mirrors that of the CIDM paper: V1 dog, V2 duck toy, V3 cat, V4 backpack,
V5 teddy bear, V6 style, V7 another dog, V8 style, V9 another cat, V10 style. The two dogs and the
two cats share kind and class word and differ in colours and texture only. Words, sides, grounds
and companions are those that mini-sd's captions use (`mini.captions`).
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cidm_core.mini.draw import RGB, Background, WorldScene, draw
from cidm_core.mini.looks import Look, reference_scene
from cidm_core.training.data import Photo
from lab.mini.looks import CONCEPTS

from .mini_perfect import perfect_picture
from .mini_scenes import mini_scenes
from .suite import Suite, SuiteTask

# As in the paper five prompts each ask for a place, a style, company and a property. The company
# is of kinds that no task teaches, so a picture of it cannot pass for another concept.
THING_PROMPTS = (
    "a <TOK> on grass",
    "a <TOK> on the beach",
    "a <TOK> in the snow",
    "a <TOK> at night",
    "a <TOK> in the jungle",
    "a watercolor painting of a <TOK>",
    "a neon picture of a <TOK>",
    "a pencil sketch of a <TOK>",
    "a sepia photo of a <TOK>",
    "a poster of a <TOK>",
    "a <TOK> and a red ball",
    "a <TOK> next to a yellow flower",
    "a blue star on the left and a <TOK> on the right",
    "a <TOK> on the left and a green mushroom on the right",
    "a pink heart at the top and a <TOK> at the bottom",
    "a <TOK> on the left, green background",
    "a <TOK> on the right, orange background",
    "a small <TOK> at the top, white background",
    "a large <TOK> in the middle, blue background",
    "a photo of a <TOK>, gray background",
)
# A picture of the small world has one style, so none of these asks for a second one, nor for
# colours, which a style replaces.
STYLE_PROMPTS = (
    "a <TOK> of a house",
    "a <TOK> of a cat",
    "a <TOK> of a dog",
    "a <TOK> of a fish",
    "a <TOK> of a flower",
    "a <TOK> of a boat",
    "a <TOK> of a cup",
    "a <TOK> of a car",
    "a <TOK> of a star",
    "a <TOK> of a mushroom",
    "a <TOK> of a house in the snow",
    "a <TOK> of a boat in the sea",
    "a <TOK> of a flower on grass",
    "a <TOK> of a ball on the beach",
    "a <TOK> of a car at night",
    "a <TOK> of a cat on the left",
    "a <TOK> of a heart on the right",
    "a <TOK> of a large cup in the middle",
    "a <TOK> of a dog and a ball",
    "a <TOK> of a house on the left and a car on the right",
)
# Name, look, class words, number of reference pictures.
_TABLE = (
    ("V1-dog", "checked-dog", "dog", 5),
    ("V2-car", "dotted-car", "car", 4),
    ("V3-cat", "purple-cat", "cat", 5),
    ("V4-house", "plum-house", "house", 4),
    ("V5-fish", "harlequin-fish", "fish", 4),
    ("V6-painting", "harbour", "painting", 5),
    ("V7-dog", "ember-dog", "dog", 5),
    ("V8-drawing", "orchid", "drawing", 5),
    ("V9-cat", "teal-cat", "cat", 4),
    ("V10-painting", "mint", "painting", 5),
)
LOOKS = {name: look for name, look, *_ in _TABLE}
"""The look that each task teaches, by the task's name."""
ORDERS = (
    tuple(range(10)),  # the paper's
    (0, 6, 2, 8, 5, 7, 9, 1, 3, 4),  # look-alikes and styles side by side
    (8, 6, 9, 1, 5, 3, 7, 4, 0, 2),  # look-alikes far apart, the later one of each pair first
)


def mini_suite(seed: int = 0, *, masks: bool = False) -> Suite:
    """Ten tasks, three orders, and scenes of two to four concepts.

    Args:
        seed: Of the reference pictures.
        masks: Whether the photos of things say where these are.
    """
    given = [
        (CONCEPTS[look], name, f"<v{number}a> <v{number}b>", class_words, count)
        for number, (name, look, class_words, count) in enumerate(_TABLE, start=1)
    ]
    tasks = tuple(look_task(*each, seed, masks=masks) for each in given)
    return Suite("mini", tasks, ORDERS, mini_scenes(tasks), perfect=_perfect)


def _perfect(task: SuiteTask, prompt: str, rng: random.Random) -> Image.Image:
    return perfect_picture(CONCEPTS[LOOKS[task.name]], prompt, rng)


def look_task(
    look: Look,
    name: str,
    words: str,
    class_words: str,
    count: int,
    seed: int,
    *,
    masks: bool = False,
) -> SuiteTask:
    """A look of the small world as a task, with `count` reference pictures of 32 x 32 px."""
    rng = random.Random(f"{seed} {look.name}")
    photos: list[Photo] = []
    for _ in range(count):
        scene, caption = reference_scene(look, rng)
        mask = _mask(scene) if masks and look.style is None else None
        said = caption.replace(look.kind, class_words, 1)
        photos.append(Photo.from_image(draw(scene), said, mask))
    kind = "object" if look.style is None else "style"
    prompts = THING_PROMPTS if look.style is None else STYLE_PROMPTS
    return SuiteTask(name, kind, words, class_words, tuple(photos), prompts)


def _mask(scene: WorldScene) -> NDArray[np.float32]:
    """Where the scene's things are: what of white and black behind them does not come through."""
    white, black = (_over(scene, shade) for shade in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    return 1 - (white - black)


def _over(scene: WorldScene, shade: RGB) -> NDArray[np.float32]:
    bare = replace(scene, background=Background("plain", shade, shade))
    grey = np.asarray(draw(bare).convert("L"), dtype=np.float32)
    return np.divide(grey, np.float32(255), dtype=np.float32)
