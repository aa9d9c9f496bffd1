import re

import pytest
from examples import few
from hypothesis import example, given
from hypothesis import strategies as st

from cidm_core.errors import ConceptError
from cidm_core.words import (
    MAX_WORD_LENGTH,
    canonical,
    contains,
    new_words,
    overlap,
    parse_words,
    pattern,
    replace,
)

# Letters whose case or composition is odd: dotted I, long s, Kelvin, sigmas, caron on J, hangul.
ODD = "aA<>_-'. 1\u0130\u0131\u017f\u212a\u00b5\u03bc\u03c2\u03c3\u03a3J\u030c\u00e9\u1100\u1161"
odd_text = st.one_of(st.text(max_size=30), st.text(ODD, max_size=30))


def split(text, words):
    """The canonical text cut where the pattern finds words."""
    text, pieces, start = canonical(text), [], 0
    for match in pattern(words).finditer(text):
        pieces += [text[start : match.start()], match.group()]
        start = match.end()
    return [piece for piece in (*pieces, text[start:]) if piece]


def is_word(text):
    try:
        parse_words(text)
    except ConceptError:
        return False
    return True


odd_word = st.one_of(st.text(ODD, min_size=1, max_size=6), st.text(min_size=1, max_size=6)).filter(
    is_word
)


def test_words_are_split_checked_and_normalised():
    assert parse_words(" <Dog1>  <dog2>\n") == ("<dog1>", "<dog2>")
    assert parse_words(["<dog1> <dog2>", "cafe\u0301"]) == ("<dog1>", "<dog2>", "caf\u00e9")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "No concept words given"),
        ("  ", "No concept words given"),
        ([], "No concept words given"),
        ("<a1> <A1>", "repeat"),
        ("a" * (MAX_WORD_LENGTH + 1), f"has {MAX_WORD_LENGTH + 1} characters"),
        ("<>", "needs a letter or digit"),
        ("<a\u200b>", "no control characters"),
        ("<a\u202e>", "no control characters"),
        ("a\x00", "no control characters"),
    ],
)
def test_words_that_cannot_be_used(words, message):
    with pytest.raises(ConceptError, match=message):
        parse_words(words)


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("a <dog1> here", "<dog1>", True),
        ("A <DOG1>, here", "<dog1>", True),
        ("(<dog1>:1.2)", "<dog1>", True),
        ("<dog1><dog2>", "<dog2>", True),
        ("<dog1><dog2>", "<dog1>", True),
        ("two <rex>s, a<rex>, <rex>_toy", "<rex>", True),
        ("\u6211\u7684<rex>\u5728\u96ea\u5730\u91cc", "<rex>", True),
        ("\u6211\u7684zwx\u5728\u96ea\u5730\u91cc", "zwx", True),
        ("\u4e00\u53ea\u72d7\u5728\u96ea\u5730\u91cc", "\u72d7", True),
        ("a one-eyed cat", "one", False),
        ("a dog-shaped cookie", "dog", False),
        ("a sea-dog", "dog", False),
        ("a dog - asleep", "dog", True),
        ("the dog's bowl", "dog", True),
        ("a v10", "v1", False),
        ("av1", "v1", False),
        ("a <v10>", "<v1>", False),
        ("a <dog>", "dog", False),
        ("dog_house", "dog", False),
        ("dog>", "dog", False),
        ("hotdogs", "dog", False),
        ("d\u00f6g", "dog", False),
        ("dog\u0308", "dog", False),  # a mark that has no composed letter continues the word
        ("\u0915\u0941\u0924\u094d\u0924\u093e", "\u0915\u0941\u0924\u094d\u0924", False),
        ("cafe\u0301", "caf\u00e9", True),
        ("a.b", "axb", False),
        ("a word.*here", ".*a", False),
    ],
)
def test_a_word_stands_on_token_boundaries(text, word, found):
    assert contains(text, word) is found
    assert (canonical(word) in split(text, [word])) is found


