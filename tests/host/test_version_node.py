"""Concept Version in ComfyUI; the script says what each figure is."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "versions.py"


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


def test_the_version_is_drawn_as_it_was(found):
    assert found["effect"] > 0.05
    assert found["then"] == 0.0
    assert found["now"] == 0.0


def test_it_goes_with_strengths_in_any_order(found):
    assert found["with strengths"] == 0.0
    assert found["strengths first"] == 0.0


def test_a_prompt_keeps_its_version(found):
    assert found["of the prompt"] == 0.0
    assert found["saved"] == 0.0


def test_the_versions_are_listed(found):
    rows = found["told"].splitlines()
    assert rows[0] == "c1"
    assert [row.split()[0] for row in rows[1:]] == ["version", "1", "now"]
