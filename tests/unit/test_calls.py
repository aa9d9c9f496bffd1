"""What calls a concept: all of its words in order; what only looks like them."""

import pytest

from cidm_core.calls import find_calls, is_called, stray_tags

DOG, REX, BEAR, SKS = ("<dog1>", "<dog2>"), ("<rex>",), ("teddy bear",), ("sks", "dog")
NAMES = (DOG, REX, BEAR, SKS)
WORDS = {word for name in NAMES for word in name}


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("a <dog1> <dog2> in snow", [DOG]),
        ("A <DOG1>  <Dog2>, asleep", [DOG]),
        ("(<dog1> <dog2>:1.2)", [DOG]),
        ("a (<dog1>:1.2) (<dog2>:0.8)", [DOG]),
        ("<dog1><dog2>", [DOG]),
        ("<dog2> <dog1>", []),
        ("a <dog1> and a <dog2>", []),
        ("a <dog1>", []),
        ("two <rex>s and <rex>_toy beside a<rex>", [REX] * 3),
        ("\u6211\u7684<rex>\u5728\u96ea\u5730\u91cc", [REX]),
        ("a Teddy Bear", [BEAR]),
        ("teddy bears", []),
        ("a sks dog and another dog", [SKS]),
        ("a dog on grass", []),
        ("sks cat", []),
        ("a sks dog-shaped cookie", []),
        ("<rex>, <dog1> <dog2>, teddy bear", [REX, DOG, BEAR]),
    ],
)
def test_a_name_calls_with_all_of_its_words_in_order(text, called):
    found = find_calls(text, NAMES)
    assert [call.name for call in found] == called
    for call in found:
        assert tuple(text.lower()[slice(*span)] for span in call.at) == call.name
    assert is_called(text, NAMES) is bool(called)


def test_the_longer_of_two_names_goes_first():
    names = [("fox",), ("fox", "one"), ("one",)]
    assert [call.name for call in find_calls("a fox one and one fox", names)] == [
        ("fox", "one"),
        ("one",),
        ("fox",),
    ]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("a <dog1> <dog2> and a <rex>", []),
        ("a <dog1> alone", ["<dog1>"]),
        ("a < rex > here", ["<rex>"]),
        ("a <rex here", ["<rex>"]),
        ("a rex> here", ["<rex>"]),
        ("a \uff1crex\uff1e here", ["<rex>"]),
        ("a <rexx>", ["<rexx>"]),
        ("<lora:rex:0.8> and <hypernet:x:1>", []),
        ("i <3 you, a -> b, 5 < 6, >_<, <>", []),
    ],
)
def test_what_looks_like_a_word_and_is_none(text, tags):
    found = stray_tags(text, find_calls(text, NAMES), WORDS)
    assert found == tags
