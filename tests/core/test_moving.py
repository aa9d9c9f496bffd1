"""Concepts from one bank into another: conflicts, crashes, and what sharing leaves out."""

import base64
import io
import os
import shutil
from dataclasses import replace

import pytest
from bank_samples import OTHER_BASE, contents, die, fork, make_concept, same, wait
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.concept import Subject
from cidm_core.errors import BankError, FamilyError
from cidm_core.storage.moves import JOURNAL
from cidm_core.storage.tensor_file import read_metadata
from cidm_core.upkeep.moving import LEAVE_OUT, RENAME, REPLACE, Choice, move_concepts
from cidm_core.upkeep.sharing import without_traces
from cidm_core.upkeep.trash import restore, trash
from cidm_core.upkeep.versions import go_back, versions


@pytest.fixture
def bank(tmp_path):
    """A dog with a version, a cat and a cow, with pictures."""
    bank = Bank(tmp_path / "pets")
    bank.add(make_concept("dog", class_words="puppy"), Image.new("RGB", (8, 8), "green"))
    for name in ("cat", "cow"):
        bank.add(make_concept(name), Image.new("RGB", (8, 8), "blue"))
    bank.add(make_concept("dog"), Image.new("RGB", (8, 8), "red"), replaces=bank.entries()[0])
    return bank


@pytest.fixture
def into(tmp_path):
    return Bank(tmp_path / "house")


def always(what, **more):
    return lambda conflict: Choice(what, **more)


def test_copying_a_whole_bank_keeps_order_time_and_picture(bank, into):
    before = contents(bank.path)
    done = move_concepts(bank, (), into, copy=True)
    assert [each.in_words() for each in done] == [
        f"{name}: there, called by <{name}-1> <{name}-2>" for name in ("dog", "cat", "cow")
    ]
    assert contents(bank.path) == before
    assert list(into) == ["dog", "cat", "cow"]
    for old, new in zip(bank.entries(), into.entries(), strict=True):
        assert (old.created, old.facts, old.config) == (new.created, new.facts, new.config)
        assert same(bank[old.name], into[new.name])
        assert new.preview.read_bytes() == old.preview.read_bytes()
    assert versions(into, "dog") == ()
    assert trash(bank) == ()


def test_moving_takes_versions_along_and_can_be_undone(bank, into):
    (done,) = move_concepts(bank, ["<dog-1> <dog-2>"], into)
    assert list(bank) == ["cat", "cow"]
    assert [each.entry.class_words for each in versions(into, "dog")] == ["puppy"]
    with Image.open(versions(into, "dog")[0].entry.preview) as picture:
        assert picture.getpixel((0, 0)) == (0, 128, 0)
    assert go_back(into, "dog", 1).class_words == "puppy"
    assert restore(bank, done.number) == "dog"
    assert same(bank["dog"], make_concept("dog"))
    assert len(versions(bank, "dog")) == 1


def test_the_index_follows_that_of_the_other_bank(bank, into):
    for name in ("a", "b"):
        into.add(make_concept(name))
    move_concepts(bank, ["cow", "cat"], into)
    assert list(into) == ["a", "b", "cat", "cow"]


def test_all_conflicts_are_told_and_nothing_is_moved(bank, into):
    into.add(make_concept("DOG", words=("<x>",)))
    into.add(make_concept("kitten", words=("<cat-2>",)))
    before = contents(into.path), contents(bank.path)
    with pytest.raises(BankError, match=r"Nothing was moved: 2 of 3 concepts") as caught:
        move_concepts(bank, (), into)
    assert "- dog: The bank already has a concept 'DOG'" in str(caught.value)
    assert "- cat: The words '<cat-1> <cat-2>' overlap '<cat-2>' of concept 'kitten'" in str(
        caught.value
    )
    assert "cow" not in str(caught.value)
    assert (contents(into.path), contents(bank.path)) == before


def test_leaving_out(bank, into):
    into.add(make_concept("dog", words=("<x>",)))
    done = move_concepts(bank, (), into, always(LEAVE_OUT))
    assert next(each.in_words() for each in done) == "dog: left out"
    assert list(into) == ["dog", "cat", "cow"]
    assert into["dog"].words == ("<x>",)
    assert list(bank) == ["dog"]


