"""What goes to ComfyUI's registry: the files of its archive, and what its scan looks at."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[2]
MEGABYTE = 2**20
NEEDED = ("__init__.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt")
ENDINGS = {
    ".css",
    ".jpg",
    ".js",
    ".json",
    ".md",
    ".png",
    ".py",
    ".safetensors",
    ".toml",
    ".txt",
    ".typed",
}
# What the host installs for itself (its requirements.txt), and what comes with these.
OF_THE_HOST = {"PIL", "einops", "numpy", "safetensors", "torch", "tqdm", "transformers", "yaml"}
OF_THE_HOST |= {"psutil"}
OF_THE_HOST |= {"huggingface_hub", "comfy", "comfy_api", "comfy_execution", "folder_paths"}
OF_THE_HOST |= {"aiohttp", "node_helpers", "nodes", "execution", "latent_preview", "server"}
BANNED_MODULES = {
    *("cffi", "cloudpickle", "code", "ctypes", "dill", "ftplib", "http", "imp", "importlib"),
    *("marshal", "multiprocessing.connection", "pickle", "pip", "pty", "requests", "runpy"),
    *("shelve", "smtplib", "socket", "subprocess", "telnetlib", "urllib", "webbrowser", "zipfile"),
}
BANNED_CALLS = {"__import__", "compile", "eval", "exec"}
BANNED_OS = re.compile(r"os\.(system|popen|exec\w*|spawn\w*|posix_spawn\w*|startfile)")


def git(*command):
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no git checkout: {done.stderr.strip()}")
    return {PurePosixPath(name) for name in done.stdout.split("\0") if name}


@cache
def packed():
    """Paths in the archive: what git tracks, without the patterns of .comfyignore."""
    ignored = git("ls-files", "-z", "--cached", "--ignored", "--exclude-from=.comfyignore")
    return sorted(path for path in git("ls-files", "-z") - ignored if (ROOT / path).is_file())


@cache
def modules():
    """Syntax trees of the Python files in the archive."""
    return {
        path: ast.parse((ROOT / path).read_text("utf-8"))
        for path in packed()
        if path.suffix == ".py"
    }


def imported(tree):
    """Absolute module names a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def requirements():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_everything_a_user_needs_is_packed():
    names = {str(path) for path in packed()}
    assert set(NEEDED) <= names
    for folder in ("nodes", "cidm_core", "web", "locales", "workflows"):
        tracked = {str(path) for path in git("ls-files", "-z", folder)}
        assert tracked <= names, folder
    assert {path.parts[2] for path in packed() if path.parts[:2] == ("cidm_core", "mini")} >= {"sd"}


def test_nothing_for_developers_is_packed():
    tops = {path.parts[0] for path in packed()}
    assert not tops & {"tests", "lab", ".ci", ".github", "requirements-dev.txt"}
    assert not [str(path) for path in packed() if path.name.startswith(".")]


def test_the_wheel_holds_the_package_alone():
    find = pytest.importorskip("setuptools").find_namespace_packages
    names = find(ROOT, **project()["tool"]["setuptools"]["packages"]["find"])
    assert {name.partition(".")[0] for name in names} == {"cidm_core"}


def test_only_kinds_of_files_that_cannot_run_by_themselves():
    strange = [str(p) for p in packed() if p.suffix not in ENDINGS and p.name != "LICENSE"]
    assert not strange


def test_the_archive_stays_small():
    sizes = {path: (ROOT / path).stat().st_size for path in packed()}
    assert sum(sizes.values()) < 34 * MEGABYTE
    assert max(sizes.values()) < 11 * MEGABYTE


def test_no_module_the_scan_flags_is_imported():
    found = [
        f"{path}: {name}"
        for path, tree in modules().items()
        for name in imported(tree)
        if name in BANNED_MODULES or name.partition(".")[0] in BANNED_MODULES
    ]
    assert not found


def test_no_call_the_scan_flags():
    found = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = name == "torch.load" and keywords.get("weights_only") != "True"
            unsafe |= name == "yaml.load"
            if name in BANNED_CALLS or BANNED_OS.fullmatch(name) or unsafe:
                found.append(f"{path}:{node.lineno}: {name}")
    assert not found


def test_the_checks_of_the_registrys_own_tool_pass():
    # `comfy node validate` runs these rules of ruff.
    files = [str(path) for path in modules()]
    command = [sys.executable, "-m", "ruff", "check", "-q", "--isolated"]
    command += ["--select", "S102,S307,E702", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_inside_the_pack_imports_are_relative():
    found = [
        f"{path}: {name}"
        for path, tree in modules().items()
        for name in imported(tree)
        if name.partition(".")[0] == "cidm_core"
    ]
    assert not found


def test_only_the_nodes_know_the_host():
    host = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution"}
    found = [
        f"{path}: {name}"
        for path, tree in modules().items()
        for name in imported(tree)
        if name.partition(".")[0] in host and path.parts[0] != "nodes"
    ]
    assert not found


def test_every_dependency_is_declared():
    declared = {re.split(r"[<>=]", line)[0] for line in requirements()}
    used = {name.partition(".")[0] for tree in modules().values() for name in imported(tree)}
    missing = used - declared - OF_THE_HOST - set(sys.stdlib_module_names)
    assert not missing


def test_requirements_are_lower_bounds_the_package_shares():
    ours = project()["project"]["dependencies"]
    for line in requirements():
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line)
        assert line in ours


def test_the_registry_understands_the_project_file():
    data = project()
    found = data["project"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", found["name"])
    assert "comfyui" not in found["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["version"])
    assert isinstance(found["license"], str)
    comfy = data["tool"]["comfy"]
    assert comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    systems = [c for c in found["classifiers"] if c.startswith("Operating System :: ")]
    assert systems == ["Operating System :: OS Independent"]


OWNER = """
[project.urls]
Repository = "https://example.org/pack"
[tool.comfy]
PublisherId = "somebody"
Icon = "https://example.org/icon.png"
Banner = "https://example.org/banner.png"
"""


@pytest.mark.parametrize("lacking", ["", "Repository", "PublisherId", "Icon", "Banner", "TOKEN"])
def test_no_release_without_what_only_the_owner_knows(tmp_path, lacking):
    file = tmp_path / "pyproject.toml"
    lines = OWNER.splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not lacking or lacking not in line))
    token = {} if lacking == "TOKEN" else {"REGISTRY_ACCESS_TOKEN": "a key"}
    script = [sys.executable, ROOT / ".ci" / "release_check.py", file]
    done = subprocess.run(script, env=token, capture_output=True, text=True, check=False)
    assert done.returncode == bool(lacking)
    said = done.stdout.splitlines()
    assert len(said) == bool(lacking)
    assert all(lacking in line for line in said)


def test_publishing_asks_for_what_only_the_owner_knows():
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    check, publish = workflow.index("release_check.py"), workflow.index("publish-node-action")
    assert check < publish


def test_the_workflow_tests_the_oldest_version_that_is_promised():
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    oldest = project()["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert f'"v{oldest}"' in workflow
    assert "needs: tests" in workflow
