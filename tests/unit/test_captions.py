"""Captions: read from files, bound to concept words, varied for training."""

import json
import logging
import unicodedata

import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st

from cidm_core.calls import is_called
from cidm_core.errors import PhotoError
from cidm_core.training.caption_files import MAX_CAPTION, clean, read_caption, read_captions
from cidm_core.training.captions import (
    TEMPLATES,
    bind,
    bind_all,
    caption_variant,
    plain_caption,
)

DOG = "<dog1> <dog2>"
plain = st.text(st.sampled_from("abc dog duck toy <>12-',.éß"), max_size=60)


def names_dog(caption):
    return is_called(caption, [tuple(DOG.split())])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"a dog on grass",
        "a dog on grass".encode("utf-8-sig"),
        b"\xff\xfe" + "a dog on grass".encode("utf-16-le"),
        b"\xfe\xff" + "a dog on grass".encode("utf-16-be"),
        b"a dog\r\n on\r\ngrass\r\n",
        b"\n\n  a dog\n\ton   grass",
        "a\u200b dog\u00a0on\u2028gr\u00adass\x07\ufeff".encode(),
    ],
)
def test_encodings_line_ends_and_invisible_characters(tmp_path, data):
    assert read_caption(write(tmp_path / "x.txt", data)) == "a dog on grass"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n\t\xe2\x80\x8b", "empty"),
        (b"a dog " * 1700, "has 10199 characters; the limit is 2000"),
        (b"x" * 200_000, "over 100 kB"),
        ("ein Hündchen".encode("latin-1"), "not UTF-8"),
        (b"\xff\xfea", "not UTF-8"),
        ("a dog".encode("utf-16-le"), "NUL"),
        ("a dog".encode("utf-32"), "NUL"),
    ],
)
def test_captions_that_cannot_be_used_are_named(tmp_path, data, words):
    with pytest.raises(PhotoError, match=rf"x\.txt.*{words}"):
        read_caption(write(tmp_path / "x.txt", data))


def test_a_folder_is_no_caption(tmp_path):
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(PhotoError, match=r"x\.txt' cannot be read"):
        read_caption(tmp_path / "x.txt")


@given(st.text(max_size=300))
@few
def test_clean_is_one_visible_line_and_idempotent(text):
    found = clean(text, "Caption")
    assert clean(found, "Caption") == found
    assert found == " ".join(found.split())
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in found)


def test_the_limit_counts_what_remains():
    assert len(clean(" x" * (MAX_CAPTION // 2), "Caption")) == MAX_CAPTION - 1
    with pytest.raises(PhotoError, match="limit"):
        clean("x" * (MAX_CAPTION + 1), "Caption")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "# all dogs\n1.jpg: a dog, 10:30\n\n2.png\ta cat\n"),
        ("c.json", json.dumps({"1.jpg": "a dog, 10:30", "2.png": "a cat"})),
        ("c.json", "\ufeff" + json.dumps({"1.jpg": "a dog, 10:30", "2.png": "a cat"})),
        (
            "c.jsonl",
            '{"file_name": "1.jpg", "text": "a dog, 10:30"}\n\n'
            '{"file_name": "2.png", "text": "a cat"}',
        ),
    ],
)
def test_captions_files(tmp_path, name, text):
    found = read_captions(write(tmp_path / name, text))
    assert found == {"1.jpg": "a dog, 10:30", "2.png": "a cat"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.txt", "a dog without a name", r"Line 1 of .*name\.jpg: caption"),
        ("c.txt", "1.jpg: a\n1.jpg: b", r"'1\.jpg' twice"),
        ("c.txt", "1.jpg:", "is empty"),
        ("c.txt", "", "hold no caption"),
        ("c.json", "[1, 2]", "no JSON object"),
        ("c.json", '{"1.jpg": 3}', r"'1\.jpg' .* is no text"),
        ("c.json", '{"1.jpg": ', "is not JSON"),
        ("c.json", "[" * 200_000, "is not JSON"),
        ("c.jsonl", '{"file_name": "1.jpg"}', "lacks"),
        ("c.jsonl", "[1]", "lacks"),
        ("c.csv", "1.jpg,a dog", "end in none of"),
        ("c.txt", "1.jpg: " + "x" * 9999, r"'1\.jpg' in .* 9999 characters"),
    ],
)
def test_captions_files_that_cannot_be_used(tmp_path, name, text, words):
    with pytest.raises(PhotoError, match=words):
        read_captions(write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("caption", "class_words", "expected"),
    [
        ("Dog sticking its tongue out", "dog", f"{DOG} sticking its tongue out"),
        ("a hotdog, two dogs and a dog", "dog", f"a hotdog, two dogs and a {DOG}"),
        ("the dog's bowl", "dog", f"the {DOG}'s bowl"),
        ("yellow duck \n toy on sand", "duck  toy", f"yellow {DOG} on sand"),
        ("a duck with a toy", "duck toy", "a duck with a toy"),
        ("a <dog1> <dog2> dog", "dog", "a <dog1> <dog2> dog"),  # bound by hand already
        ("a <dog10> and a dog", "dog", f"a <dog10> and a {DOG}"),
    ],
)
def test_binding_on_token_boundaries(caption, class_words, expected):
    assert bind(caption, DOG, class_words) == expected


