"""Infusion in ComfyUI: two streams among its own nodes; the script says what each figure is.

That both hosts draw the same: test_parity.py.
"""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "streams.py"
CLEAR = 0.05  # a difference nobody would call rounding
ROUNDING = 1e-3  # rows in another grouping, latents of size 5


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


def test_plain_words_call_it_only_where_it_is_asked_for(found):
    assert found["not asked for"] == 0.0
    assert found["effect"] > CLEAR


@pytest.mark.parametrize(
    ("drawn", "rows", "conditionings"),
    [("one", 3, 3), ("another prompt", 2, 2), ("two pictures", 6, 3)],
)
def test_a_guided_step_has_three_rows_in_one_call(found, drawn, rows, conditionings):
    """Other packs find as many rows of each conditioning as there are pictures."""
    assert found[f"rows of {drawn}"] == [[rows, conditionings, conditionings]]
    assert found[f"calls of {drawn}"] == 1.0


def test_shares_of_the_steps_and_strength(found):
    assert found["one stream"]["rows"] == [2, 2]
    assert found["a share"]["rows"] == [3, 2]
    assert found["residual for a share"]["rows"] == [3, 2]
    assert found["no strength"]["rows"] == [2, 2]
    assert found["no strength"]["effect"] == 0.0
    for way in ("one stream", "a share", "residual for a share"):
        assert found[way]["effect"] > CLEAR


def test_what_a_picture_should_not_show_is_never_infused(found):
    """The negative text counts as text only; parity has its figures."""
    assert found["negative"] > CLEAR
    assert found["batch"] < ROUNDING


def test_beside_other_concepts_and_from_a_file(found):
    assert found["beside"] > CLEAR
    assert found["saved"] == 0.0
    assert found["pickled"] == 0.0


def test_stock_nodes_and_patches_of_other_packs_go_on_working(found):
    assert found["patched"] == 0.0
    assert found["seen by patches"] == [[3, 3, 3]]
    assert found["masked"] < ROUNDING
    assert found["controlnet"]["effect"] > CLEAR
    assert found["controlnet"]["silent"] < ROUNDING
    assert found["left behind"] == []


def test_it_acts_where_the_phrase_stands_and_not_within_longer_words(found):
    at = {name: places.get("white cat", []) for name, places in found["places"].items()}
    pieces = len(at["one"])
    assert at["within a longer word"] == at["spaced"] == at["one"]
    assert at["twice"][:pieces] == at["one"]
    assert len(at["twice"]) == 2 * pieces
    for name in ("behind one", "beside a word"):
        assert len(at[name]) == pieces
        assert at[name][0] > at["one"][-1]


def test_what_cannot_be_asked_for_is_said(found):
    assert any(
        "where 'white cat' stands, and that is not in any prompt" in t for t in found["unsaid"]
    )
    assert "Do you mean 'infused'?" in found["unknown"]
    assert "'cat' would call two concepts" in found["twice"]
    assert "'c1' cannot be asked for by infuse" in found["weights"]
