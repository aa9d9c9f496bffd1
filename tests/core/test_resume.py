"""Interrupted runs: what is kept, and that going on gives the same bits as never stopping."""

import json
import logging
import os
import signal
import tempfile
import threading

import pytest
import torch
from learning_samples import config, learn, photos, same_concept, same_weights, small_base, weights
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.errors import BankError, TrainingError
from cidm_core.methods.base import Stage
from cidm_core.methods.group import Group
from cidm_core.training.loop import Loop, Stopped
from cidm_core.training.optimiser import Optimiser
from cidm_core.training.state import RunFolder

STEPS = 8
# The richest state there is: old concepts, H and W* in motion, tokens that freeze on the way.
GIVEN = {"steps": STEPS, "common_subspace": "gradient", "lr_tokens": 0.02, "seed": 5}


@pytest.fixture(autouse=True, scope="module")
def ctrl_c():
    """As at a terminal: a shell's background starts programs that ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def bank_with_old(folder):
    bank = Bank(folder)
    for i in (1, 2):
        bank.add(random_concept(small_base(), f"<v{i}> <w{i}>", seed=i, rank=4))
    return bank


@pytest.fixture(scope="module")
def limit():
    """A norm limit that tokens reach after a few steps."""
    norms = []
    update = Loop._update

    def watch(self, factor, size):
        norms.extend(norm.item() for norm in self.method.token_norms().values())
        return update(self, factor, size)

    patch = pytest.MonkeyPatch()
    patch.setattr(Loop, "_update", watch)
    try:
        learn(bank_with_old(tempfile.mkdtemp()), given=GIVEN)
    finally:
        patch.undo()
    assert norms == sorted(norms)
    return (norms[3] + norms[4]) / 2


@pytest.fixture(scope="module")
def given(limit):
    return {**GIVEN, "token_norm_limit": limit}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, given):
    """The concept of an uninterrupted run, and its log."""
    bank = bank_with_old(tmp_path_factory.mktemp("whole"))
    concept = learn(bank, given=given)
    return concept, rows_of(bank)


def rows_of(bank):
    folder = RunFolder(bank.path / ".runs" / "dog", "")
    lines = folder.log_path.read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def stop_after(step):
    count = iter(range(10_000))
    return lambda: next(count) - len(photos()) >= step


@pytest.mark.parametrize("step", [1, STEPS // 2, 7])
def test_stopping_and_going_on_gives_the_same_bits(tmp_path, given, whole, step):
    bank = bank_with_old(tmp_path)
    before = weights(small_base())
    with pytest.raises(Stopped, match=f"Stopped at step {step} of {STEPS}.*run the same command"):
        learn(bank, given=given, should_stop=stop_after(step))
    same_weights(before, weights(small_base()))
    assert "dog" not in bank
    seen = []
    concept = learn(bank, given=given, on_progress=lambda e: seen.append((e.phase, e.step)))
    learned = [s for phase, s in seen if phase == "learning"]
    assert learned == list(range(step + 1, STEPS + 1))
    same_concept(concept, whole[0])
    assert rows_of(bank) == whole[1]


def test_ctrl_c_keeps_the_state_and_stays_a_keyboard_interrupt(tmp_path, given, whole):
    bank, before = bank_with_old(tmp_path), weights(small_base())

    def press(event):
        if event.phase == "learning" and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="the same call goes on from there"):
        learn(bank, given=given, on_progress=press)
    same_weights(before, weights(small_base()))
    same_concept(learn(bank, given=given), whole[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(
    tmp_path, given, whole, monkeypatch, number
):
    bank, done = bank_with_old(tmp_path), []
    update, count = Optimiser.update, iter(range(100))

    def interrupt(*_):
        raise KeyboardInterrupt

    def struck(self, factor, coefficient):
        last = next(count)
        if last == 3:
            os.kill(os.getpid(), number)
        update(self, factor, coefficient)
        done.append(last)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Optimiser, "update", struck)
            with pytest.raises(KeyboardInterrupt):
                learn(bank, given=given)
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == [0, 1, 2, 3]
    steps = []
    concept = learn(bank, given=given, on_progress=lambda e: steps.append((e.phase, e.step)))
    assert ("learning", 5) in steps
    assert ("learning", 4) not in steps  # nothing of the step under way was lost
    same_concept(concept, whole[0])


def test_an_error_in_the_middle_of_an_update_keeps_the_state_saved_before(
    tmp_path, given, whole, monkeypatch, caplog
):
    bank = bank_with_old(tmp_path)
    update, count = Optimiser.update, iter(range(100))

    def half_done(self, factor, coefficient):
        if next(count) == 3:
            next(iter(self.rates)).flat.data.add_(1.0)  # torn
            raise RuntimeError("no more memory")
        update(self, factor, coefficient)

    settings = {**given, "save_every": 2}
    with monkeypatch.context() as patch:
        patch.setattr(Optimiser, "update", half_done)
        with pytest.raises(RuntimeError, match="no more memory"):
            learn(bank, given=settings)
    assert "Step 4 broke off; the state saved before it stays" in caplog.text
    steps = []
    concept = learn(bank, given=settings, on_progress=lambda e: steps.append((e.phase, e.step)))
    assert ("learning", 3) in steps
    same_concept(concept, whole[0])


def test_another_thread_is_never_interrupted_and_learns_as_well(tmp_path, given, whole):
    """As in ComfyUI, whose worker is not the main thread: handlers can only be set from there."""
    made = []
    bank = bank_with_old(tmp_path)
    thread = threading.Thread(target=lambda: made.append(learn(bank, given=given)))
    thread.start()
    thread.join()
    same_concept(made[0], whole[0])


def test_signals_at_any_moment_leave_a_state_to_go_on_from(tmp_path, given, whole):
    """Real signals from another thread, wherever they strike within a step."""
    bank, before, struck = bank_with_old(tmp_path), weights(small_base()), []
    for delay in (0.001, 0.007, 0.019):

        def arm(event, delay=delay, armed=struck):
            if event.phase == "learning" and len(armed) == event.step - 1:
                armed.append(event.step)
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()

        with pytest.raises(KeyboardInterrupt):
            learn(bank, given=given, on_progress=arm)
        same_weights(before, weights(small_base()))
    same_concept(learn(bank, given=given), whole[0])


def test_an_error_from_a_callback_passes_and_keeps_the_state(tmp_path, given, whole):
    class HostInterrupt(BaseException):
        """As a host's own interrupt is."""

    bank = bank_with_old(tmp_path)

    def fail(event):
        if event.phase == "learning" and event.step == 2:
            raise HostInterrupt

    with pytest.raises(HostInterrupt):
        learn(bank, given=given, on_progress=fail)
    same_concept(learn(bank, given=given), whole[0])