def test_longer_words_win_over_shorter_ones():
    assert split("a v10 v1", ["v1", "v10"]) == ["a ", "v10", " ", "v1"]
    assert split("dog-1 dog", ["dog", "dog-1"]) == ["dog-1", " ", "dog"]


@pytest.mark.parametrize("words", [[], [""]])
def test_no_words_match_nothing(words):
    assert split("a dog", words) == ["a dog"]
    assert pattern(words).search("a dog") is None
    assert replace("a dog", dict.fromkeys(words, "x")) == "a dog"
    assert split("", ["dog"]) == []


def test_replacement_is_one_pass_and_takes_phrases():
    assert replace("A dog and a cat", {"dog": "cat", "cat": "dog"}) == "a cat and a dog"
    assert replace("v1 v10", {"v1": "x", "v10": "y"}) == "x y"
    assert replace("a stuffed dog toy", {"dog": "d", "Dog Toy": r"<t1>\1"}) == r"a stuffed <t1>\1"


@pytest.mark.parametrize(
    ("words", "taken", "found"),
    [
        (["<v1>"], ["<v10>", "<v>"], None),
        (["<v1>"], ["<v0>", "<V1>"], "<V1>"),
        (["dog"], ["dog-1"], None),
        (["dog"], ["dog.1"], "dog.1"),
        (["dog.1"], ["dog"], "dog"),
        (["dog"], ["<dog>"], None),
        (["a", "b"], ["c", "b"], "b"),
        ([], ["a"], None),
    ],
)
def test_overlap_counts_on_token_boundaries(words, taken, found):
    assert overlap(words, taken) == found


@example("J\u030c")
@given(odd_text)
@few
def test_normalising_twice_changes_nothing(text):
    assert canonical(canonical(text)) == canonical(text)


@given(odd_text, st.lists(odd_word, max_size=4))
@few
def test_pieces_join_to_the_text_and_words_stand_alone(text, words):
    pieces = split(text, words)
    assert "".join(pieces) == canonical(text)
    known = {canonical(word) for word in words}
    for piece in pieces:
        assert piece in known or not any(contains(piece, word) for word in words)


@given(odd_text, st.dictionaries(odd_word, st.just("@"), max_size=4))
@few
def test_replace_agrees_with_split(text, mapping):
    known = {canonical(word) for word in mapping}
    expected = "".join("@" if piece in known else piece for piece in split(text, mapping))
    assert replace(text, mapping) == expected


@given(odd_word)
@few
def test_a_word_between_spaces_is_always_found(word):
    assert contains(f"# {canonical(word)} #", word)
    assert split(f"# {canonical(word)} #", [word]) == ["# ", canonical(word), " #"]
    assert overlap([word], [canonical(word).upper().lower(), word]) is not None
    assert replace(f"# {canonical(word)} #", {word: "@"}) == "# @ #"


@pytest.mark.parametrize(
    ("word", "text"), [("dog\u017f", "dogs"), ("\u03c3", "\u03c2"), ("\u00b5", "\u03bc")]
)
def test_letters_that_are_equal_only_when_case_is_ignored_stay_apart(word, text):
    """Python's IGNORECASE takes s for long s; a match that is no known word must not occur."""
    assert not contains(text, word)
    assert replace(text, {word: "x"}) == text


def test_special_characters_of_patterns_are_plain():
    for word in (r"a.b", r"(a)", r"a|b", r"[a]", r"a\d", "a+", "^a$"):
        assert contains(f"x {word} y", word), word
        assert re.fullmatch(pattern([word]), word)


@pytest.mark.parametrize(
    ("word", "better"), [("<(cat)>", "<cat>"), ("<a><b:1>", "<a> <b1>"), ("cat(1)", "cat 1")]
)
def test_a_word_that_prompts_use_otherwise_is_answered_by_one_that_can_be_used(word, better):
    with pytest.raises(ConceptError, match=re.escape(f"Did you mean {better!r}?")):
        new_words(word)
    assert new_words(better)
