"""Versions, trash, other names and pictures: what is replaced or removed comes back as it was."""

import os
import shutil

import numpy as np
import pytest
from bank_samples import OTHER_BASE, contents, flip, make_concept, same
from PIL import Image

from cidm_core.bank import Bank, MissingConceptError
from cidm_core.catalogue import described
from cidm_core.errors import BankError, FamilyError
from cidm_core.storage.kept import versions_folder
from cidm_core.storage.moves import JOURNAL
from cidm_core.upkeep.changes import rename, set_preview
from cidm_core.upkeep.trash import empty_trash, restore, trash
from cidm_core.upkeep.versions import (
    broken_versions,
    go_back,
    read_version,
    remove_version,
    versions,
)


@pytest.fixture
def bank(tmp_path):
    """A dog that was replaced twice, with pictures, and a cat."""
    bank = Bank(tmp_path / "pets")
    for turn, colour in enumerate(("red", "green", "blue")):
        replace_dog(bank, f"dog {turn}", colour)
        if not turn:
            bank.add(make_concept("cat"))
    return bank


def replace_dog(bank, class_words, colour=None, **rest):
    old = next((entry for entry in bank.entries() if entry.name == "dog"), None)
    picture = colour and Image.new("RGB", (8, 8), colour)
    return bank.add(make_concept("dog", class_words=class_words, **rest), picture, replaces=old)


def colour_of(path):
    with Image.open(path) as picture:
        return picture.getpixel((0, 0))


RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def seen(bank, name="dog"):
    return [(each.number, each.entry.class_words) for each in versions(bank, name)]


def test_replacing_keeps_file_and_picture(bank):
    assert seen(bank) == [(1, "dog 0"), (2, "dog 1")]
    assert [colour_of(each.entry.preview) for each in versions(bank, "dog")] == [RED, GREEN]
    assert colour_of(bank.entries()[0].preview) == BLUE
    assert same(read_version(bank, "dog", 1), make_concept("dog", class_words="dog 0"))
    assert versions(bank, "cat") == ()
    assert list(bank) == ["dog", "cat"]
    assert bank.broken() == ()
    assert set(contents(bank.path)) == {"dog.safetensors", "dog.png", "cat.safetensors"}


def test_keeping_costs_no_room(tmp_path):
    bank = Bank(tmp_path)
    bank.add(make_concept("dog"))
    before = os.stat(bank.path / "dog.safetensors").st_ino
    replace_dog(bank, "other")
    assert versions(bank, "dog")[0].entry.path.stat().st_ino == before


def test_without_hard_links_it_is_copied(bank, monkeypatch):
    def refused(*args, **rest):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refused)
    replace_dog(bank, "dog 3")
    assert seen(bank) == [(1, "dog 0"), (2, "dog 1"), (3, "dog 2")]
    assert colour_of(versions(bank, "dog")[2].entry.preview) == BLUE
    assert same(read_version(bank, "dog", 3), make_concept("dog", class_words="dog 2"))


def test_nothing_kept_looks_like_a_model_to_other_programs(bank):
    bank.remove("cat")
    bank.remove("dog")
    for folder, _, files in os.walk(bank.path):
        for file in files:
            endings = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl")
            assert not file.endswith(endings), f"{folder}/{file}"


def test_going_back_and_forth_loses_nothing(bank):
    created = versions(bank, "dog")[0].entry.created
    stored = go_back(bank, "dog", 1)
    assert (stored.class_words, stored.index, stored.created) == ("dog 0", 0, created)
    assert same(Bank(bank.path)["dog"], stored)
    assert list(bank) == ["dog", "cat"]
    assert seen(bank) == [(2, "dog 1"), (3, "dog 2")]
    assert colour_of(bank.entries()[0].preview) == RED
    assert colour_of(versions(bank, "dog")[1].entry.preview) == BLUE
    go_back(bank, "dog", 3)
    assert bank["dog"].class_words == "dog 2"
    assert seen(bank) == [(2, "dog 1"), (4, "dog 0")]
    assert colour_of(bank.entries()[0].preview) == BLUE


