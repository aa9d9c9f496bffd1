"""A method of another kind, from photos to pictures: stages, no words, no LoRA."""

import json

import pytest
import torch
from learning_samples import photos, same_weights, small_base, weights
from toy_method import Toy, ToyConfig

from cidm_core.bank import Bank
from cidm_core.cli import main
from cidm_core.config import SampleConfig, TrainConfig
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import CidmError, TrainingError
from cidm_core.methods import METHODS
from cidm_core.training.loop import Stopped
from cidm_core.updates import ValueResidual

GIVEN = {"steps": 8, "resolution_px": 32, "variants": 2}
DRAWN = SampleConfig(steps=4, width_px=32, height_px=32, seed=3)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Toy)


def learn(bank, given=None, base=None, **options):
    config = ToyConfig(**{**GIVEN, **(given or {})})
    options = {"class_words": "dog", "method": "toy", "config": config, **options}
    return train_concept(
        base or small_base(), Bank(bank), options.pop("photos", photos()), **options
    )


@pytest.fixture
def taught(tmp_path):
    learn(tmp_path)
    return Bank(tmp_path)


def test_it_is_learned_and_kept(taught):
    concept = taught["dog"]
    assert (concept.method, concept.words, concept.triggers) == ("toy", (), ("dog",))
    assert concept.config["rough"] == 0.5
    assert len(concept.updates) == len(small_base().layers)
    assert all(isinstance(each, ValueResidual) for each in concept.updates.values())
    assert all(each.vector.abs().max() > 0 for each in concept.updates.values())
    assert concept.rows == {}


def test_the_model_is_left_as_it_was(tmp_path):
    before = weights(small_base())
    learn(tmp_path)
    same_weights(before, weights(small_base()))


def test_stages_follow_each_other_and_are_told(tmp_path):
    events = []
    learn(tmp_path, on_progress=lambda e: events.append(e) if e.phase == "learning" else None)
    assert [event.step for event in events] == list(range(1, 9))
    assert [(e.stage, e.stage_step, e.stage_steps) for e in events] == [
        *(("rough", i, 4) for i in range(1, 5)),
        *(("fine", i, 4) for i in range(1, 5)),
    ]
    # constant, then falling
    assert [e.lr for e in events] == pytest.approx([0.02] * 4 + [0.02, 0.015, 0.01, 0.005])
    lines = (tmp_path / ".runs" / "dog" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["rough"] * 4 + ["fine"] * 4
    assert (tmp_path / ".runs" / "dog" / "loss.png").exists()


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_run_goes_on_inside_the_stage_it_was_stopped_in(tmp_path, taught, step):
    calls = iter(range(100))
    with pytest.raises(Stopped):
        learn(tmp_path / "again", should_stop=lambda: next(calls) - len(photos()) >= step)
    steps = []
    again = learn(
        tmp_path / "again",
        on_progress=lambda e: steps.append(e.step) if e.phase == "learning" else None,
    )
    assert steps == list(range(step + 1, 9))
    for path, update in taught["dog"].updates.items():
        assert torch.equal(again.updates[path].vector, update.vector), path


def test_only_prompts_with_its_class_words_change(taught):
    base = small_base()

    def drawn(prompt, bank):
        return generate(base, bank, prompt, config=DRAWN)[0].tobytes()

    assert drawn("a photo of a dog", taught) != drawn("a photo of a dog", {})
    assert drawn("a photo of a cat", taught) == drawn("a photo of a cat", {})


def test_mini_sd_learns_by_it(tmp_path):
    """The loss of a fixed draw falls: the vectors really act at the words' tokens."""
    base, losses = load_base("mini-sd", device="cpu", dtype="fp32"), []
    learn(
        tmp_path,
        {"steps": 30, "variants": 1, "crop_probability": 0.0, "batch_size": 2},
        base,
        photos=photos(count=1),
        on_progress=lambda e: losses.append(e.loss) if e.phase == "learning" else None,
    )
    assert sum(losses[-10:]) < sum(losses[:10])


def test_it_is_found_again_by_its_inputs(taught):
    same = {"class_words": "dog", "method": "toy", "config": ToyConfig(**GIVEN)}
    assert find_taught(small_base(), taught, photos(), **same).name == "dog"
    assert find_taught(small_base(), taught, photos(seed=1), **same) is None
    other = {**same, "config": ToyConfig(**GIVEN, lr=0.1)}
    assert find_taught(small_base(), taught, photos(), **other) is None


def test_plain_settings_will_do(tmp_path):
    concept = learn(tmp_path, config=TrainConfig(**{**GIVEN, "steps": 2}))
    assert (concept.config["steps"], concept.config["lr"]) == (2, 0.02)


def test_words_and_settings_of_others_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="toy teaches no words: 'dog' itself will call"):
        learn(tmp_path, words="<dog1>")
    with pytest.raises(CidmError, match="ToyConfig holds settings of another method; cidm takes"):
        learn(tmp_path, method="cidm", words="<dog1>")


def test_the_command_line_has_its_settings_and_refuses_those_of_others(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method", "toy", "--help"])
    text = capsys.readouterr().out
    assert "--rough" in text
    assert "--words WORDS  " not in text
    assert "--lr-lora" not in text
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "--lr-lora" in text
    assert "--rough" not in text
    for flag in ("--lr-lora", "--orthogonality=none", "--no-use-concept-masks"):
        with pytest.raises(SystemExit) as done:
            main(["train", "--method=toy", "--bank", "b", flag, "1"])
        assert done.value.code == 2
        name = flag.partition("=")[0]
        assert f"{name} is a setting of the method cidm, not of toy." in capsys.readouterr().err
    for flag in ("--words", "--prior=dogs", "--subjects"):
        with pytest.raises(SystemExit):
            main(["train", "--method=toy", "--bank", "b", flag, "1"])
        said = capsys.readouterr().err
        name = flag.partition("=")[0]
        assert f"{name} is not for the method toy, which makes no use of it." in said
        assert "--words WORDS" not in said


def test_the_command_line_learns_by_it(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    photos()[0].image.save(folder / "1.png")
    words = ["train", "--bank", str(tmp_path / "b"), "--photos", str(folder), "--method", "toy"]
    words += ["--class-words", "cat", "--steps", "2", "--lr", "0.1", "--json", "--device", "cpu"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["words"], told["config"]["lr"]) == ("toy", [], 0.1)