def test_replacing_one_of_the_same_name_keeps_it_as_a_version(bank, into):
    into.add(make_concept("dog", words=("<x>",)))
    into.add(make_concept("z"))
    done = move_concepts(bank, ["dog"], into, always(REPLACE), copy=True)
    assert done[0].replaced == ("dog",)
    assert list(into) == ["dog", "z"]
    assert into["dog"].words == ("<dog-1>", "<dog-2>")
    assert [each.entry.words for each in versions(into, "dog")] == [("<x>",)]
    assert trash(into) == ()


def test_replacing_several_puts_others_into_the_trash(bank, into):
    into.add(make_concept("dog", words=("<x>",)))
    into.add(make_concept("a", words=("<dog-1>",)))
    into.add(make_concept("b", words=("<dog-2>",)))
    (done,) = move_concepts(bank, ["dog"], into, always(REPLACE))
    assert done.in_words().endswith("in the place of dog, a, b")
    assert list(into) == ["dog"]
    assert [each.name for each in trash(into)] == ["a", "b"]
    assert next(each.entry.words for each in versions(into, "dog")) == ("<x>",)
    assert [each.entry.class_words for each in versions(into, "dog")][1] == "puppy"


def test_two_that_replace_the_same_one(bank, into):
    into.add(make_concept("dog", words=("<cat-1>",)))
    move_concepts(bank, (), into, always(REPLACE))
    assert list(into) == ["dog", "cat", "cow"]
    assert len(versions(into, "dog")) == 2


def test_renaming_gives_free_names_and_words(bank, into):
    into.add(make_concept("dog", class_words="other"))
    into.add(make_concept("dog-2", words=("<dog-1-2>",)))
    into.add(make_concept("x", words=("<cat-1>",)))
    done = move_concepts(bank, (), into, always(RENAME), copy=True)
    told = {each.name: (each.called, each.phrase) for each in done}
    assert told == {
        "dog": ("dog-3", "<dog-1-3> <dog-2-3>"),
        "cat": ("cat", "<cat-1-2> <cat-2-2>"),
        "cow": ("cow", "<cow-1> <cow-2>"),
    }
    moved = into["dog-3"]
    assert all(moved.rows[key].equal(bank["dog"].rows[key]) for key in moved.rows)
    assert into.callers()["<cat-1-2>", "<cat-2-2>"] == "cat"


def test_free_names_are_free_of_those_that_come_too(bank, into):
    bank.add(make_concept("dog-2", words=("<dog-1-2>",)))
    into.add(make_concept("dog", words=("<dog-1>",)))
    done = move_concepts(bank, (), into, always(RENAME))
    assert [each.called for each in done] == ["dog-3", "cat", "cow", "dog-2"]
    assert done[0].phrase == "<dog-1-3> <dog-2-3>"


def test_own_names_and_words(bank, into):
    into.add(make_concept("dog", class_words="other"))
    choice = always(RENAME, name=" Rex ", words="<rex1>  <rex2>")
    (done,) = move_concepts(bank, ["dog"], into, choice)
    assert (done.called, done.phrase) == ("Rex", "<rex1> <rex2>")
    assert into["Rex"].words == ("<rex1>", "<rex2>")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"words": "<one>"}, "1 words were given; it takes as many as before, 2"),
        ({"words": "<a,b> <c>"}, "cannot be a concept word"),
        ({"words": "<a> <a>"}, "repeat"),
        ({"name": "z"}, "Nothing was moved. The bank already has a concept 'z'"),
        ({"name": "a\nb"}, "control"),
        ({"words": "<z-1> <q>"}, "Nothing was moved. The words"),
    ],
)
def test_names_and_words_that_cannot_be_are_told(bank, into, more, message):
    into.add(make_concept("dog", class_words="other"))
    into.add(make_concept("z"))
    before = contents(into.path)
    with pytest.raises(BankError, match=message):
        move_concepts(bank, ["dog"], into, always(RENAME, **more))
    assert contents(into.path) == before


