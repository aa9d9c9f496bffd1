"""The captions of the small world, and the vocabulary they are read with."""

import random

from cidm_core.families import FAMILIES
from cidm_core.merging.texts import shipped_captions
from lab.mini.captions import caption, ordinary_captions
from lab.mini.held_out import random_scene
from lab.mini.tokenizer import _split, merges_for


def test_captions_follow_from_the_seed():
    first, second = random.Random(7), random.Random(7)
    for _ in range(20):
        assert caption(random_scene(first), first) == caption(random_scene(second), second)
    assert first.random() == second.random()


def test_captions_are_short_and_plain():
    rng = random.Random(2)
    texts = [caption(random_scene(rng), rng) for _ in range(500)]
    assert max(len(text.replace(",", " ,").split()) for text in texts) < 46
    assert all(text == text.lower() and text.isascii() for text in texts)


def test_later_merges_never_split_an_earlier_word():
    words = ["the", "other", "she", "shed", "heather"]
    rank = {pair: index for index, pair in enumerate(merges_for(words))}
    assert [_split(word, rank) for word in words] == [[f"{word}</w>"] for word in words]


def test_merges_of_mini_models_keep_captions_made_here():
    assert shipped_captions(FAMILIES["MINI"]) == ordinary_captions()
