"""Teaching a concept again: what differs is said, and it is replaced or gone on from, safely."""

import shutil
from dataclasses import replace

import pytest
import torch
from learning_samples import config, learn, photos, same_concept, small_base
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.concept import Subject
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import BankError, CidmError, FamilyError, TrainingError
from cidm_core.methods.cidm import Cidm
from cidm_core.training.loop import Stopped
from cidm_core.training.state import RunFolder
from cidm_core.updates import FullRank


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Three concepts; "dog" is the second."""
    found = Bank(tmp_path_factory.mktemp("taught"))
    base = small_base()
    found.add(random_concept(base, "<cat1>", 1, name="cat"))
    learn(found)
    found.add(random_concept(base, "<ink1>", 2, name="ink"))
    return found.path


@pytest.fixture
def bank(taught, tmp_path):
    """Those three, to be changed."""
    return Bank(shutil.copytree(taught, tmp_path / "bank"))


def files(bank):
    return {entry.name: entry.path.read_bytes() for entry in bank.entries()}


def order(bank):
    return [(entry.name, entry.index, entry.path.name) for entry in bank.entries()]


def stop_after(step):
    """Ends a run once so many steps are done."""
    done = []
    return {
        "on_progress": lambda event: done.append(event) if event.phase == "learning" else None,
        "should_stop": lambda: len(done) >= step,
    }


# What is said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"given": {"steps": 8}}, "What differs: steps 6, now 8."),
        ({"given": {"lr_lora": 0.5, "seed": 3}}, "seed 0, now 3; lr_lora 0.001, now 0.5."),
        ({"photos": photos(seed=1)}, "What differs: other photos."),
        ({"photos": photos(4)}, "What differs: 3 photos, now 4."),
        (
            {"photos": [replace(p, caption="a dog") for p in photos()]},
            "What differs: other captions.",
        ),
        ({"kind": "style"}, "What differs: kind object, now style."),
        ({"class_words": "cat", "mapping": {"dog": "<dog1> <dog2>"}}, "class words dog, now cat."),
        ({"schedule": {"prediction_type": "v_prediction"}}, "other kind of prediction or noise"),
        (
            {"schedule": {"trained_betas": [0.01] * 1000}, "photos": photos(4)},
            "What differs: 3 photos, now 4; other kind of prediction or noise levels.",
        ),
        ({"given": {"save_every": 3, "preview_every": 2}}, "Nothing differs."),
    ],
)
def test_what_differs_is_said_and_what_can_be_done(bank, given, said):
    before, schedule = files(bank), given.get("schedule", {})
    given = {key: value for key, value in given.items() if key != "schedule"}
    base = replace(small_base(), scheduler_config=small_base().scheduler_config | schedule)
    with pytest.raises(BankError) as caught:
        learn(bank, base=base, **given)
    text = str(caught.value)
    assert "The words '<dog1> <dog2>' are those of concept 'dog', learned 2" in text
    assert said in text
    assert "--again" in text
    assert "replace puts" in text
    assert "go_on (go-on) learns on" in text
    assert files(bank) == before


def test_of_an_imported_concept_the_photos_are_not_known(bank):
    bank.add(replace(bank["ink"], name="new", subjects=(Subject(("<new1>",), "dog"),)))
    with pytest.raises(BankError, match=r"its photos are not known"):
        learn(bank, words="<new1>")


def test_other_words_are_none_of_it(bank):
    with pytest.raises(BankError, match="overlap"):
        learn(bank, words="<dog2> <dog1>", again="replace")
    with pytest.raises(BankError, match="already has a concept 'dog'"):
        learn(bank, words="<x1> <x2>", name="dog", again="replace")
    with pytest.raises(BankError, match="are those of concept 'dog', not 'hound'"):
        learn(bank, name="hound", again="replace")
    with pytest.raises(BankError, match=r"no concept of the words '<x1> <x2>' to go on from"):
        learn(bank, words="<x1> <x2>", again="go_on")
    with pytest.raises(CidmError, match="again is 'twice'; choose one of refuse, replace, go_on"):
        learn(bank, again="twice")


# Replace


def test_the_new_one_takes_place_name_and_file_of_the_old(bank):
    before, held = order(bank), files(bank)
    old = bank["dog"]
    learn(bank, given={"steps": 3}, photos=photos(2), again="replace")
    assert order(bank) == before
    now = files(bank)
    assert (now["cat"], now["ink"]) == (held["cat"], held["ink"])
    assert (bank["dog"].facts["steps"], bank["dog"].facts["photos"]) == (3, 2)
    assert "start" not in bank["dog"].facts
    assert not torch.equal(bank["dog"].rows["text_encoder"], old.rows["text_encoder"])


def test_it_is_learned_as_if_the_old_one_were_not_there(bank, tmp_path):
    """Also by R1 and R2, which keep a concept apart from all others but not from itself."""
    given = {"orthogonality": "energy", "common_subspace": "gradient", "steps": 3, "rank": 2}
    replaced = learn(bank, given=given, again="replace")
    other = Bank(tmp_path / "other")
    for name in ("cat", "ink"):
        other.add(bank[name])
    same_concept(learn(other, given=given), replaced)


def test_the_earlier_concepts_are_all_but_the_one_that_is_taught(bank):
    seen = []

    class Spy(Cidm):
        def __init__(self, task, config, old, host):
            seen.append((len(old), [concept.name for concept in old]))
            super().__init__(task, config, old, host)

    for again in ("replace", "go_on"):
        learn(bank, given={"steps": 1}, again=again, make=Spy)
    assert seen == [(2, ["cat", "ink"])] * 2


def test_words_that_nobody_has_are_simply_learned(bank):
    learn(bank, words="<x1> <x2>", again="replace")
    assert [entry.name for entry in bank.entries()] == ["cat", "dog", "ink", "x"]


@pytest.mark.parametrize("again", ["replace", "go_on"])
def test_a_broken_off_run_leaves_the_old_one_whole_and_goes_on_to_the_same_bits(
    bank, tmp_path, again, monkeypatch
):
    asked = {"given": {"lr_tokens": 0.01}, "photos": photos(2), "again": again}
    twin, before, steps = Bank(tmp_path / "twin"), files(bank), []
    for name in bank:
        twin.add(bank[name])
    with pytest.raises(Stopped):
        learn(bank, **asked, **stop_after(2))
    assert files(bank) == before

    def refuse(*_, **__):
        raise BankError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Bank, "add", refuse)
        with pytest.raises(BankError, match="the disk is full"):
            learn(
                bank,
                **asked,
                on_progress=lambda event: event.phase == "learning" and steps.append(event.step),
            )
    assert steps == [3, 4, 5, 6]
    assert files(bank) == before
    same_concept(learn(bank, **asked), learn(twin, **asked))


def test_one_way_does_not_take_up_the_state_of_the_other(bank, tmp_path):
    twin = Bank(tmp_path / "twin")
    with pytest.raises(Stopped):
        learn(bank, given={"steps": 3}, again="go_on", **stop_after(2))
    found = learn(bank, given={"steps": 3}, again="replace")
    same_concept(found, learn(twin, given={"steps": 3}))


# Go on


def test_learning_goes_on_from_rows_and_weights(bank):
    old = bank["dog"]
    rest = {"lr_lora": 0.0, "lr_tokens": 0.0, "weight_decay": 0.0, "steps": 2}
    same_concept(learn(bank, given=rest, again="go_on"), old)
    facts = bank["dog"].facts
    assert (facts["steps"], facts["earlier_steps"]) == (2, 6)
    learn(bank, given={"steps": 3}, again="go_on")
    assert (bank["dog"].facts["steps"], bank["dog"].facts["earlier_steps"]) == (3, 8)
    assert [entry.name for entry in bank.entries()] == ["cat", "dog", "ink"]
    with pytest.raises(BankError, match=r"earlier steps 8, now 0; steps 3, now 6"):
        learn(bank)


def test_it_draws_other_noise_than_it_was_learned_from(bank, monkeypatch):
    seen = []
    losses = Cidm.losses

    def watched(self, batch):
        seen.append(batch.noise)
        return losses(self, batch)

    monkeypatch.setattr(Cidm, "losses", watched)
    learn(bank, given={"steps": 2}, again="replace")
    learn(bank, given={"steps": 2}, again="go_on")
    first, then = seen[:2], seen[2:]
    assert not any(torch.equal(a, b) for a in first for b in then)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 2}, "it has rank 4 and alpha 4, asked for are rank 2 and alpha 2"),
        ({"alpha": 1.0}, "asked for are rank 4 and alpha 1. Give the same, or replace"),
    ],
)
def test_other_ranks_are_refused_before_any_work(bank, given, said, monkeypatch):
    monkeypatch.setattr(small_base().vae, "encode", lambda *_: pytest.fail("work was started"))
    before = files(bank)
    with pytest.raises(TrainingError) as caught:
        learn(bank, given=given, again="go_on")
    assert said in str(caught.value)
    assert files(bank) == before


def test_what_cidm_does_not_learn_is_refused(bank):
    layer = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    shape = small_base().shape_of(layer)
    odd = replace(
        bank["dog"],
        name="odd",
        subjects=(Subject(("<odd1>", "<odd2>"), "dog"),),
        updates={layer: FullRank(torch.zeros(shape))},
    )
    bank.add(odd)
    with pytest.raises(TrainingError, match=rf"it changes {layer}, which CIDM does not learn"):
        learn(bank, words="<odd1> <odd2>", again="go_on")


def test_another_base_is_refused(bank):
    other = Bank(bank.path.parent / "other")
    other.add(replace(bank["dog"], base="128x96:1,2,3"))
    with pytest.raises(FamilyError, match="another MINI model"):
        learn(other, again="go_on")
    with pytest.raises(BankError, match="the model, small then"):
        learn(other)
    assert learn(other, given={"steps": 1}, again="replace").base == small_base().fingerprint


def test_rows_alone_are_enough_to_go_on_from(bank):
    rows = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(1))
    alone = replace(
        bank["dog"],
        name="alone",
        subjects=(Subject(("<alone1>", "<alone2>"), "dog"),),
        updates={},
        rows={"text_encoder": rows},
        method="textual_inversion",
    )
    bank.add(alone)
    rest = {"lr_lora": 0.0, "lr_tokens": 0.0, "weight_decay": 0.0, "steps": 1}
    found = learn(bank, words="<alone1> <alone2>", given=rest, again="go_on")
    assert torch.equal(found.rows["text_encoder"], rows.expand(-1, len(found.layers), -1))
    assert not any(pair.up.any() for pair in found.low_rank.values())


def test_a_method_without_the_hook_cannot_go_on(bank):
    class Plain:
        def __call__(self, task, config, old, host):
            return Cidm(task, config, old, host)

        def __repr__(self):
            return "plain"

    with pytest.raises(TrainingError, match="cannot go on from a taught concept"):
        learn(bank, again="go_on", make=Plain())


# What was done is found


def test_what_has_gone_on_is_found_and_not_repeated(bank):
    asked = {"words": "<dog1> <dog2>", "class_words": "dog", "config": config()}
    base, taught = small_base(), photos()
    assert find_taught(base, bank, taught, **asked) is not None
    assert find_taught(base, bank, taught, **asked, again="replace") is not None
    assert find_taught(base, bank, taught, **asked, again="go_on") is None
    train_concept(base, bank, taught, **asked, again="go_on")
    assert find_taught(base, bank, taught, **asked, again="go_on") is not None
    assert find_taught(base, bank, taught, **asked, again="replace") is None
    other = asked | {"config": config(steps=7)}
    assert find_taught(base, bank, taught, **other, again="go_on") is None


def test_a_concept_that_was_removed_meanwhile_is_no_loss(bank):
    """Somebody removes the old one while the new one is learned."""
    done = []

    def remove(event):
        if event.phase == "learning" and not done:
            done.append(bank.remove("dog"))

    learn(bank, given={"steps": 2}, again="replace", on_progress=remove)
    assert [entry.name for entry in bank.entries()] == ["cat", "ink", "dog"]
    assert RunFolder(bank.path / ".runs" / "dog", "x").load() is None


def test_a_concept_that_another_program_changed_meanwhile_stays(bank):
    """The state is kept, and what replaces it next time is not learned again."""
    changed = []

    def change(event):
        if event.phase == "learning" and not changed:
            (old,) = (entry for entry in bank.entries() if entry.name == "dog")
            changed.append(bank.add(replace(bank["dog"], facts={"by": "others"}), replaces=old))

    asked = {"given": {"steps": 2}, "again": "replace"}
    with pytest.raises(BankError, match=r"'dog' was changed by another program meanwhile"):
        learn(bank, **asked, on_progress=change)
    assert bank["dog"].facts == {"by": "others"}
    steps = []
    learn(bank, **asked, on_progress=lambda event: steps.append(event.phase))
    assert "learning" not in steps
    assert bank["dog"].facts["steps"] == 2


def test_a_damaged_one_can_be_replaced_with_previews_on_the_way(bank):
    (entry,) = (entry for entry in bank.entries() if entry.name == "dog")
    data = bytearray(entry.path.read_bytes())
    data[-1] ^= 0xFF
    entry.path.write_bytes(data)
    with pytest.raises(BankError, match="dog"):
        learn(bank, again="go_on")
    drawn = []
    given = {"steps": 1, "preview_every": 1, "preview_prompt": "a <cat1> and <dog1> <dog2>"}
    learn(bank, given=given, again="replace", on_preview=lambda *seen: drawn.append(seen))
    assert len(drawn) == 1
    assert bank["dog"].facts["steps"] == 1


def test_files_that_cannot_be_read_are_named(bank):
    bank.file_for("x").write_bytes(b"no concept")
    with pytest.raises(
        BankError, match=r"to go on from but has files .*: 'x\.safetensors'\. Correct"
    ):
        learn(bank, words="<x1> <x2>", again="go_on")