def test_a_killed_process_goes_on_from_the_last_saved_state(tmp_path, given, whole, monkeypatch):
    bank, settings = bank_with_old(tmp_path), {**given, "save_every": 3}

    def killed(self, error):
        pass  # kill -9: nothing is flushed any more

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_flush", killed)
        with pytest.raises(Stopped):
            learn(bank, given=settings, should_stop=stop_after(5))
    steps = []
    concept = learn(bank, given=settings, on_progress=lambda e: steps.append((e.phase, e.step)))
    assert ("learning", 4) in steps
    assert ("learning", 3) not in steps
    same_concept(concept, whole[0])


def test_other_settings_do_not_go_on_from_the_state(tmp_path, caplog):
    with pytest.raises(Stopped):
        learn(tmp_path / "a", given={"steps": 4}, should_stop=stop_after(2))
    with caplog.at_level(logging.WARNING):
        other = learn(tmp_path / "a", given={"steps": 3, "seed": 1})
    assert "starting over" in caplog.text
    same_concept(other, learn(tmp_path / "b", given={"steps": 3, "seed": 1}))


def test_each_of_several_settings_goes_on_from_its_own_state(tmp_path, whole, given, caplog):
    """A, then B, then A again: nothing of A was lost, its log neither."""
    bank, other = bank_with_old(tmp_path), {**given, "seed": 6}
    for settings in (given, other):
        with pytest.raises(Stopped):
            learn(bank, given=settings, should_stop=stop_after(3))
    assert "kept for it" in caplog.text
    steps = []
    with pytest.raises(Stopped):
        learn(bank, given=given, should_stop=stop_after(2), on_progress=lambda e: steps.append(e))
    assert [e.step for e in steps if e.phase == "learning"] == [4, 5]
    with pytest.raises(Stopped):
        learn(bank, given=other, should_stop=stop_after(1), on_progress=lambda e: steps.append(e))
    assert steps[-1].step == 4
    same_concept(learn(bank, given=given), whole[0])
    assert rows_of(bank) == whole[1]
    folder = bank.path / ".runs" / "dog"
    assert len(list(folder.glob("state-*.cidm"))) == 1  # the other one's