def test_what_only_class_words_call_has_no_other_words(into, tmp_path):
    bank = Bank(tmp_path / "looks")
    for each, name in ((bank, "cat"), (into, "other")):
        concept = make_concept(name)
        subject = Subject((), "tabby cat")
        each.add(replace(concept, subjects=(subject,), rows={}))
    with pytest.raises(BankError, match="cannot be called by other words"):
        move_concepts(bank, (), into, always(RENAME))
    move_concepts(bank, (), into, always(REPLACE))
    assert list(into) == ["cat"]


def test_a_damaged_file_of_the_name_is_a_conflict(bank, into):
    into.path.mkdir()
    (into.path / "dog.safetensors").write_bytes(b"damaged")
    with pytest.raises(BankError, match=r"'dog.safetensors' is there and holds no sound concept"):
        move_concepts(bank, ["dog"], into)
    (done,) = move_concepts(bank, ["dog"], into, always(RENAME), copy=True)
    assert done.called == "dog-2"
    into.remove("dog-2")
    move_concepts(bank, ["dog"], into, always(REPLACE))
    assert list(into) == ["dog"]
    assert [each.files[0].read_bytes() for each in trash(into)][1] == b"damaged"


def test_names_of_one_file_are_a_conflict(bank, into):
    bank.add(make_concept("a/b"))
    into.add(make_concept("a:b", words=("<q>",)))
    with pytest.raises(BankError, match=r"Its file would be 'a_b.safetensors'.* of 'a:b'"):
        move_concepts(bank, ["a/b"], into)
    move_concepts(bank, ["a/b"], into, always(REPLACE), copy=True)
    assert list(into) == ["a/b"]
    restore_fails = trash(into)[0].number
    with pytest.raises(BankError, match="in the way"):
        restore(into, restore_fails)


def test_another_base_is_refused_before_anything_moves(bank, into):
    bank.add(make_concept("zebra", base=OTHER_BASE), allow_other_base=True)
    into.add(make_concept("x"))
    with pytest.raises(FamilyError, match="another SD15 model"):
        move_concepts(bank, (), into)
    assert list(into) == ["x"]
    move_concepts(bank, ["dog"], into)
    move_concepts(bank, (), Bank(into.path.parent / "new"))  # they were in one bank before


def test_what_cannot_be_is_told(bank, into, tmp_path):
    (tmp_path / "link").symlink_to(bank.path)
    with pytest.raises(BankError, match="is the bank itself"):
        move_concepts(bank, (), Bank(tmp_path / "link"))
    with pytest.raises(BankError, match=r"no concept 'cta'.*mean 'cat'"):
        move_concepts(bank, ["cta"], into)
    with pytest.raises(BankError, match="holds no concept that could be moved"):
        move_concepts(into, (), bank)
    assert not into.path.exists()


def test_a_damaged_concept_ends_it_and_those_before_are_told(bank, into):
    path = bank.path / "cat.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BankError, match=r"damaged.* Done before: dog: there, called by"):
        move_concepts(bank, (), into)
    assert list(into) == ["dog"]
    assert list(bank) == ["cat", "cow"]


def test_again_is_not_twice(bank, into):
    move_concepts(bank, (), into, copy=True)
    before = contents(into.path)
    move_concepts(bank, (), into, copy=True)  # nothing stands in the way of itself
    assert contents(into.path) == before
    assert list(bank) == ["dog", "cat", "cow"]
    move_concepts(bank, (), into)  # as after a move that was cut short
    assert contents(into.path) == before
    assert list(bank) == []
    into.add(make_concept("x"))


def test_a_renamed_copy_is_found_again(bank, into):
    into.add(make_concept("dog", class_words="other"))
    for _ in range(2):
        done = move_concepts(bank, (), into, always(RENAME), copy=True)
        assert [each.called for each in done] == ["dog-2", "cat", "cow"]
    assert len(into) == 4


CALLS = ("replace", "rename", "link", "unlink")


