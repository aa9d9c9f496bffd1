"""Crashes, full disks and read-only folders: the old concepts survive every one of them.

`CIDM_TEST_KILLS` sets how many writers are killed at random moments (default 25).
"""

import errno
import os
import random
import time

import pytest
from bank_samples import contents, crash_at, fork, make_concept, orphans, same, wait

from cidm_core.bank import Bank
from cidm_core.errors import BankError, CidmError
from cidm_core.storage import atomic
from cidm_core.storage.atomic import sweep, write_atomic

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
KILLS = int(os.environ.get("CIDM_TEST_KILLS", "25"))


@pytest.fixture
def bank(tmp_path):
    bank = Bank(tmp_path / "pets")
    for name in ("dog", "cat"):
        bank.add(make_concept(name))
    return bank


def check_survivors(bank, before):
    """Old files are byte-identical, nothing is half, and the bank still takes concepts."""
    after = contents(bank.path)
    assert {name: after[name] for name in before} == before
    fresh = Bank(bank.path)
    assert fresh.broken() == ()
    for name in fresh:
        assert same(fresh[name], make_concept(name))
    return set(after) - set(before)


def test_a_crash_at_every_step_of_adding_loses_nothing(bank):
    before = contents(bank.path)
    outcomes = []
    for step in range(1, 200):

        def work(step=step):
            crash_at(step)
            Bank(bank.path).add(make_concept("new"))

        status = wait(fork(work))
        new = check_survivors(bank, before)
        assert new <= {"new.safetensors"}
        assert len(orphans(bank.path)) <= 1
        outcomes.append(bool(new))
        if status == 0:
            break
        if new:
            bank.remove("new")
        assert status == -9
        bank.add(make_concept("next"))  # no lock is left behind, and orphans are swept
        assert orphans(bank.path) == []
        bank.remove("next")
    assert status == 0, "the last run must have got through"
    assert len(outcomes) > 12
    assert outcomes == sorted(outcomes)  # from "nothing" to "all of it" in one step


def test_writers_killed_at_random_moments_lose_nothing(bank):
    rng = random.Random(0)
    concepts = [make_concept(f"new{n}", layers=16, width=64) for n in range(40)]
    expected = contents(bank.path)
    for _ in range(KILLS):
        ready, tell = os.pipe()

        def work(tell=tell):
            own = Bank(bank.path)
            os.write(tell, b"x")
            for concept in concepts:
                if concept.name not in own:
                    own.add(concept)

        pid = fork(work)
        os.read(ready, 1)
        time.sleep(rng.uniform(0.0, 0.08))
        os.kill(pid, 9)
        wait(pid)
        os.close(ready)
        os.close(tell)
        assert len(orphans(bank.path)) <= 1
        now = contents(bank.path)
        assert {name: now[name] for name in expected} == expected
        expected = now
        assert Bank(bank.path).broken() == ()
        if len(now) > 30:
            for name in list(bank)[2:]:
                bank.remove(name)
            expected = contents(bank.path)
    fresh = Bank(bank.path)
    assert fresh.broken() == ()
    by_name = {concept.name: concept for concept in concepts}
    for name in list(fresh)[2:]:
        assert same(fresh[name], by_name[name])
    indexes = [entry.index for entry in fresh.entries()]
    assert len(set(indexes)) == len(indexes)


