"""A quick forgetting benchmark that notices broken parts, and the command around it.

Two look-alikes are learned one after the other on mini-sd, for a tenth of the usual pictures, and
drawn with the easiest prompts. The bounds are loose; that they are not empty is shown by breaking
aggregation and consolidation on purpose: the same checks then fail.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.load import load_base
from cidm_core.methods.cidm import Cidm
from cidm_core.ops import aggregation
from cidm_core.sampling import plan
from lab.cifc import sizes as sizes_module
from lab.cifc.cells import each_once
from lab.cifc.command import main
from lab.cifc.draw_cells import draw_key
from lab.cifc.learners import LEARNERS
from lab.cifc.parts.long import OWN
from lab.cifc.parts.main import main_cells, main_results
from lab.cifc.parts.perfect import perfect_cells, perfect_results
from lab.cifc.parts.strengths import strength_cells, strength_results
from lab.cifc.reports import tables
from lab.cifc.reports.figures import contact_picture, forgetting_picture
from lab.cifc.reports.likeness import likeness_picture
from lab.cifc.run import BenchmarkRequest, make_benches
from lab.cifc.sizes import Sizes
from lab.cifc.systems import SYSTEMS
from lab.cifc.tasks import mini_suite

PROMPTS = (
    "a photo of a <TOK>, gray background",
    "a <TOK> on the left, green background",
    "a <TOK> on grass",
    "a large <TOK> in the middle, blue background",
)
SIZES = Sizes(
    "test",
    prompts=4,
    images=2,
    own_images=2,
    row_images=1,
    training={
        "steps": 100,
        "batch_size": 1,
        "lr_lora": 3e-3,
        "lr_tokens": 1.5e-2,
        "variants": 8,
        "save_every": 0,
    },
    sampling={"steps": 8},
    strengths={"ours": (0.4,)},
)
ALONE = replace(OWN, name="oracle")  # the bank's own concepts, each drawn without the other
COMPARED = (SYSTEMS["ours"], ALONE)
WITH_PAPER = (SYSTEMS["ours"], SYSTEMS["paper"])  # which has R1 and R2


def look_alikes():
    """The suite's two cats, one order, easy prompts."""
    whole = mini_suite()
    tasks = tuple(replace(whole.tasks[k], prompts=PROMPTS) for k in (2, 8))
    return replace(whole, tasks=tasks, orders=((0, 1),), scenes=())


@pytest.fixture(scope="module")
def hosts():
    return load_base("mini-sd", device="cpu"), load_clip("mini-clip", "cpu")


def run(hosts, folder, compared=COMPARED):
    """All cells of the systems, and what they found."""
    base, clip = hosts
    request = BenchmarkRequest(systems=("ours", "paper"), parts=("main",))
    bench = make_benches(base, clip, None, look_alikes(), None, SIZES, folder, request).main
    if SYSTEMS["paper"] in compared:
        share_the_first(bench)
    bench.board.work_off(each_once(main_cells(bench, compared)))
    return bench, main_results(bench, compared)


def share_the_first(bench):
    """The paper's has nothing to be consolidated with at first: it goes on from ours."""
    ours, paper = LEARNERS["ours"], LEARNERS["paper"]
    order, task = bench.suite.orders[0], bench.suite.tasks[0]
    cell, *_ = bench.train_cells(ours, order)
    bench.board.work_off([cell])
    if not bench.board.done(key := bench.train_key(paper, order, 0)):
        shutil.copytree(bench.folder(ours, order, task), bench.folder(paper, order, task))
        bench.board.write(key, bench.board.read(cell.key))


