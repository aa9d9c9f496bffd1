"""A bank with a former version in a concept's place: what is drawn with, what is not touched."""

import pytest
import torch
from bank_samples import contents, make_concept, same
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.errors import BankError
from cidm_core.pictures.compared import Compared, compared_sheet
from cidm_core.sampling.strengths import at_strengths, own_strengths
from cidm_core.upkeep.changes import rename
from cidm_core.upkeep.listings import trash_listing, versions_listing
from cidm_core.upkeep.versions import remove_version, versions
from cidm_core.upkeep.views import at_version, versions_seen


@pytest.fixture
def bank(tmp_path):
    """A dog that had other words, and a cat."""
    bank = Bank(tmp_path / "pets")
    first = bank.add(make_concept("dog", words=("<old>",), class_words="old"))
    bank.add(make_concept("cat"))
    assert first.index == 0
    bank.add(make_concept("dog", words=("<new>",)), replaces=bank.entries()[0])
    return bank


def test_the_version_stands_in_the_concepts_place(bank):
    seen = at_version(bank, "dog", 1)
    assert list(seen) == ["dog", "cat"]
    assert seen["dog"].words == ("<old>",)
    assert seen["dog"].index == 0
    assert same(seen["cat"], bank["cat"])
    assert seen.callers() == {("<old>",): "dog", ("<cat-1>", "<cat-2>"): "cat"}
    assert seen.entries()[0].class_words == "old"
    assert bank["dog"].words == ("<new>",)
    assert versions_seen(seen) == {"dog": 1}
    assert versions_seen(bank) == versions_seen({}) == {}
    assert at_version(bank, "dog", 0) is bank


def test_it_has_the_present_name(bank):
    rename(bank, "dog", "rex")
    seen = at_version(bank, "rex", 1)
    assert [entry.name for entry in seen.entries()] == ["rex", "cat"]
    assert seen["rex"].name == "rex"


def test_views_of_both_kinds_go_together_in_any_order(bank):
    one = at_strengths(at_version(bank, "dog", 1), "dog=0.5")
    two = at_version(at_strengths(bank, "dog=0.5"), "dog", 1)
    three = at_strengths(two, "cat=2")
    for seen in (one, two, three):
        assert seen["dog"].words == ("<old>",)
        assert versions_seen(seen) == {"dog": 1}
        assert seen["dog"].strength == 0.5
    assert own_strengths(two) == {"dog": 0.5}
    assert own_strengths(three) == {"dog": 0.5, "cat": 2.0}
    assert three["cat"].strength == 2.0


def test_the_later_of_two_views_of_one_concept_counts(bank):
    bank.add(make_concept("dog", words=("<third>",)), replaces=bank.entries()[0])
    seen = at_version(at_version(bank, "dog", 1), "dog", 2)
    assert seen["dog"].words == ("<new>",)
    assert seen.entries()[0].words == ("<new>",)
    assert versions_seen(seen) == {"dog": 2}


def test_what_is_written_goes_to_the_folder(bank):
    seen = at_strengths(at_version(bank, "dog", 1), "dog=0.5")
    seen.add(make_concept("cow"))
    assert list(bank) == list(seen) == ["dog", "cat", "cow"]
    seen.add(make_concept("dog", words=("<newer>",)), replaces=bank.entries()[0])
    assert bank["dog"].words == ("<newer>",)
    assert seen["dog"].words == ("<old>",)
    assert len(versions(bank, "dog")) == 2
    seen.remove("dog")
    assert list(bank) == ["cat", "cow"]


def test_what_cannot_be_seen_is_told(bank):
    with pytest.raises(BankError, match=r"no version 7\. There are 1\."):
        at_version(bank, "dog", 7)
    bank.add(make_concept("taken", words=("<old>",)))
    with pytest.raises(BankError, match="overlap '<old>' of concept 'taken'"):
        at_version(bank, "dog", 1)
    bank.remove("taken")
    (bank.path / "dog.safetensors").write_bytes(b"damaged")
    with pytest.raises(BankError, match=r"'dog' is damaged, .* Go back to version 1 first"):
        at_version(bank, "dog", 1)


def test_a_version_removed_meanwhile_is_told(bank):
    seen = at_version(bank, "dog", 1)
    remove_version(bank, "dog", 1)
    with pytest.raises(BankError, match="has no version 1"):
        seen["dog"]
    assert same(seen["cat"], bank["cat"])


def test_listings(bank):
    rows = versions_listing(bank, "dog").splitlines()
    assert rows[0].split() == ["version", "learned", "words", "steps", "method", "MB"]
    assert [row.split()[0] for row in rows[1:]] == ["1", "now"]
    assert "<old>" in rows[1]
    assert trash_listing(bank) == "The trash of bank 'pets' is empty."
    bank.remove("cat")
    assert trash_listing(bank).splitlines()[1].split()[:3] == ["1", "cat", "concept"]
    (bank.path / ".versions" / "dog" / "1.kept").write_bytes(b"x")
    assert "Not usable: 1.kept" in versions_listing(bank, "dog")
    assert set(contents(bank.path)) == {"dog.safetensors"}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_sheet_has_room_for_all(count):
    drawn = [Compared(f"version {n}", "2026", Image.new("RGB", (32, 16))) for n in range(count)]
    sheet = compared_sheet("Versions of dog", "a dog " * 200, drawn)
    assert sheet.width == 48 + max(2, min(4, count)) * 338 - 18
    assert sheet.height > (2 if count > 4 else 1) * 160


def test_the_tensors_are_the_versions(bank):
    seen = at_version(bank, "dog", 1)["dog"]
    other = make_concept("dog", words=("<old>",), class_words="old")
    assert all(torch.equal(seen.rows[key], other.rows[key]) for key in other.rows)
