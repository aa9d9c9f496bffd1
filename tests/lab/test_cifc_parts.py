"""The benchmark's ablations and its long run, with a step or two of training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.load import load_base
from lab.cifc.baselines.class_kept import ClassKept
from lab.cifc.cells import seconds_of
from lab.cifc.parts import ablations
from lab.cifc.parts.ablations import (
    Change,
    ablation_cells,
    ablation_results,
    changed_learner,
    task_order,
)
from lab.cifc.parts.long import long_cells, long_results
from lab.cifc.reports import tables
from lab.cifc.reports.figures import bank_picture
from lab.cifc.run import BenchmarkRequest, make_benches
from lab.cifc.sizes import Ablation, Long, Sizes
from lab.cifc.tasks import long_suite, mini_suite

TRAINING_CHANGES = (
    Change("half the steps", settings={"steps": 0.5}),
    Change("R1", settings={"orthogonality": "subspace", "gamma1": 10}),
    Change("class kept", method=ClassKept),
)
WEIGHT_CHANGES = (
    Change("same", "the default by another name", {"top_k": 4}),
    Change("weak", settings={"strength": 0.0}),
)
REGION_CHANGES = (
    Change("no regions", settings={"regional_attention": False, "noise_estimation": False}),
)
SIZES = Sizes(
    "test",
    training={"steps": 2, "batch_size": 1, "variants": 2, "save_every": 0},
    sampling={"steps": 2},
    ablation=Ablation(tasks=(0, 1), prompts=2, images=1, scenes=1, scene_images=1),
    long=Long(concepts=3, banks=(1, 3), probes=2, prompts=2, images=1),
)


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    """Two look-alikes with their scene, and three concepts of the long run; nothing done yet."""
    whole = mini_suite()
    pair = tuple(whole.tasks[k] for k in (0, 6))
    suite = replace(whole, tasks=pair, orders=((0, 1),), scenes=whole.scenes[:1])
    base, clip = load_base("mini-sd", device="cpu"), load_clip("mini-clip", "cpu")
    request = BenchmarkRequest(parts=("long", "ablations"))
    folder = tmp_path_factory.mktemp("parts")
    return make_benches(base, clip, None, suite, long_suite(3), SIZES, folder, request)


@pytest.mark.lab
def test_ablations_change_one_thing_and_compare_pair_by_pair(benches, monkeypatch):
    for name in ("TRAINING_CHANGES", "WEIGHT_CHANGES", "REGION_CHANGES"):
        monkeypatch.setattr(ablations, name, globals()[name])
    bench = benches.main
    bench.board.work_off(ablation_cells(bench))
    found = ablation_results(bench)
    groups = found["groups"]
    for rows in groups.values():
        assert rows[0]["name"] == "default"
        assert not any(rows[0]["ia_change"].values())
    same, weak = groups["weights"][1:]
    assert not any(same["ia_change"].values())
    assert weak["ia_change"]["mean"] != 0
    assert groups["regions"][1]["ia_change"]["mean"] != 0
    shown = tables.ablation_markdown(found)
    assert all(
        f"| {change.name} |" in shown
        for change in (*TRAINING_CHANGES, *WEIGHT_CHANGES, *REGION_CHANGES)
    )

    half, r1, kept = (
        bench.learned(changed_learner(bench, change), task_order(bench), 2)
        for change in TRAINING_CHANGES
    )
    assert [concept.facts["steps"] for concept in half] == [1, 1]
    assert r1[0].config["gamma1"] == pytest.approx(10 * bench.training.gamma1)
    assert {concept.method for concept in kept} == {"class_kept"}


@pytest.mark.lab
def test_the_long_run_draws_old_and_new_concepts_from_a_growing_bank(benches):
    bench, cells = benches.long, long_cells(benches.long)
    bench.board.work_off(cells)
    found = long_results(bench)
    assert found["sizes"] == [1, 3]
    systems = found["systems"]
    assert [each["concepts"] for each in systems["ours"]["sizes"]] == [
        [bench.suite.tasks[0].name],
        [bench.suite.tasks[0].name, bench.suite.tasks[2].name],
    ]
    for each in systems["ours"]["sizes"]:
        assert not any(each["bank_gap"].values())  # equal to the last pixel
    assert systems["released-weights"]["sizes"][1]["bank_gap"]["mean"] != 0
    assert len(tables.long_table(found).splitlines()) == 2 + len(systems)
    assert min(bank_picture(found).size) > 200

    spent = seconds_of(bench.board, {"main": cells[:2], "long": cells})
    parts = spent["parts"]
    assert [parts[part]["cells"] for part in ("main", "long", "all")] == [
        2,
        len(cells) - 2,
        len(cells),
    ]
    for kinds in (spent["work"], {"main": parts["main"], "long": parts["long"]}):
        total = sum(each["cpu_seconds"] for each in kinds.values())
        assert total == pytest.approx(parts["all"]["cpu_seconds"], abs=0.1 * len(kinds))
    assert "| long |" in tables.time_table(parts)


def test_the_tables_of_record_follow_from_the_numbers_of_record():
    """Also rows of ideas that have left the code since."""
    record = Path(tables.__file__).parents[1] / "results"
    results = json.loads((record / "results.json").read_text())
    assert tables.markdown(results) == (record / "tables.md").read_text()
    assert tables.ablation_markdown(results["ablations"]) == (record / "ablations.md").read_text()
    assert min(bank_picture(results["long"]).size) > 200
