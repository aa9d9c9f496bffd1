"""The rules of the house, executed: lint, import directions, file sizes, banned words."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "cidm_core").rglob("*.py"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_ruff_is_clean(check):
    result = run("ruff", *check, ".")
    assert result.returncode == 0, result.stdout


def test_imports_point_one_way():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_outgrows_its_room(path):
    assert len(path.read_text().splitlines()) <= 300


def test_shipped_code_has_nothing_that_scanners_ban():
    banned = re.compile(
        r"\bimport (torchvision|pickle|subprocess|importlib|zipfile|socket|ctypes)\b"
        r"|\bfrom (torchvision|pickle|subprocess|importlib|zipfile|socket)\b|\beval\(|\bexec\("
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SHIPPED
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if banned.search(line.replace(".eval(", ""))
    ]
    assert found == []


def test_the_readme_and_the_ci_run_the_same_test_command():
    section = (ROOT / "README.md").read_text().split("## Run the tests")[1]
    command = section.split("```")[1].split("\n", 1)[1].strip()
    assert "\n" not in command
    assert command in (ROOT / ".ci" / "run").read_text()


def test_weights_stay_small():
    total = sum(p.stat().st_size for p in (ROOT / "cidm_core").rglob("*.safetensors"))
    assert total <= 12 * 2**20