def test_a_version_without_a_picture_takes_none(bank):
    versions(bank, "dog")[0].entry.preview.unlink()
    go_back(bank, "dog", 1)
    assert not bank.entries()[0].preview.exists()
    assert colour_of(versions(bank, "dog")[-1].entry.preview) == BLUE


def test_a_version_comes_back_under_the_present_name(bank):
    rename(bank, "dog", "Rex: the dog")
    assert seen(bank, "Rex: the dog") == [(1, "dog 0"), (2, "dog 1")]
    assert go_back(bank, "Rex: the dog", 2).name == "Rex: the dog"
    assert list(bank) == ["Rex: the dog", "cat"]


def test_words_given_away_meanwhile_forbid_going_back(bank):
    replace_dog(bank, "dog 3", words=("<hound>",))
    bank.add(make_concept("new", words=("<dog-1>",)))
    before = contents(bank.path)
    with pytest.raises(BankError, match="overlap '<dog-1>' of concept 'new'"):
        go_back(bank, "dog", 1)
    assert contents(bank.path) == before
    assert len(versions(bank, "dog")) == 3


def test_a_version_of_another_base_does_not_come_back(tmp_path):
    bank = Bank(tmp_path)
    bank.add(make_concept("dog"))
    replace_dog(bank, "other", base=OTHER_BASE)
    bank.add(make_concept("cat", base=OTHER_BASE))
    with pytest.raises(FamilyError, match="another SD15 model"):
        go_back(bank, "dog", 1)
    bank.add(make_concept("cow"), allow_other_base=True)
    assert go_back(bank, "dog", 1).class_words == "dog"


def test_a_damaged_concept_is_mended_by_its_version(bank):
    path = bank.path / "dog.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert list(bank) == ["cat"]
    assert seen(bank) == [(1, "dog 0"), (2, "dog 1")]
    assert go_back(bank, "dog", 2).index == 0
    assert list(bank) == ["dog", "cat"]
    assert [path.name for path, _ in broken_versions(bank, "dog")] == ["3.kept"]


def test_damaged_and_foreign_versions_never_hide_the_others(bank):
    folder = versions_folder(bank.path / "dog.safetensors")
    data = (folder / "2.kept").read_bytes()
    (folder / "2.kept").write_bytes(data[:100])
    (folder / "3.kept").write_bytes(flip(data, len(data) * 8 - 1))
    for name in ("4.txt", "x.kept", "05.kept", "1.5.kept", "-1.kept", "7.kept.bak"):
        (folder / name).write_text("foreign")
    (folder / "8.kept").mkdir()
    (folder / "last").write_text("none")
    assert [number for number, _ in seen(bank)] == [1, 3]
    assert [path.name for path, _ in broken_versions(bank, "dog")] == ["2.kept", "8.kept"]
    for number, text in ((2, "cut off"), (3, "damaged"), (8, "regular file"), (9, "no version 9")):
        with pytest.raises(BankError, match=text):
            go_back(bank, "dog", number)
    assert remove_version(bank, "dog", 2).what == "version"
    replace_dog(bank, "dog 3")
    assert seen(bank)[-1] == (9, "dog 2")
    assert (folder / "x.kept").read_text() == "foreign"


def test_numbers_are_never_given_twice(bank):
    remove_version(bank, "dog", 2)
    empty_trash(bank)
    replace_dog(bank, "dog 3")
    assert seen(bank) == [(1, "dog 0"), (3, "dog 2")]


