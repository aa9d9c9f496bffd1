"""Crashes and several writers in the middle of replacing, removing, restoring, renaming."""

import errno
import os
import shutil
from contextlib import suppress

import pytest
from bank_samples import die, fork, make_concept, wait
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.errors import BankError
from cidm_core.storage.moves import JOURNAL
from cidm_core.storage.record import read_entry
from cidm_core.upkeep.changes import rename
from cidm_core.upkeep.trash import empty_trash, restore, trash
from cidm_core.upkeep.versions import broken_versions, go_back, remove_version, versions

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
CALLS = ("write", "replace", "rename", "link", "unlink", "mkdir", "rmdir")


def make_bank(folder):
    """A dog of two versions, one of three removed; a cat in the trash."""
    bank = Bank(folder)
    for turn in range(4):
        replace_dog(bank, f"dog {turn}")
    bank.add(make_concept("cat", layers=1))
    remove_version(bank, "dog", 2)
    bank.remove("cat")
    return bank


def replace_dog(bank, class_words):
    old = next((entry for entry in bank.entries() if entry.name == "dog"), None)
    concept = make_concept("dog", class_words=class_words, layers=1)
    bank.add(concept, Image.new("RGB", (4, 4)), replaces=old)


ACTS = {
    "replace": lambda bank: replace_dog(bank, "new"),
    "go back": lambda bank: go_back(bank, "dog", 1),
    "remove": lambda bank: bank.remove("dog"),
    "remove version": lambda bank: remove_version(bank, "dog", 1),
    "restore version": lambda bank: restore(bank, 1),
    "restore": lambda bank: restore(bank, 2),
    "rename": lambda bank: rename(bank, "dog", "rex"),
}


def holdings(folder):
    """What each concept file anywhere in a bank holds: all that can be lost."""
    found = [*folder.glob("*.safetensors"), *folder.glob(".*/**/*.kept")]
    return sorted({read_entry(path).class_words for path in found})


def check(folder, held):
    bank = Bank(folder)
    assert bank.broken() == ()
    assert set(holdings(folder)) >= set(held)
    for name in bank:
        assert bank[name].name == name
        assert broken_versions(bank, name) == ()
        numbers = [each.number for each in versions(bank, name)]
        assert len(set(numbers)) == len(numbers)
    for removed in trash(bank):
        assert removed.files
    return bank


class Ended(BaseException):
    """Ctrl-C in the middle."""


def end_before(step, end):
    """Do something before the n-th call that changes the disk."""
    count = 0

    def wrap(name):
        real = getattr(os, name)

        def call(*args, **rest):
            nonlocal count
            count += 1
            if count == step:
                end()
            return real(*args, **rest)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name))


def interrupt():
    raise Ended


@pytest.mark.parametrize("end", [die, interrupt])
@pytest.mark.parametrize("act", ACTS)
def test_a_crash_at_every_step_loses_nothing(tmp_path, act, end):
    start = make_bank(tmp_path / "start").path
    held = holdings(start)
    whole = outcome(start, tmp_path / "whole", ACTS[act])
    untouched = state(Bank(start))
    allowed = [whole, untouched]
    if act == "rename":  # the new name is in the file before the file has its own
        allowed.append(whole | {"files": untouched["files"]})
    for step in range(1, 400):
        folder = tmp_path / str(step)
        shutil.copytree(start, folder)

        def work(folder=folder, step=step):
            bank = Bank(folder)
            end_before(step, end)
            ACTS[act](bank)

        status = wait(fork(work))
        check(folder, held)
        with Bank(folder).writing():  # the next writer finishes or forgets
            pass
        bank = check(folder, held)
        assert not (folder / JOURNAL).exists()
        now = state(bank)
        assert now in allowed, f"step {step}"
        if status == 0:
            break
    assert status == 0
    assert step > 4
    assert now == whole


def test_the_last_removal_can_be_emptied_at_any_crash(tmp_path):
    start = make_bank(tmp_path / "start").path
    for step in range(1, 100):
        folder = tmp_path / str(step)
        shutil.copytree(start, folder)

        def work(folder=folder, step=step):
            bank = Bank(folder)
            end_before(step, die)
            empty_trash(bank)

        status = wait(fork(work))
        bank = Bank(folder)
        assert list(bank) == ["dog"]
        assert all(restore(bank, each.number) for each in trash(bank))  # whole, or not listed
        empty_trash(bank)
        assert set(os.listdir(folder / ".trash")) == {"last"}
        if status == 0:
            break
    assert status == 0