@pytest.mark.parametrize(
    "change",
    [
        {"words": "<other1> <other2>", "name": "dog"},
        {"kind": "style"},
        {"photos": photos(seed=1)},
        {"photos": photos(masks=True)},
        {"mapping": {"a dog": "<dog1> <dog2>"}},
    ],
    ids=["words", "kind", "photos", "masks", "captions"],
)
def test_other_inputs_do_not_go_on_from_the_state(tmp_path, change):
    with pytest.raises(Stopped):
        learn(tmp_path, given={"steps": 2}, should_stop=stop_after(1))
    steps = []
    learn(
        tmp_path,
        given={"steps": 2},
        on_progress=lambda e: steps.append((e.phase, e.step)),
        **change,
    )
    assert ("learning", 1) in steps


def test_a_new_concept_in_the_bank_makes_another_run(tmp_path):
    with pytest.raises(Stopped):
        learn(tmp_path, given={"steps": 2}, should_stop=stop_after(1))
    Bank(tmp_path).add(random_concept(small_base(), "<v> <w>", seed=1, rank=4))
    steps = []
    learn(tmp_path, given={"steps": 2}, on_progress=lambda e: steps.append((e.phase, e.step)))
    assert ("learning", 1) in steps


def test_a_damaged_state_is_put_aside(tmp_path, caplog):
    with pytest.raises(Stopped):
        learn(tmp_path, given={"steps": 3}, should_stop=stop_after(2))
    path = tmp_path / ".runs" / "dog" / "state.cidm"
    path.write_bytes(path.read_bytes()[:-7])
    steps = []
    learn(tmp_path, given={"steps": 3}, on_progress=lambda e: steps.append((e.phase, e.step)))
    assert "cannot be read" in caplog.text
    assert ("learning", 1) in steps
    assert path.with_name("state-damaged.cidm").exists()


def test_resume_false_starts_over(tmp_path):
    with pytest.raises(Stopped):
        learn(tmp_path, given={"steps": 3}, should_stop=stop_after(2))
    steps = []
    learn(
        tmp_path,
        given={"steps": 3},
        resume=False,
        on_progress=lambda e: steps.append((e.phase, e.step)),
    )
    assert ("learning", 1) in steps


def test_a_full_disk_during_a_run_is_a_warning_not_the_end(tmp_path, monkeypatch, caplog):
    def full(self, state):
        raise TrainingError("Could not write: the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", full)
        concept = learn(tmp_path, given={"steps": 3, "save_every": 1})
    assert concept.facts["steps"] == 3
    assert caplog.text.count("Going on without a saved state") == 2


class Number:
    """A method that learns one number, to try the loop's own state."""

    def __init__(self):
        self.updates = {}
        self.group = Group("one", {"x": torch.ones(1)})

    def stages(self):
        return [Stage("only", 4, {self.group: 0.1}, self.losses)]

    def losses(self, batch):
        return {"denoise": self.group.tensors["x"].sum() * batch}

    def state(self):
        return {}

    def load_state(self, _):
        pass


class Sizes:
    def batch(self, index):
        return 1e35 if index == 1 else 1.0


def test_a_fp16_loss_scale_survives(tmp_path):
    def loop(folder):
        made = Loop(Number(), lambda _: Sizes(), config(steps=4), folder, torch.device("cpu"))
        made.scale.active, made.scale.value = True, 2.0**16
        return made

    folder = RunFolder(tmp_path, "x")
    first = loop(folder)
    first.run()
    assert first.scale.value == 2.0**15  # 1e35 * 65536 overflowed once: skipped, not counted as bad
    assert first.skipped == 1
    assert first.state().facts["bad"] == 0
    folder.save(first.state())
    again = loop(folder)
    again.resume(folder.load())
    assert again.scale.value == 2.0**15
    assert again.step == 4


def test_only_one_run_at_a_time_learns_a_concept(tmp_path):
    messages = []

    def again(_event):
        with pytest.raises(BankError, match="Another program is learning 'dog' in this bank") as e:
            learn(tmp_path, given={"steps": 2})
        messages.append(str(e.value))

    first = learn(tmp_path, given={"steps": 2}, on_progress=again)
    assert messages
    assert list(Bank(tmp_path)) == [first.name]