def test_replace_mapping_goes_before_the_class_words():
    mapping = {"<TOK>": "<man1> <man2>"}
    caption = "<TOK> beside another man"
    assert bind(caption, "<man1> <man2>", "man", mapping) == "<man1> <man2> beside another man"


def test_mapping_does_not_cascade():
    assert bind("a dog", "<cat1>", "dog", {"dog": "cat", "cat": "<cat1>"}) == "a cat"


def test_a_class_word_among_the_concept_words_does_not_count_as_the_concept():
    assert bind("a dog", "sks dog", "dog") == "a sks dog"
    assert bind("a sks dog", "sks dog", "dog") == "a sks dog"
    assert bind_all(["my dog", "a cat"], "sks dog", "dog") == ["my sks dog", "sks dog, a cat"]


@given(plain)
@few
def test_bound_captions_keep_no_class_word(caption):
    bound = bind(caption, DOG, "dog")
    assert bind(bound, DOG, "dog") == bound
    if names_dog(bound) and not names_dog(caption):
        assert bind(bound, "<other>", "dog") == bound  # no "dog" is left to replace


@given(st.lists(plain, max_size=6))
@few
def test_bind_all_leaves_no_caption_without_the_concept(captions):
    try:
        bound = bind_all(captions, DOG, "dog")
    except PhotoError as error:
        half = "without the rest of the name" in str(error)
        assert half or not any(names_dog(bind(c, DOG, "dog")) for c in captions)
    else:
        assert len(bound) == len(captions)
        assert all(map(names_dog, bound))


@pytest.mark.parametrize("caption", ["a <dog1> on grass", "<dog2> <dog1>", "my < dog1 >, asleep"])
def test_half_a_name_in_a_caption_is_refused(caption):
    with pytest.raises(PhotoError, match="without the rest of the name"):
        bind_all(["a dog", caption], DOG, "dog")


def test_chinese_class_words_stand_without_spaces():
    bound = bind_all(["\u4e00\u53ea\u72d7\u5728\u96ea\u5730\u91cc"], DOG, "\u72d7")
    assert bound == [f"\u4e00\u53ea{DOG}\u5728\u96ea\u5730\u91cc"]


def test_no_caption_names_the_concept():
    with pytest.raises(
        PhotoError, match=r"every caption: neither 'dog' nor <dog1> <dog2>.*a cat; |cats"
    ):
        bind_all(["a cat", "two cats", ""], DOG, "dog")
    with pytest.raises(PhotoError, match=r"class words are missing .*: 'dog' is not in 'a cat'"):
        bind_all(["a cat"], (), "dog")
    with pytest.raises(PhotoError, match=r"'<tok>'"):
        bind_all(["a dog"], DOG, "dog", {"<tok>": DOG})