@pytest.mark.parametrize("last", ["999999999", "1000000000", "999999999999999", "x", ""])
def test_foreign_numbers_hide_no_version(bank, last):
    folder = versions_folder(bank.path / "dog.safetensors")
    (folder / "last").write_text(last)
    for name in ("0.kept", "999999999.kept", "1000000000.kept"):
        (folder / name).write_bytes(b"foreign")
    for turn in range(3, 6):
        replace_dog(bank, f"dog {turn}")
    assert sorted(text for _, text in seen(bank)) == [f"dog {turn}" for turn in range(5)]
    assert len(broken_versions(bank, "dog")) == 2
    for name in ("999999999.kept", "1000000000.kept"):
        assert (folder / name).read_bytes() == b"foreign"


def test_unknown_versions_and_concepts_are_told(bank):
    with pytest.raises(BankError, match=r"no version 9\. There are 1, 2\."):
        go_back(bank, "dog", 9)
    with pytest.raises(BankError, match="It has none: it was never replaced"):
        remove_version(bank, "cat", 1)
    with pytest.raises(MissingConceptError):
        versions(bank, "cow")


def test_a_version_that_a_crash_left_of_the_present_file_is_not_listed(bank):
    folder = versions_folder(bank.path / "dog.safetensors")
    os.link(bank.path / "dog.safetensors", folder / "3.kept")
    assert len(versions(bank, "dog")) == 2
    (folder / "3.kept").unlink()
    shutil.copy(bank.path / "dog.safetensors", folder / "3.kept")
    assert len(versions(bank, "dog")) == 2
    replace_dog(bank, "dog 3")
    assert seen(bank) == [(1, "dog 0"), (2, "dog 1"), (3, "dog 2")]


def test_removing_and_restoring(bank):
    before = contents(bank.path)
    removed = bank.remove("dog")
    assert (removed.number, removed.name, removed.what) == (1, "dog", "concept")
    assert removed.removed.startswith("20")
    assert [path.name for path in removed.files][:2] == ["dog.kept", "1.kept"]
    assert trash(bank) == (removed,)
    assert list(bank) == ["cat"]
    assert set(contents(bank.path)) == {"cat.safetensors"}
    assert restore(bank, 1) == "dog"
    assert trash(bank) == ()
    assert contents(bank.path) == before
    assert seen(bank) == [(1, "dog 0"), (2, "dog 1")]
    assert list(bank) == ["dog", "cat"]
    assert bank.remove("dog").number == 2
    assert not (bank.path / ".trash" / "1").exists()


def test_removing_and_restoring_a_version(bank):
    removed = remove_version(bank, "dog", 1)
    assert (removed.name, removed.what) == ("dog", "version")
    assert removed.files[0].name == "1.kept"
    assert colour_of(removed.files[0].with_suffix(".png")) == RED
    assert seen(bank) == [(2, "dog 1")]
    assert restore(bank, removed.number) == "dog"
    assert seen(bank) == [(1, "dog 0"), (2, "dog 1")]
    assert not (bank.path / ".trash" / "1").exists()


def test_a_version_does_not_come_back_without_its_concept(bank):
    version = remove_version(bank, "dog", 1).number
    concept = bank.remove("dog").number
    with pytest.raises(BankError, match=r"version of 'dog.safetensors', which is not in the bank"):
        restore(bank, version)
    restore(bank, concept)
    restore(bank, version)
    assert len(versions(bank, "dog")) == 2


def test_a_damaged_file_can_be_removed_and_restored(bank):
    path = bank.path / "cat.safetensors"
    path.write_bytes(b"damaged")
    assert bank.remove("cat").name == "cat"
    assert bank.broken() == ()
    restore(bank, 1)
    assert path.read_bytes() == b"damaged"