@pytest.fixture(scope="module")
def quick(hosts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifc")
    return (folder, *run(hosts, folder))


def check_nothing_is_lost(found):
    """With the whole bank each concept is what it is alone, and what it was at first."""
    assert abs(found["ours"]["oracle_gap"]["ia"]["mean"]) <= 0.003
    assert found["ours"]["forgetting"]["lowest_retention"] >= 0.99


def check_all_are_learned(found, system="ours"):
    """The later concept as well as the first."""
    for scores in found[system]["concepts"].values():
        assert scores["ia"] >= 0.25
        assert scores["ta"] >= 0.6
    assert found[system]["confusion"]["accuracy"] >= 0.75


@pytest.mark.lab
def test_concepts_are_learned_and_kept(quick):
    check_nothing_is_lost(quick[2])
    check_all_are_learned(quick[2])


@pytest.mark.lab
def test_consolidation_leaves_room_to_learn(quick, hosts):
    _, found = run(hosts, quick[0], WITH_PAPER)
    check_all_are_learned(found, "paper")


@pytest.mark.lab
def test_perfect_pictures_and_strengths_are_points_of_reference(quick):
    """Nothing drawn by a model is more like the photos; weaker concepts are less like them."""
    _, bench, found = quick
    more = perfect_cells(bench), strength_cells(bench, COMPARED)
    bench.board.work_off(each_once(main_cells(bench, COMPARED), *more))
    perfect, strengths = perfect_results(bench), strength_results(bench, COMPARED)
    assert perfect["scores"]["ia"]["mean"] > found["ours"]["scores"]["ia"]["mean"]
    assert perfect["scores"]["ta"]["mean"] > 0.6
    assert [*strengths] == ["ours"]
    weak, full = strengths["ours"]
    assert (weak["strength"], full["strength"]) == (0.4, 1.0)
    assert weak["ia"]["mean"] < full["ia"]["mean"] - 0.02
    assert full["ia"] == found["ours"]["scores"]["ia"]
    results = {"main": found, "perfect": perfect, "strengths": strengths}
    assert tables.summary_table(found, perfect).splitlines()[2].startswith("| Perfect pictures")
    assert len(tables.strength_table(found, strengths).splitlines()) == 4
    assert likeness_picture(results).size == likeness_picture({"main": found}).size


@pytest.mark.lab
def test_what_is_equal_by_construction_is_drawn_once(quick):
    _, bench, _ = quick
    ours = [draw_key(bench, SYSTEMS["ours"], (0, 1), count, 0) for count in (1, 2)]
    own = draw_key(bench, ALONE, (0, 1), 2, 0)
    cells = [bench.board.read(key) for key in (*ours, own)]
    assert len({cell["content"] for cell in cells}) == 1
    assert sorted(cell["drawn"] for cell in cells) == [0, 0, 2]


@pytest.mark.lab
def test_what_shares_a_name_is_equal_in_every_pixel(quick):
    _, bench, _ = quick
    first, both = (bench.learned(LEARNERS["ours"], (0, 1), count) for count in (1, 2))
    pictures = [
        SYSTEMS["ours"]
        .draw(
            bench.base,
            SYSTEMS["ours"].arrange(learned, first[0].name),
            [f"a {first[0].trigger} on grass"],
            bench.sampling({}),
        )[0]
        .tobytes()
        for learned in (first, both)
    ]
    assert pictures[0] == pictures[1]


def uniform(relevance, *_args, **_more):
    return torch.full_like(relevance, 1 / relevance.shape[-1])


def of_another(relevance, *args, **more):
    return RIGHT(relevance, *args, **more).roll(1, -1)


RIGHT = aggregation.normalise


@pytest.mark.lab
@pytest.mark.parametrize("broken", [uniform, of_another])
def test_broken_aggregation_is_noticed(quick, hosts, tmp_path, monkeypatch, broken):
    for kept in ("banks", "train"):
        shutil.copytree(quick[0] / "work" / kept, tmp_path / "work" / kept)
    monkeypatch.setattr(plan, "participants", lambda bank, *_: tuple(bank.values()))
    monkeypatch.setattr(aggregation, "normalise", broken)
    _, found = run(hosts, tmp_path, COMPARED)
    with pytest.raises(AssertionError):
        check_nothing_is_lost(found)


@pytest.mark.lab
def test_broken_consolidation_is_noticed(quick, hosts, tmp_path, monkeypatch):
    """Only the second task is learned again: the first has nothing to be consolidated with."""
    for kept in ("banks/main/ours", "train/main/ours"):
        shutil.copytree(quick[0] / "work" / kept, tmp_path / "work" / kept)
    right = Cidm.penalties

    def flipped(self):
        return {name: -1e3 * term for name, term in right(self).items()}

    monkeypatch.setattr(Cidm, "penalties", flipped)
    _, found = run(hosts, tmp_path, WITH_PAPER)
    check_all_are_learned(found)  # ours has no such terms
    with pytest.raises(AssertionError):
        check_all_are_learned(found, "paper")


@pytest.mark.lab
def test_tables_and_pictures_show_what_was_found(quick):
    _, bench, found = quick
    rows = tables.summary_table(found).splitlines()
    assert rows[0].count("|") == rows[2].count("|") == 9
    assert "0.00 [0.00, 0.00]" in rows[2]  # ours, and its gap
    assert tables.concept_table(found, "ia").count("V9-cat") == 1
    maps, sheet = forgetting_picture(found), contact_picture(bench, COMPARED)
    assert min(*maps.size, *sheet.size) > 200


def test_the_command_writes_reports_goes_on_and_keeps_runs_apart(tmp_path, capsys, monkeypatch):
    small = replace(sizes_module.QUICK_RUN, tasks=(0, 6), prompts=2, scenes=1, scene_images=1)
    monkeypatch.setattr(sizes_module, "QUICK_RUN", small)
    few = ["--quick", "--train-steps", "1", "--steps", "1", "--images", "1", "--systems", "ours"]
    few += ["--device", "cpu", "--quiet", "--json", "--out", str(tmp_path / "out")]
    assert main([*few, "--only", "main", "--commit", "abc"]) == 0
    found = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["main"] == found["main"]
    assert (written["commit"], written["size"], [*written["main"]]) == ("abc", "quick", ["ours"])
    assert written["command"].startswith("python -m lab.cifc --quick --train-steps 1 ")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"forgetting.png", "contact_sheet.png", "likeness.png"}
    assert names >= {"results.json", "tables.md", *pictures}
    shown = (tmp_path / "out" / "tables.md").read_text()
    assert "| CIDM (ours) |" in shown
    assert "| Perfect pictures" in shown

    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "work").rglob("*.json")}
    assert main(few) == 0  # now with scenes; nothing is done twice
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    again = json.loads(capsys.readouterr().out)
    assert again["main"] == found["main"]
    assert set(again["multi"]) == {"none", "attention", "noise", "both", "mix_of_show"}
    assert (tmp_path / "out" / "scenes.png").exists()

    assert main([*few, "--seed", "1"]) == 1
    assert "its seed differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    "checkpoint", ["tiny_checkpoint", pytest.param("xl_checkpoint", marks=pytest.mark.lab)]
)
def test_the_real_thing_runs_from_a_checkpoint_a_clip_and_a_folder(
    checkpoint, clip_folder, tmp_path, monkeypatch, request
):
    """SD 1.5's layout and SDXL's, random weights, small pictures."""
    px = {"width_px": 128, "height_px": 128}
    paper = sizes_module.PAPER_PROTOCOL
    sampling = {**paper.sampling, **px}
    small = replace(paper, training={"resolution_px": 128}, sampling=sampling, scene_images=1)
    monkeypatch.setattr(sizes_module, "PAPER_PROTOCOL", small)
    for name in ("dog", "cat"):
        for kind, write in (("images", save_photo), ("captions", save_caption)):
            (tmp_path / "data" / kind / name).mkdir(parents=True)
            write(tmp_path / "data" / kind / name, name)
    prompts = tmp_path / "data" / "evaluation_prompts"
    prompts.mkdir()
    (prompts / "test_pet.txt").write_text("a <TOK> in a garden\n")
    (tmp_path / "data" / "negative_prompt.txt").write_text("blurry\n")
    (tmp_path / "data" / "scenes.json").write_text(json.dumps(SCENES))
    model = request.getfixturevalue(checkpoint)
    given = ["--model", model, "--clip", clip_folder, "--data", tmp_path / "data"]
    few = ["--train-steps", "1", "--steps", "1", "--images", "1", "--quiet"]
    few += ["--only", "main", "multi"]
    few += ["--systems", "ours", "--device", "cpu"]
    out = tmp_path / "out"
    command = [*map(str, given), *few, "--out", str(out)]
    assert main(command) == 0
    found = json.loads((out / "results.json").read_text())
    assert (found["size"], found["suite"]) == ("paper", "data")
    assert set(found["main"]["ours"]["concepts"]) == {"dog", "cat"}
    assert not found["perfect"]
    assert (out / "likeness.png").exists()
    assert {row["concepts"]["2"]["scenes"] for row in found["multi"].values()} == {1}
    assert (out / "scenes.png").exists()


SCENES = {  # as in the paper's figures
    "concepts": {"V1": "dog", "V3": "cat", "V9": "cat2"},
    "scenes": [
        {
            "id": "3.1",
            "prompt": "artwork of a castle",
            "width_px": 64,
            "height_px": 64,
            "regions": [
                {"concept": "V1", "prompt": "a dog", "box": [0, 0.3, 0.45, 0.9]},
                {"concept": "V3", "prompt": "a cat with a hat", "box": [0.5, 0.4, 1, 1]},
            ],
        },
    ],
}


def save_photo(folder, _name):
    Image.effect_noise((64, 48), 60).convert("RGB").save(folder / "1.jpg")


def save_caption(folder, name):
    (folder / "1.txt").write_text(f"a photo of a {name}")


def test_wrong_commands_are_refused(capsys):
    assert main(["--systems", "best"]) == 1
    assert "There is no system 'best'" in capsys.readouterr().err
    assert main(["--data", "photos"]) == 1
    assert "no model was named" in capsys.readouterr().err
    assert main(["--orders", "0"]) == 1
    assert "--orders is 0" in capsys.readouterr().err
