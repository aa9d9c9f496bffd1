"""The rules of the house, executed: lint, import directions, file sizes, banned words."""

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for top in ("cidm_core", "nodes") for path in (ROOT / top).rglob("*.py"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@cache
def imports():
    """What each of our modules imports of our own, also late and for types only."""
    files = [*SHIPPED, *(ROOT / "lab").rglob("*.py")]
    paths = {path.relative_to(ROOT).with_suffix("").parts: path for path in files}
    names = {".".join(parts).removesuffix(".__init__"): (parts, p) for parts, p in paths.items()}
    graph = {}
    for name, (parts, path) in names.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                # Beyond the top: the host loads both packages inside that of the pack.
                above = parts[: max(0, len(parts) - node.level)] if node.level else ()
                target = ".".join([*above, *filter(None, [node.module])])
                for alias in node.names:
                    inside = f"{target}.{alias.name}"
                    found.add(inside if inside in names else target)
        graph[name] = found & names.keys() - {name}
    return graph


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


def test_no_imports_go_in_a_circle():
    # The package's own file offers the public names of all modules, on demand.
    graph = {name: found for name, found in imports().items() if name != "cidm_core"}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # a CycleError tells the circle


def test_the_nodes_do_without_the_command_line():
    outside = ("cidm_core.cli", "cidm_core.commands", "cidm_core.demo", "lab")
    graph = imports()
    assert "cidm_core.bank" in graph["nodes.bank.banks"]
    found = [
        f"{name}: {each}"
        for name, wanted in graph.items()
        for each in wanted
        if name.startswith("nodes") and each.startswith(outside)
    ]
    assert not found


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
    assert total <= 25 * 2**20  # mini-sd, mini-sdxl and mini-clip
