"""What `infuse` asks for, as it is written: quotes, spaces, damaged files, layers left out."""

import re
from dataclasses import replace

import pytest
from infused import infused, plan_of
from learning_samples import small_base

from cidm_core.bank import Bank
from cidm_core.errors import PromptError
from cidm_core.families import is_in_part
from cidm_core.sampling.infuse import Requests, asking_for
from cidm_core.sampling.parts import quoted


@pytest.fixture(scope="module")
def base():
    return small_base()


@pytest.fixture(scope="module")
def cat(base):
    return infused(base, "my_cat")


@pytest.mark.parametrize("name", ["cat, 2026", "a;b", "my=cat", 'my "cat"', "his=her, cat"])
def test_names_with_signs_stand_in_quotes(cat, base, name):
    bank = {"cat": replace(cat, name="cat"), name: replace(cat, name=name)}
    for asked in (quoted(name), f"cat={quoted(name)}", f'"cat" = {quoted(name)}, kitten=cat'):
        plan = plan_of(base, bank, "a cat, a kitten", infuse=asked)
        assert plan.concepts[0].name == name
        mine = asking_for(plan.config, plan.concepts[0])
        assert plan_of(base, bank, "a cat", infuse=mine.infuse).concepts[0].name == name
    plan = plan_of(base, bank, "a cat, sitting", infuse=f'"cat, sitting"={quoted(name)}')
    assert set(plan.slots[1].text.spans.triggers) == {"cat, sitting"}
    if '"' not in name:
        with pytest.raises(PromptError, match=f"Write {re.escape(quoted(name))}, in its quotes"):
            plan_of(base, {name: replace(cat, name=name)}, "a cat", infuse=name)


def test_nothing_is_looked_up_where_nothing_is_asked_for(base):
    class Unread(dict):
        def items(self):
            raise AssertionError("read")

    assert Requests.of(" ", Unread()).callers == {}


def test_a_damaged_file_is_told_of(tmp_path, base):
    (tmp_path / "my_cat.safetensors").write_bytes(b"cut off")
    with pytest.raises(PromptError, match=r"cannot be read: 'my_cat\.safetensors'"):
        plan_of(base, Bank(tmp_path), "a cat", infuse="my_cat")


def test_a_phrase_is_found_however_its_words_are_spaced(cat, base):
    bank = {"my_cat": cat}
    for prompt in ("a fat  cat", "a fat\ncat", "a (Fat   cat:1.1)"):
        spans = [
            plan_of(base, bank, text, infuse="fat cat=my_cat").slots[1].text.spans
            for text in (prompt, "a fat cat")
        ]
        assert spans[0] == spans[1]


def test_layers_without_residuals_are_told_of(base, caplog):
    low = infused(base, "low")
    kept = {path: update for path, update in low.updates.items() if is_in_part(path, "down")}
    bank = {"low": replace(low, updates=kept), "whole": replace(low, name="whole")}
    asked = {"infuse": "low, kitten=whole", "residual_layers": "up"}
    plan = plan_of(base, bank, "a cat, a kitten", **asked)
    assert len(plan.streams.plain) == 1
    assert [record.message for record in caplog.records] == [
        "'low' has no effect: it learned nothing in the layers that residual_layers 'up' leaves. "
        "Set residual_layers to 'all'."
    ]
