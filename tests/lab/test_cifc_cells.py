"""Cells of the benchmark: resumed, shared, never done twice; what names pictures and scores."""

import itertools
import math
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from bank_samples import make_concept
from examples import few
from hypothesis import given
from hypothesis import strategies as st

from cidm_core.config import SampleConfig
from cidm_core.errors import CidmError
from lab.cifc.cells import Board, BusyError, Cell, each_once
from lab.cifc.parts.scenes import scene_scores
from lab.cifc.scoring import Scores, by_prompt, content_key, digest
from lab.cifc.sizes import FULL_RUN, QUICK_RUN, restricted, spread
from lab.cifc.tasks import mini_suite


def chain(done, count=4, slow=0.0):
    """Cells of which each waits for the one before; `done` collects what was worked."""

    def work(k):
        def run():
            time.sleep(slow)
            done.append(k)
            return {"k": k}

        return run

    return [Cell(f"train/{k}", work(k), (f"train/{k - 1}",) if k else ()) for k in range(count)]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    done = []
    cells = chain(done)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Board(tmp_path).work_off([*cells[:2], replace(cells[2], work=interrupted), cells[3]])
    assert done == [0, 1]
    Board(tmp_path).work_off(cells)
    assert done == [0, 1, 2, 3]
    assert Board(tmp_path).read("train/2")["k"] == 2