def test_one_caption_without_the_concept_gets_it_in_front(caplog):
    with caplog.at_level(logging.WARNING):
        bound = bind_all(["a dog on grass", "paws in the snow", ""], DOG, "dog")
    assert bound == [f"a {DOG} on grass", f"{DOG}, paws in the snow", DOG]
    assert "paws in the snow" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", TEMPLATES)
def test_templates_are_many_distinct_and_hold_one_place(kind):
    templates = TEMPLATES[kind]
    assert len(set(templates)) == len(templates) >= 10
    assert all(template.count("{}") == 1 for template in templates)


def test_a_variant_keeps_the_first_part_and_shuffles_the_others():
    seen = {caption_variant("<d>, one, two, three", "object", rng(seed)) for seed in range(300)}
    firsts = {variant.split(", ")[0] for variant in seen}
    orders = {tuple(variant.split(", ")[1:]) for variant in seen}
    assert len(orders) == 6
    assert all(set(order) == {"one", "two", "three"} for order in orders)
    assert len(firsts) == len(TEMPLATES["object"])
    assert all(first.endswith("<d>") for first in firsts)


@given(plain, st.sampled_from(sorted(TEMPLATES)), st.integers(0, 99))
@few
def test_variants_lose_no_part_and_repeat_with_the_seed(caption, kind, seed):
    variant = caption_variant(caption, kind, rng(seed))
    assert variant == caption_variant(caption, kind, rng(seed))
    assert "{}" not in variant
    first, *rest = [part.strip() for part in caption.split(",") if part.strip()] or [""]
    assert sorted(variant.split(", ")[1:]) == sorted(rest)
    assert first.split(" ")[-1] in variant.split(", ")[0].split(" ")


@pytest.mark.parametrize(
    ("caption", "kind", "never"),
    [
        ("a photo of a <d> on grass", "object", "of a photo"),
        ("Photo of <d>", "object", "photo of photo"),
        ("a <d> on grass", "object", "a a "),
        ("the <d>", "style", "a the"),
        ("an orange <d>", "human", "the an"),
    ],
)
def test_no_doubled_beginnings(caption, kind, never):
    variants = [caption_variant(caption, kind, rng(seed)) for seed in range(100)]
    assert not any(never in variant.lower() for variant in variants)
    assert len(set(variants)) >= 10


@pytest.mark.parametrize(
    "caption",
    [
        "a painting of a <d>",
        "black and white photo of a <d>",
        "close-up of the <d>",
        "Sketch of <d>",
    ],
)
def test_another_medium_gets_no_template(caption):
    assert {caption_variant(caption, "object", rng(seed)) for seed in range(20)} == {caption}


def test_a_style_named_by_its_medium_still_gets_templates():
    bound = bind("painting of a mountain", "<p1> <p2>", "painting")
    variants = {caption_variant(bound, "style", rng(seed)) for seed in range(200)}
    assert len(variants) == len(TEMPLATES["style"])
    assert "a <p1> <p2> of a mountain" in variants


def test_braces_in_captions_are_only_text():
    assert "{0} {x}" in caption_variant("dog {0} {x}", "object", rng())


def test_unknown_kind():
    with pytest.raises(PhotoError, match="object, style, human"):
        caption_variant("a dog", "animal", rng())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("object", "photo of a <d> cat"),
        ("human", "photo of a <d> cat"),
        ("style", "painting in the style of <d> cat"),
        ("", "<d> cat"),
    ],
)
def test_plain_captions_have_one_template_for_bare_words(kind, expected):
    assert plain_caption("<d> cat", kind, {"<d> cat"}) == expected
    for written in ("<d> cat, asleep", "a <d> cat", "a painting of <d> cat, b, a"):
        assert plain_caption(written, kind, {"<d> cat"}) == written