def test_a_crash_at_every_step_leaves_each_in_one_of_the_banks(bank, into, tmp_path):
    into.add(make_concept("dog", words=("<x>",), class_words="other"))
    into.add(make_concept("y", words=("<cat-1>",), class_words="third"))
    for step in range(1, 200, 2):
        place = tmp_path / str(step)
        shutil.copytree(bank.path, place / "a")
        shutil.copytree(into.path, place / "b")

        def work(place=place, step=step):
            count = 0
            for name in CALLS:
                real = getattr(os, name)

                def call(*given, real=real, **more):
                    nonlocal count
                    count += 1
                    if count == step:
                        die()
                    return real(*given, **more)

                setattr(os, name, call)
            move_concepts(Bank(place / "a"), ["dog", "cat"], Bank(place / "b"), always(REPLACE))

        status = wait(fork(work))
        one, two = Bank(place / "a"), Bank(place / "b")
        assert one.broken() == two.broken() == ()
        for name in ("dog", "cat"):
            assert name in one or same(two[name], make_concept(name))
        kept = [v.entry.class_words for v in versions(two, "dog")] if "dog" in two else []
        held = kept + [e.class_words for e in two.entries()]
        held += ["third"] if any(each.name == "y" for each in trash(two)) else []
        with two.writing(), one.writing():
            held += ["third"] if any(each.name == "y" for each in trash(two)) else []
        assert {"other", "third"} <= set(held)
        move_concepts(one, (), two, always(REPLACE))  # goes on where it ended
        assert set(two) == {"dog", "cat", "cow"}
        assert list(one) == []
        assert not (place / "b" / JOURNAL).exists()
        if status == 0:
            break
    assert status == 0
    assert step > 15


def test_a_write_that_fails_brings_back_what_it_would_replace(bank, into, monkeypatch):
    into.add(make_concept("a", words=("<dog-1>",)))
    from cidm_core.upkeep import moving

    def failing(*args):
        raise BankError("The disk is full.")

    monkeypatch.setattr(moving, "place_concept", failing)
    with pytest.raises(BankError, match=r"disk is full\. Done before: none"):
        move_concepts(bank, ["dog"], into, always(REPLACE))
    assert list(into) == ["a"]
    assert trash(into) == ()
    assert list(bank) == ["dog", "cat", "cow"]


PRIVATE = {
    "facts": {
        "base_name": "/home/ann/models/sd15.safetensors",
        "photos": 5,
        "seconds": 70.5,
        "taught": "abc",
        "imported": r"C:\Users\ann\delta.bin",
        "contrast": {"clip": "~/clip/model.safetensors", "list": ["/srv/x/y.txt", 3]},
        "note": 'made with "/opt/my tools/a.py" and \\\\nas\\share\\b.bin, see https://a.b/c',
        "losses": [[1, 0.5], [2, 0.25]],
    },
    "config": {"steps": 5, "preview_prompt": "my dog at home", "rate": 1e-4, "model": "a/b-v1-5"},
}


def test_sharing_leaves_out_what_tells_of_the_machine(into, tmp_path):
    bank = Bank(tmp_path / "home")
    bank.add(make_concept("dog", **PRIVATE), Image.effect_noise((600, 400), 90))
    move_concepts(bank, (), into, copy=True, share=True)
    entry = into.entries()[0]
    assert entry.facts == {
        "base_name": "sd15.safetensors",
        "photos": 5,
        "imported": "delta.bin",
        "contrast": {"clip": "model.safetensors", "list": ["y.txt", 3]},
        "note": 'made with "a.py" and b.bin, see https://a.b/c',
        "losses": [[1, 0.5], [2, 0.25]],
    }
    assert entry.config == {"steps": 5, "rate": 1e-4, "model": "a/b-v1-5"}
    data = entry.path.read_bytes()
    for trace in (b"ann", b"/srv", b"/home", b"at home", str(tmp_path).encode(), b"nas"):
        assert trace not in data
    kind, _, text = read_metadata(entry.path)[0]["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert len(text) <= 60_000
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        assert picture.size == (256, 171)
    assert same(into["dog"], bank["dog"])
    assert bank.entries()[0].facts["seconds"] == 70.5


def test_a_concept_without_a_picture_has_no_thumbnail(bank, into):
    bank.entries()[0].preview.unlink()
    move_concepts(bank, ["dog"], into, copy=True, share=True)
    assert "modelspec.thumbnail" not in read_metadata(into.entries()[0].path)[0]


def test_what_is_no_path_stays():
    texts = ["1/2", "and/or", "a <b>/<c>", "https://x.y/z", "SD 1.x", "12:30", "/", "w/o", "3 / 4"]
    concept = make_concept("dog", facts={"texts": texts})
    assert without_traces(concept).facts["texts"] == texts
