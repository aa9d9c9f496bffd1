"""Several writers in one bank: nobody's concept is lost, and a dead writer blocks nobody."""

import contextlib
import os
import threading

import pytest
from bank_samples import die, fork, make_concept, orphans, same, wait
from filelock import FileLock

from cidm_core import bank as bank_module
from cidm_core.bank import LOCK_NAME, Bank
from cidm_core.errors import BankError
from cidm_core.storage import listing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")


def test_two_processes_add_twenty_each(tmp_path):
    folder = tmp_path / "pets"  # not even made yet: both may make it

    def adding(letter):
        def work():
            own = Bank(folder)
            for n in range(20):
                own.add(make_concept(f"{letter}{n}", layers=1))

        return work

    children = [fork(adding(letter)) for letter in "ab"]
    assert [wait(pid) for pid in children] == [0, 0]
    bank = Bank(folder)
    assert bank.broken() == ()
    assert set(bank) == {f"{letter}{n}" for letter in "ab" for n in range(20)}
    assert [entry.index for entry in bank.entries()] == list(range(40))
    for letter in "ab":  # each writer's own order is kept
        mine = [name for name in bank if name.startswith(letter)]
        assert mine == [f"{letter}{n}" for n in range(20)]
    assert all(same(bank[name], make_concept(name, layers=1)) for name in ("a0", "b19"))
    assert orphans(folder) == []


def test_of_two_writers_of_one_name_one_is_told(tmp_path):
    def work(n):
        def add():
            for k in range(5):
                try:
                    Bank(tmp_path).add(make_concept(f"c{k}", words=(f"<w{n}{k}>",)))
                except BankError as error:
                    (tmp_path / f"lost-{n}-{k}").write_text(str(error))

        return add

    children = [fork(work(n)) for n in range(2)]
    assert [wait(pid) for pid in children] == [0, 0]
    assert Bank(tmp_path).broken() == ()
    assert set(Bank(tmp_path)) == {f"c{k}" for k in range(5)}
    told = [path.read_text() for path in tmp_path.glob("lost-*")]
    assert len(told) == 5
    assert all("already has a concept" in text for text in told)


def test_threads_share_one_bank(tmp_path):
    bank = Bank(tmp_path / "pets")
    errors = []

    def work(letter):
        try:
            for n in range(5):
                bank.add(make_concept(f"{letter}{n}", layers=1))
                assert f"{letter}{n}" in bank
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(entry.index for entry in bank.entries()) == list(range(15))


def test_a_reader_never_meets_half_a_concept(tmp_path):
    bank = Bank(tmp_path / "pets")
    bank.add(make_concept("dog"))

    enough, written = tmp_path / "enough", tmp_path / "written"

    def work():
        own = Bank(bank.path)
        while not enough.exists():
            own.add(make_concept("cat"))
            own.remove("cat")
            written.touch()

    child = fork(work)
    try:
        looks = 0
        while looks < 30 or not written.exists():
            looks += 1
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the writer has ended"
            reader = Bank(bank.path)
            assert reader.broken() == ()
            assert same(reader["dog"], make_concept("dog"))
    finally:
        enough.touch()
    assert wait(child) == 0


def test_a_file_that_goes_while_it_is_listed_is_not_broken(tmp_path, monkeypatch):
    bank = Bank(tmp_path)
    bank.add(make_concept("dog"))
    bank.add(make_concept("cat"))
    real = listing.read_entry

    def reading(path):
        if path.name == "dog.safetensors":
            path.unlink()
        return real(path)

    monkeypatch.setattr(listing, "read_entry", reading)
    reader = Bank(tmp_path)
    assert list(reader) == ["cat"]
    assert reader.broken() == ()


def test_the_lock_of_a_killed_writer_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(bank_module, "LOCK_SECONDS", 5.0)
    bank = Bank(tmp_path)
    bank.add(make_concept("dog"))

    def work():
        FileLock(tmp_path / LOCK_NAME).acquire()
        (tmp_path / f".cidm-{os.getpid()}-00ff.tmp").write_text("half a concept")
        die()

    assert wait(fork(work)) == -9
    assert len(orphans(tmp_path)) == 1
    bank.add(make_concept("cat"))
    assert list(bank) == ["dog", "cat"]
    assert orphans(tmp_path) == []


def test_a_busy_bank_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(bank_module, "LOCK_SECONDS", 0.1)
    bank = Bank(tmp_path)
    bank.add(make_concept("dog"))
    with (
        FileLock(tmp_path / LOCK_NAME),
        pytest.raises(BankError, match="Another program has been writing to bank"),
    ):
        bank.add(make_concept("cat"))
    assert same(bank["dog"], make_concept("dog"))
    bank.add(make_concept("cat"))


def test_the_lock_file_cannot_be_turned_against_other_files(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    bank = Bank(tmp_path / "pets")
    bank.path.mkdir()
    (bank.path / LOCK_NAME).symlink_to(victim)
    with contextlib.suppress(BankError):
        bank.add(make_concept("dog"))
    assert victim.read_text() == "precious"