def outcome(start, folder, act):
    """What people see of a copy of a bank after an act."""
    shutil.copytree(start, folder)
    act(Bank(folder))
    return state(Bank(folder))


def state(bank):
    """What people see of a bank."""
    dog = next((name for name in bank if name in ("dog", "rex")), None)
    return {
        "names": list(bank),
        "files": [entry.path.name for entry in bank.entries()],
        "dog": bank[dog].class_words if dog else None,
        "versions": [each.entry.class_words for each in versions(bank, dog)] if dog else [],
        "trash": [(each.number, each.what) for each in trash(bank)],
    }


@pytest.mark.filterwarnings("ignore:Could not")  # of pictures and names of files
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_a_system_that_refuses_at_any_step_changes_nothing(tmp_path, monkeypatch, act, code):
    """Every call that changes something fails from the n-th on; then the disk is mended."""
    start = make_bank(tmp_path / "start").path
    before = state(Bank(start))
    for step in range(1, 100):
        folder = tmp_path / str(step)
        shutil.copytree(start, folder)
        bank = Bank(folder)
        with monkeypatch.context() as patch:
            struck = fail_from(patch, step, code)
            text = refusal(ACTS[act], bank)
        if not text:
            break
        assert "Could not" in text
        if state(Bank(folder)) != before:  # not even going back was possible
            assert struck[0] > step
        with bank.writing():  # once the disk is mended, the next writer ends it
            pass
        check(folder, holdings(start))
    assert step > 1


def fail_from(patch, step, code):
    count = [0]

    def wrap(name):
        real = getattr(os, name)

        def call(*args, **rest):
            writes = name != "open" or (args[1] & os.O_CREAT and ".lock" not in str(args[0]))
            count[0] += bool(writes)
            if writes and count[0] >= step:
                raise OSError(code, os.strerror(code))
            return real(*args, **rest)

        return call

    for name in ("open", "replace", "rename", "link"):
        patch.setattr(os, name, wrap(name))
    return count


def refusal(act, *given):
    """What the bank says against it; "" if it was done."""
    try:
        act(*given)
    except BankError as error:
        return str(error)
    return ""


def both(*works):
    children = [fork(work) for work in works]
    assert [wait(pid) for pid in children] == [0] * len(works)


def test_two_replace_at_once_and_every_one_is_kept(tmp_path):
    bank = make_bank(tmp_path)
    held = holdings(bank.path)

    def work(letter):
        def replacing():
            for turn in range(6):
                while text := refusal(replace_dog, Bank(tmp_path), f"{letter}{turn}"):
                    assert "changed by another program" in text

        return replacing

    both(work("a"), work("b"))
    check(tmp_path, held)
    wanted = {f"{letter}{turn}" for letter in "ab" for turn in range(6)}
    assert set(holdings(tmp_path)) == set(held) | wanted
    assert len(versions(bank, "dog")) == 14


def test_removing_restoring_and_going_back_at_once(tmp_path):
    bank = make_bank(tmp_path)
    held = holdings(bank.path)

    def removing():
        own = Bank(tmp_path)
        for _ in range(8):
            with suppress(BankError):
                own.remove("dog")
            for removed in trash(own):
                with suppress(BankError):
                    restore(own, removed.number)

    def going_back():
        own = Bank(tmp_path)
        for _ in range(12):
            with suppress(BankError):
                go_back(own, "dog", versions(own, "dog")[0].number)

    both(removing, removing, going_back)
    for removed in trash(bank):
        with suppress(BankError):
            restore(bank, removed.number)
    assert set(check(tmp_path, held)) == {"dog", "cat"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("act", ACTS)
def test_a_folder_without_write_permission(tmp_path, act):
    bank = make_bank(tmp_path / "pets")
    before = state(bank)
    bank.path.chmod(0o500)
    try:
        with pytest.raises(BankError, match="may not write"):
            ACTS[act](bank)
        assert state(bank) == before
    finally:
        bank.path.chmod(0o700)
