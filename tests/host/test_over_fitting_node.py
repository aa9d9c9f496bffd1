"""Measure Over-fitting on mini-sd: numbers of the other host, progress, cancelling, refusals."""

import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "measuring.py"
DIVERGENCES = ("elsewhere", "at_class", "elsewhere_merged", "at_class_merged")


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


def ends(measured):
    return [measured[name] for name in ("low", "value", "high")]


def test_both_hosts_measure_the_same(found):
    assert [each["method"] for each in found["measured"]] == ["cidm", "infusion"]
    for mine, other in zip(found["measured"], found["other host"], strict=True):
        # The VAE is the host's own, and pictures have 256 levels.
        assert ends(mine["wasserstein"]) == pytest.approx(ends(other["wasserstein"]), abs=0.002)
        assert ends(mine["likeness"]) == pytest.approx(ends(other["likeness"]), abs=1e-3)
        for name in DIVERGENCES:
            for form in ("weighted", "plain"):
                expected = pytest.approx(ends(other[name][form]), rel=0.005)
                assert ends(mine[name][form]) == expected, (name, form)


def test_what_is_zero_and_what_is_not(found):
    cidm, infusion = found["measured"]
    assert cidm["elsewhere"]["weighted"]["high"] == 0  # takes no part where it is not called
    assert cidm["elsewhere_merged"]["weighted"]["low"] > 0
    assert infusion["elsewhere_merged"]["weighted"]["high"] == 0  # acts at its class words alone
    assert infusion["at_class_merged"]["weighted"]["low"] > 0
    assert min(cidm["wasserstein"]["value"], infusion["wasserstein"]["value"]) > 0


def test_table_plot_and_means(found):
    lines = found["table"].splitlines()
    assert {"W2", "LFD"} <= set(lines[0].split())
    assert [line.split()[0] for line in lines[-2:]] == ["c1", "infused"]
    assert re.search(r"\d\.\d+ \[\d\.\d+, \d\.\d+\]", lines[-1])
    assert found["shown"] == 1
    assert found["plot"][2] > 2 * found["plot"][1]  # two frames side by side
    likeness, w2, lfd = found["means"]
    rows = found["measured"]
    assert likeness == pytest.approx(sum(each["likeness"]["value"] for each in rows) / 2)
    assert w2 == pytest.approx(sum(each["wasserstein"]["value"] for each in rows) / 2)
    gaps = [each["at_class_merged"]["weighted"]["value"] for each in rows]
    assert lfd == pytest.approx(sum(gaps) / 2)


def test_progress_ends_at_the_whole_and_nothing_is_left_behind(found):
    done, totals = zip(*found["progress"], strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert found["kept"]
    assert found["loaded"] <= 2  # the eye and the VAE, which are the host's own


def test_cancel_ends_it_within_a_step(found):
    assert found["cancelled"] == [3, 1]  # a batch takes two steps


def test_one_concept_by_its_words_with_photos_from_a_socket(found):
    assert "c1" in found["single"]
    assert "infused" not in found["single"]


def test_photos_of_a_folder_are_looked_at_again_when_they_change(found):
    assert found["fingerprint"] == [True, True]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("both", "Both references (1) and the photo folder 'photos' are given"),
        ("none", "There are no photos to compare with"),
        ("several", "photos of one concept, and 2 are measured (c1, infused)"),
        ("folder", "has no folder named as a concept (c1, infused)"),
        ("name", "has no concept 'c2'"),
        ("few", "cannot be told from 7 pictures"),
        ("empty", "holds no concept yet"),
        ("size", "33"),
        ("base", "was learned on another MINI model"),
        ("base allowed", "accepted"),
    ],
)
def test_what_is_wrong_is_said(found, case, said):
    assert said in found["wrong"][case]


def test_the_schema_in_a_running_host(server):
    schema = server.get("/object_info/CIDM_MeasureOverFitting")["CIDM_MeasureOverFitting"]
    assert list(schema["input"]["required"]) == ["model", "clip", "vae", "bank", "clip_vision"]
    assert schema["output"] == ["STRING", "IMAGE", "STRING", "FLOAT", "FLOAT", "FLOAT"]
    assert schema["output_node"]
