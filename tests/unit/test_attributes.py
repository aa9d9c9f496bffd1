"""Words of appearance in captions, and captions without them."""

import pytest

from cidm_core.inspection import attribute_words
from cidm_core.inspection.attributes import strip


def stripped(caption, class_words="dog", kind="object"):
    return strip(caption, [(class_words,)], kind).caption


@pytest.mark.parametrize(
    ("caption", "without"),
    [
        ("a brown dog on grass", "a dog on grass"),
        ("Brown dog", "Dog"),
        ("A light brown, fluffy dog", "A dog"),
        ("an orange dog", "a dog"),
        ("a black and white dog and a green lawn", "a dog and a green lawn"),
        ("a black-and-white dog", "a dog"),
        ("a cream-coloured dog", "a dog"),
        ("the very fluffy little dog", "the little dog"),
        ("a brown little dog", "a little dog"),
        ("a big, old, brown dog", "a big, old dog"),
        ("a red and small dog", "a small dog"),
        ("a very dark green dog", "a dog"),
        ("a cat and brown dog", "a cat and dog"),
        ("a brown dog, then a spotted dog", "a dog, then a dog"),
        ("BLACK AND WHITE DOG", "DOG"),
        ("a brown or white dog", "a dog"),
        ("a black/white dog", "a dog"),
        ("a big/brown/old dog", "a big/old dog"),
        ("a jet black dog and a half brown half white dog", "a dog and a dog"),
        ("an old, off-white, two-toned dog", "an old dog"),
        ("\u0130stanbul, a brown dog", "i\u0307stanbul, a dog"),  # a letter that grows
    ],
)
def test_what_describes_the_concept_goes(caption, without):
    assert stripped(caption) == without


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "dog",
        "a dog on a green lawn",
        "a black and white photo of a dog",
        "a photo in black and white, dog",
        "a dark dog",
        "a small dog",
        "a brown cat and a dog",
        "two brown and one dog",
        "a cat or dog, and/or dog",
        "indoors/dog, snow dog",
        "a (brown) dog",
        "The wall is blue. dog",
        "a brown dogs",
        "ein brauner Hund",
    ],
)
def test_all_else_stays_to_the_letter(caption):
    assert strip(caption, [("dog",)], "object") == (caption, ())


@pytest.mark.parametrize(
    ("caption", "class_words", "without"),
    [
        ("a brown owl", "owl", "an owl"),
        ("an ugly brown unicorn", "unicorn", "an ugly unicorn"),
        ("an orange unicorn", "unicorn", "a unicorn"),
        ("an olive umbrella", "umbrella", "an umbrella"),
        ("a grey hourglass", "hourglass", "an hourglass"),
        ("yellow rubber duck toy on a carpet", "duck toy", "duck toy on a carpet"),
        ("a Wooden Toy", "toy", "a Toy"),
    ],
)
def test_articles_and_case(caption, class_words, without):
    assert stripped(caption, class_words) == without


@pytest.mark.parametrize(
    ("caption", "class_words"),
    [
        ("an orange on a table", "orange"),
        ("an orange tree", "tree"),
        ("a red panda", "panda"),
        ("a golden retriever", "retriever"),
        ("a glass of wine", "wine"),
        ("a rubber duck", "rubber duck"),
    ],
)
def test_names_are_no_attributes(caption, class_words):
    assert stripped(caption, class_words) == caption


def test_concept_words_count_as_class_words():
    found = strip("a brown <dog1> <dog2> and a dog", [("<dog1>", "<dog2>"), ("dog",)], "object")
    assert found == ("a <dog1> <dog2> and a dog", ("brown",))


@pytest.mark.parametrize(
    ("kind", "caption", "without"),
    [
        ("style", "an oil painting of a red boat", "a painting of a red boat"),
        ("style", "a black and white painting", "a painting"),
        ("object", "an oil painting of a red boat", "an oil painting of a red boat"),
        ("human", "a dark-haired painting", "a painting"),
    ],
)
def test_kinds_differ_in_what_belongs_to_them(kind, caption, without):
    assert stripped(caption, "painting", kind) == without


def test_the_lists_are_in_order():
    lists = ("COLOURS", "MATERIALS", "PATTERNS", "TEXTURES", "MEDIA", "SHADES", "DEGREES", "OTHERS")
    held = {name: getattr(attribute_words, name) for name in lists}
    for name, words in held.items():
        assert all(word == word.lower() and word for word in words), name
    looks = held["COLOURS"] | held["MATERIALS"] | held["PATTERNS"] | held["TEXTURES"]
    assert not looks & (held["SHADES"] | held["DEGREES"] | held["OTHERS"])