def test_processes_share_cells_and_none_is_done_twice(tmp_path):
    done = []
    both = each_once(chain(done, 3, 0.02), [Cell(f"draw/{k}", lambda: {}) for k in range(5)])
    workers = [threading.Thread(target=Board(tmp_path).work_off, args=(both,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert sorted(done) == [0, 1, 2]
    assert all(Board(tmp_path).done(cell.key) for cell in both)


def test_a_claim_excludes_others_and_ends_with_its_process(tmp_path):
    board = Board(tmp_path)
    with board.claimed("draw/a"):
        with pytest.raises(BusyError), Board(tmp_path).claimed("draw/a"):
            pass
        with Board(tmp_path).claimed("draw/b"):
            pass
    if not (child := os.fork()):
        Board(tmp_path).claimed("draw/a").__enter__()
        os._exit(9)  # as if killed: nothing is cleaned up
    os.waitpid(child, 0)
    with board.claimed("draw/a"):
        pass


def test_a_busy_cell_is_left_for_later(tmp_path):
    tries = []

    def busy_once():
        tries.append(1)
        if len(tries) == 1:
            raise BusyError("drawn/x")
        return {}

    Board(tmp_path).work_off([Cell("draw/a", busy_once), Cell("draw/b", lambda: {})])
    assert len(tries) == 2


def test_progress_counts_cells_and_estimates_the_rest(tmp_path):
    heard = []
    cells = [Cell(f"draw/{k}", lambda: time.sleep(0.02) or {}, weight=2.0) for k in range(3)]
    Board(tmp_path).work_off(cells, lambda *event: heard.append(event))
    assert [event[:2] for event in heard] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert math.isnan(heard[0][3])
    assert heard[1][3] > heard[2][3] > heard[3][3] == 0.0


def test_lists_that_cannot_be_worked_off_are_refused(tmp_path):
    with pytest.raises(CidmError, match="needs train/0"):
        Board(tmp_path).work_off(chain([])[1:])
    with pytest.raises(CidmError, match="twice"):
        Board(tmp_path).work_off(chain([], 1) * 2)
    assert len(each_once(chain([], 2), chain([], 3))) == 3


def test_a_damaged_result_says_what_to_do(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.json").write_text("{half")
    with pytest.raises(CidmError, match="Delete it"):
        Board(tmp_path).read("train/0")


def test_content_is_named_by_all_that_decides_it_and_by_nothing_else():
    dog, cat, config = make_concept("dog"), make_concept("cat"), SampleConfig(seed=3)

    def key(
        concepts=(dog,), prompts=("a <dog-1>",), config=config, how="generate", by="c", share=1.0
    ):
        weights = [[[share] * len(concepts)]]
        return content_key("base", how, concepts, weights, prompts, config, by)

    assert key() == key((make_concept("dog"),), config=replace(config, num_images=9))
    path = next(iter(dog.low_rank))
    pair = dog.low_rank[path]
    louder = replace(dog, updates={**dog.low_rank, path: replace(pair, alpha=pair.alpha * 2)})
    nudged = replace(dog, rows={"text_encoder": dog.rows["text_encoder"] + 1e-3})
    other = [
        key((louder,)),
        key((nudged,)),
        key((dog, cat)),
        key((cat, dog)),
        key(prompts=("a <dog-1>", "b <dog-1>")),
        key(config=replace(config, seed=4)),
        key(config=replace(config, steps=4)),
        key(how="lora_composite"),
        key(by="d"),
        key(share=0.5),
    ]
    assert len({key(), *other}) == len(other) + 1
    assert digest(dog) == digest(replace(dog, index=7, created="now", facts={}))


def test_names_stay_so_that_earlier_runs_go_on():
    """Settings and files may change their form; what was drawn and learned keeps its name."""
    learned = "b91ce0e2aa05bd8464363a58799aaf9b1ec915faf6dcccfd5d3de240b26be1f5"
    made = make_concept("dog")  # random numbers differ from one CPU to another
    rows = {key: torch.arange(t.numel()).reshape(t.shape) / 64 for key, t in made.rows.items()}
    assert digest(replace(made, rows=rows, updates={})) == learned
    asked = "base", "generate", (), [[[0.5]]], ["a <dog-1>"], SampleConfig(seed=3), "clip"
    assert content_key(*asked) == "91b7e698f9aed6a46d6ce0d8b717eb49"


def test_pictures_drawn_later_join_those_before():
    first = Scores(*[[[0.1, 0.2], [0.3, 0.4]] for _ in range(5)], dino=[[], []])
    more = Scores(*[[[0.5], [0.7]] for _ in range(5)], dino=[[], []])
    whole = first.joined(more)
    assert whole.ia == [[0.1, 0.2, 0.5], [0.3, 0.4, 0.7]]
    assert (whole.images, whole.dino) == (3, [[], []])
    assert whole.first(2) == first
    assert by_prompt(first.ta) == pytest.approx([0.15, 0.35])


def test_what_stands_in_the_boxes():
    # Two pictures, two boxes that belong to tasks 2 and 0 of three.
    right = [[0.1, 0.2, 0.9], [0.8, 0.2, 0.1]]
    stranger = [[0.1, 0.9, 0.5], [0.2, 0.1, 0.6]]  # first: none of the scene's; second: swapped
    scores = scene_scores({"own": [2, 0], "cosines": [right, stranger], "ta": [1.0, 0.5]})
    assert scores["present"] == 0.5
    assert scores["among"] == 0.75
    assert scores["swapped"] == 0.25
    assert scores["all_present"] == 0.5
    assert scores["ia"] == pytest.approx((0.9 + 0.8 + 0.5 + 0.2) / 4)
    assert scores["ta"] == 0.75


@given(st.integers(0, 50), st.integers(1, 60))
@few
def test_spread_is_even_and_starts_at_the_first(count, wanted):
    chosen = spread(count, wanted)
    assert len(chosen) == min(count, wanted)
    assert list(chosen) == sorted(set(chosen))
    assert not chosen or (chosen[0] == 0 and chosen[-1] < count)
    gaps = {b - a for a, b in itertools.pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_part_of_the_suite_keeps_orders_and_whole_scenes():
    whole, part = mini_suite(), restricted(mini_suite(), QUICK_RUN)
    assert [task.name for task in part.tasks] == [whole.tasks[k].name for k in QUICK_RUN.tasks]
    assert part.orders == ((0, 1, 2, 3, 4),)
    names = {task.name for task in part.tasks}
    assert part.scenes
    assert all(each.task in names for scene in part.scenes for each in scene.parts)
    assert restricted(whole, FULL_RUN).orders == whole.orders