def test_a_disk_that_fills_up_at_any_size_loses_nothing(bank):
    """RLIMIT_FSIZE: writes beyond a size fail, as on a full disk (EFBIG)."""
    before = contents(bank.path)
    size = len(before["dog.safetensors"])
    for limit in [1, 7, 8, 100, *(size * k // 8 for k in range(1, 8)), size - 1]:

        def work(limit=limit):
            resource = pytest.importorskip("resource")
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(BankError, match=r"Could not write .*larger than .*nothing was"):
                Bank(bank.path).add(make_concept("new"))
            assert orphans(bank.path) == []

        assert wait(fork(work)) == 0
        assert check_survivors(bank, before) == set()
    bank.add(make_concept("new"))


CODES = {
    errno.ENOSPC: "The disk is full. Free some space",
    errno.EDQUOT: "quota is used up",
    errno.EROFS: "The folder is read-only. Choose a writable folder",
    errno.EACCES: "No permission for that",
    errno.EIO: "The system said: Input/output error",
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_errors_of_the_system_are_explained_and_lose_nothing(bank, monkeypatch, call, code):
    before = contents(bank.path)
    real = getattr(os, call)

    def failing(*args, **rest):
        # The lock file and the folder's own flush are not what is tested here.
        if call == "open" and not str(args[0]).endswith(".tmp"):
            return real(*args, **rest)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, call, failing)
    with pytest.raises(BankError, match=CODES[code]) as caught:
        bank.add(make_concept("new"))
    monkeypatch.undo()
    assert "new.safetensors" in str(caught.value)
    assert "try again; nothing was changed" in str(caught.value)
    assert orphans(bank.path) == []
    assert check_survivors(bank, before) == set()


def test_a_disk_full_in_the_middle_of_a_file(bank, monkeypatch):
    before = contents(bank.path)
    real, left = os.write, [3]

    def failing(handle, data):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "full")
        left[0] -= 1
        return real(handle, bytes(data[:50]))

    monkeypatch.setattr(atomic.os, "write", failing)
    with pytest.raises(BankError, match="disk is full"):
        bank.add(make_concept("new"))
    monkeypatch.undo()
    assert orphans(bank.path) == []
    assert check_survivors(bank, before) == set()


def test_short_writes_are_continued(bank, monkeypatch):
    real = os.write
    monkeypatch.setattr(atomic.os, "write", lambda handle, data: real(handle, bytes(data[:777])))
    bank.add(make_concept("new"))
    assert same(Bank(bank.path)["new"], make_concept("new"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_explained(bank, monkeypatch, code):
    before = contents(bank.path)
    (bank.path / ".bank.lock").unlink()
    real = os.open

    def failing(path, flags, *args, **rest):
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *args, **rest)

    monkeypatch.setattr(os, "open", failing)
    for change in (lambda: bank.add(make_concept("new")), lambda: bank.remove("dog")):
        with pytest.raises(BankError, match=r"Could not write .*bank\.lock.*nothing was changed"):
            change()
    assert list(bank) == ["dog", "cat"]  # reading still works
    assert same(bank["dog"], make_concept("dog"))
    assert contents(bank.path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(bank):
    bank.path.chmod(0o500)
    try:
        with pytest.raises(BankError, match="may not write"):
            bank.add(make_concept("new"))
    finally:
        bank.path.chmod(0o700)


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(BankError, match=r"is a file|Part of the path is a file"):
        Bank(tmp_path / "x" / "bank").add(make_concept())


def test_a_failing_removal_keeps_the_concept(bank, monkeypatch):
    def failing(*args, **rest):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(BankError, match=r"Could not remove .*dog.safetensors.*read-only"):
        bank.remove("dog")
    assert list(bank) == ["dog", "cat"]


def test_sweep_takes_only_what_dead_writers_left(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait(child)
    old = tmp_path / f".cidm-{os.getpid()}-aa.tmp"
    names = {
        "dead": f".cidm-{child}-00ff.tmp",
        "alive": f".cidm-{os.getpid()}-00ff.tmp",
        "other": ".cidm-x.tmp",
        "huge": ".cidm-99999999999999999999-00ff.tmp",
        "foreign": "dog.tmp",
    }
    for path in [old, *(tmp_path / name for name in names.values())]:
        path.write_text("x")
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    assert sweep(tmp_path) == 3
    assert set(os.listdir(tmp_path)) == {names[key] for key in ("alive", "other", "foreign")}


def test_write_atomic_replaces_or_keeps(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomic(path, b"one")
    write_atomic(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"

    class Stopped(BaseException):
        pass

    def stopped(*args):
        raise Stopped

    monkeypatch.setattr(atomic.os, "fsync", stopped)
    with pytest.raises(Stopped):
        write_atomic(path, b"three")
    monkeypatch.undo()
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["state.json"]
    with pytest.raises(CidmError, match=r"folder does not exist. Create it"):
        write_atomic(tmp_path / "gone" / "x", b"")
    with pytest.raises(BankError, match="too long"):
        write_atomic(tmp_path / ("x" * 300), b"", error=BankError)


def test_the_data_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    done = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def call(*args, name=name, real=real):
            done.append(name)
            return real(*args)

        monkeypatch.setattr(atomic.os, name, call)
    write_atomic(tmp_path / "x", b"data")
    assert done == ["write", "fsync", "replace", "fsync"]
