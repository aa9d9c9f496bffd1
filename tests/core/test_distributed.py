"""Two CPU processes under `accelerate launch` learn what one learns, and share a benchmark."""

import json

import pytest
from launched_process import GIVEN, SYSTEMS, TASKS, told_apart, work
from launching import launch_two
from learning_samples import learn, small_base, small_folder

from cidm_core.bank import Bank

ALL_STEPS = list(range(1, GIVEN["steps"] + 1))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder two processes worked in, and what each of them saw."""
    folder = tmp_path_factory.mktemp("together")
    launch_two(work, small_folder(), folder)
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def losses(bank):
    path = bank / ".runs" / "dog" / "log.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def test_the_curve_is_that_of_one_process(together, tmp_path):
    folder, _ = together
    alone = learn(tmp_path, given=GIVEN)
    assert losses(folder / "whole") == pytest.approx(losses(tmp_path), rel=1e-4)
    stored = Bank(folder / "whole")["dog"]
    for key, pair in alone.low_rank.items():
        assert (stored.low_rank[key].down - pair.down).abs().max() < 1e-3, key


def test_words_are_contrasted_with_the_composites_of_all_processes(together, tmp_path):
    folder, ranks = together
    learn(tmp_path, **told_apart(small_base()))
    assert losses(folder / "contrast") == pytest.approx(losses(tmp_path), rel=1e-4)
    assert ranks[0]["contrast"]["digest"] == ranks[1]["contrast"]["digest"]


def test_one_file_is_written_and_both_return_it(together):
    folder, ranks = together
    assert [path.name for path in (folder / "whole").glob("*.safetensors")] == ["dog.safetensors"]
    assert len(losses(folder / "whole")) == GIVEN["steps"]
    assert ranks[0]["whole"]["digest"] == ranks[1]["whole"]["digest"]
    assert ranks[0]["whole"]["steps"] == ALL_STEPS
    assert ranks[1]["whole"]["steps"] == []  # only the main process talks


def test_both_stop_when_the_main_one_is_asked_to_and_both_go_on(together):
    _, ranks = together
    for rank in ranks:
        assert "Stopped at step 2 of 5" in rank["stopped"]["error"]
        assert rank["resumed"]["digest"] == rank["whole"]["digest"]
    assert ranks[0]["left"] == []
    assert ranks[0]["resumed"]["steps"] == ALL_STEPS[2:]


def test_they_share_the_work_of_a_benchmark(together):
    folder, ranks = together
    assert [rank["benchmark"] for rank in ranks] == [0, 0]
    out = folder / "cifc"
    cells = [
        json.loads(path.read_text())
        for kind in ("train", "draw")
        for path in (out / "work" / kind).rglob("*.json")
    ]
    assert len({cell["process"] for cell in cells}) == 2
    count = len(TASKS)
    assert len(cells) == len(SYSTEMS) * (count + count * (count + 1) // 2)  # a triangle of pictures
    assert tuple(json.loads((out / "results.json").read_text())["main"]) == SYSTEMS