def test_what_stands_in_the_way_of_restoring_is_told(bank):
    bank.remove("dog")
    bank.add(make_concept("dog", words=("<x>",)))
    with pytest.raises(BankError, match=r"already has a concept 'dog'.*To restore it, remove"):
        restore(bank, 1)
    rename(bank, "dog", "hound")
    bank.add(make_concept("new", words=("<dog-2>",)))
    with pytest.raises(BankError, match="overlap '<dog-2>' of concept 'new'"):
        restore(bank, 1)
    bank.remove("new")
    (bank.path / "dog.png").write_text("mine")
    with pytest.raises(BankError, match=r"dog.png' is in the way of 'dog'.*Move that away"):
        restore(bank, 1)
    (bank.path / "dog.png").unlink()
    with pytest.raises(BankError, match=r"nothing of number 9. It holds 1, 2"):
        restore(bank, 9)
    assert restore(bank, 1) == "dog"
    assert [each.number for each in trash(bank)] == [2]


def test_a_concept_of_another_base_does_not_come_back(tmp_path):
    bank = Bank(tmp_path)
    bank.add(make_concept("dog"))
    bank.remove("dog")
    bank.add(make_concept("cat", base=OTHER_BASE))
    with pytest.raises(FamilyError, match="another SD15 model"):
        restore(bank, 1)
    assert len(trash(bank)) == 1


def test_emptying_the_trash(bank):
    for name in ("dog", "cat"):
        bank.remove(name)
    top = bank.path / ".trash"
    (top / "notes.txt").write_text("mine")
    (top / "77").mkdir()
    (top / "77" / "mine.txt").write_text("mine")
    (top / "emptied-5").mkdir()
    assert empty_trash(bank) == 2
    assert empty_trash(bank) == 0
    assert trash(bank) == ()
    assert sorted(os.listdir(top)) == ["77", "last", "notes.txt"]
    assert (top / "77" / "mine.txt").exists()
    bank.add(make_concept("cow"))
    assert bank.remove("cow").number == 78
    assert empty_trash(Bank(bank.path / "none")) == 0
    assert not (bank.path / "none").exists()


@pytest.mark.parametrize("name", [".versions", ".trash"])
def test_links_out_of_the_bank_are_not_followed(tmp_path, name):
    outside = tmp_path / "outside"
    (outside / "5").mkdir(parents=True)
    (outside / "5" / "x.kept").write_text("precious")
    bank = Bank(tmp_path / "pets")
    bank.add(make_concept("dog"))
    before = contents(bank.path)
    (bank.path / name).symlink_to(outside)
    change = replace_dog if name == ".versions" else Bank.remove
    with pytest.raises(BankError, match="leads out of"):
        change(bank, "dog")
    assert trash(bank) == ()
    assert empty_trash(bank) == 0
    assert contents(bank.path) == before
    assert (outside / "5" / "x.kept").read_text() == "precious"


@pytest.mark.parametrize(
    "moves",
    [
        '[["dog.safetensors", "../stolen"]]',
        '[["../victim", "x.safetensors"]]',
        '[["/etc/hostname", "x"]]',
        '[["dog.safetensors", "link/x"]]',
        '[["dog.safetensors"]]',
        "{}",
        "[[1, 2]]",
        "half a jour",
    ],
)
def test_a_foreign_journal_moves_nothing_out_of_the_bank(tmp_path, moves):
    bank = Bank(tmp_path / "pets")
    bank.add(make_concept("dog"))
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    (bank.path / "link").symlink_to(tmp_path / "elsewhere")
    (bank.path / JOURNAL).write_text(moves)
    bank.add(make_concept("cat"))
    assert list(bank) == ["dog", "cat"]
    assert (tmp_path / "victim").read_text() == "precious"
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not (bank.path / JOURNAL).exists()


def test_renaming_takes_everything_along(bank):
    before = bank["dog"]
    entry = rename(bank, "dog", "  Rex/1 ")
    assert (entry.name, entry.path.name, entry.index) == ("Rex/1", "Rex_1.safetensors", 0)
    assert entry.created == before.created
    assert colour_of(entry.preview) == BLUE
    assert list(bank) == ["Rex/1", "cat"]
    after = bank["Rex/1"]
    object.__setattr__(after, "name", "dog")
    assert same(before, after)
    assert set(contents(bank.path)) == {"Rex_1.safetensors", "Rex_1.png", "cat.safetensors"}
    assert seen(bank, "Rex/1") == [(1, "dog 0"), (2, "dog 1")]


