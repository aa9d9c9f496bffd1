"""Evaluate Concepts with the host's own models, small and random."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "judging.py"


@pytest.fixture(scope="module")
def found(in_host, small_checkpoint, tmp_path_factory):
    return in_host(SCRIPT, small_checkpoint, tmp_path_factory.mktemp("judging"))


def test_whole_pictures(found):
    assert found["whole"]["table"].splitlines()[0].split() == ["concept", "IA"]
    assert "dog" in found["whole"]["table"]
    assert found["whole"]["shown"] == 1
    ia, ta, presence = found["whole"]["numbers"]
    assert -1 <= ia < 1
    assert (ta, presence) == (0.0, 0.0)


def test_each_concept_in_its_own_region(found):
    assert found["right"]["numbers"][0] == pytest.approx(1.0, abs=1e-3)
    assert found["right"]["numbers"][2] == 1.0
    assert found["swapped"]["numbers"][2] == 0.0
    assert found["swapped"]["numbers"][0] < found["right"]["numbers"][0]


def test_texts_are_projected_into_the_space_of_pictures(found):
    assert found["text"]["numbers"][1] == pytest.approx(2.5, abs=0.01)
    assert "nothing in common" not in found["text"]["table"]
    assert found["strange"]["numbers"][1] == 0.0
    assert "nothing in common" in found["strange"]["table"]


def test_how_far_pictures_are_from_those_of_the_class(found):
    assert found["whole"]["w2"] == 0.0
    assert found["class"]["w2"] > 0.01
    assert "(5 and 6 pictures)" in found["class"]["table"]
    assert "by chance" in found["class"]["table"]
    assert found["its own class"]["w2"] < 1e-3


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("few", "more regions (2) than concepts"),
        ("gap", "references_2 is not connected"),
        ("no text", "prompts has no line"),
        ("uneven", "2 lines for 3 pictures"),
        ("other width", "not of one CLIP"),
        ("no projection", "This CLIP has no text projection"),
        ("names", "More names (2)"),
        ("one class picture", "Sets of 5 and 1 pictures have no spread"),
    ],
)
def test_what_is_wrong_is_said(found, case, expected):
    assert expected in found[case]


def test_the_schema_in_a_running_host(server):
    schema = server.get("/object_info/CIDM_EvaluateConcepts")["CIDM_EvaluateConcepts"]
    assert list(schema["input"]["required"]) == ["images", "clip_vision", "references"]
    assert schema["output"] == ["STRING", "IMAGE", "FLOAT", "FLOAT", "FLOAT", "FLOAT"]