def test_another_case_is_another_name_in_the_same_file(bank):
    assert rename(bank, "dog", "DOG").path.name == "dog.safetensors"
    assert list(bank) == ["DOG", "cat"]
    assert rename(bank, "DOG", "DOG").name == "DOG"


@pytest.mark.parametrize("name", ["", " ", "a\0b", "a\nb", "\u202egpj", "x" * 201, "CAT", "\ud800"])
def test_names_that_cannot_be_are_refused(bank, name):
    before = contents(bank.path)
    with pytest.raises(BankError, match="name"):
        rename(bank, "dog", name)
    assert contents(bank.path) == before


@pytest.mark.parametrize("name", ["../x", "/etc/x", "C:\\x", "..", "con", ".hidden", "a" * 200])
def test_no_name_leads_out_of_the_bank(bank, tmp_path, name):
    rename(bank, "dog", name)
    assert list(bank) == [name, "cat"]
    assert len(versions(bank, name)) == 2
    assert os.listdir(tmp_path) == ["pets"]
    restore(bank, bank.remove(name).number)
    assert len(versions(bank, name)) == 2


@pytest.mark.parametrize("taken", ["rex.png", "rex.safetensors", ".versions/rex"])
def test_a_name_whose_files_are_taken_is_refused(bank, taken):
    (bank.path / taken).mkdir()
    with pytest.raises(BankError, match=r"in the way of the new name|needs the file"):
        rename(bank, "dog", "rex")
    assert list(bank) == ["dog", "cat"]
    assert len(versions(bank, "dog")) == 2


def test_a_damaged_concept_is_not_renamed(bank):
    (bank.path / "cat.safetensors").write_text("x")
    with pytest.raises(BankError, match="too few"):
        rename(bank, "cat", "tom")


def test_a_preview_of_any_size_is_made_small(bank):
    set_preview(bank, "cat", Image.new("L", (10_000, 5_000), 7))
    with Image.open(bank.path / "cat.png") as picture:
        assert (picture.size, picture.mode) == ((512, 256), "RGB")
    set_preview(bank, "dog", Image.new("RGBA", (1, 9_000), "red"))
    assert colour_of(bank.entries()[0].preview) == RED
    assert colour_of(versions(bank, "dog")[1].entry.preview) == GREEN
    with pytest.raises(MissingConceptError):
        set_preview(bank, "cow", Image.new("L", (1, 1)))


DEEP = np.full((4, 4), 0x8080, np.uint16)


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.fromarray(DEEP), (128, 128, 128)),
        (Image.fromarray(DEEP.astype(np.int32)), (128, 128, 128)),
        (Image.fromarray(DEEP / np.float32(65535)), (128, 128, 128)),
    ],
)
def test_a_preview_of_any_kind_shows_its_colours(bank, picture, colour):
    set_preview(bank, "dog", picture)
    assert colour_of(bank.entries()[0].preview) == colour


def test_a_preview_is_upright(bank):
    picture = Image.new("RGB", (8, 4))
    picture.getexif()[0x0112] = 6
    set_preview(bank, "dog", picture)
    with Image.open(bank.entries()[0].preview) as held:
        assert held.size == (4, 8)


def test_a_picture_that_cannot_be_read_is_told(bank, tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:200])
    with (
        Image.open(tmp_path / "x.png") as picture,
        pytest.raises(BankError, match="is damaged or cut off"),
    ):
        set_preview(bank, "cat", picture)


def test_the_loss_curve_is_told_to_programs_only(bank):
    bank.add(make_concept("cow", facts={"losses": [[1, 0.5]], "photos": 5}))
    entry = bank.entries()[-1]
    assert entry.facts["losses"] == [[1, 0.5]]
    assert "losses" not in described(entry)
