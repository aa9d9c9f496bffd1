"""Help pages: every node has one, all its inputs are on it, and the messages are the real ones."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
NODES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
PAGES = sorted(DOCS.rglob("*.md"))
PAPERS = ("2410.17594", "2212.04488", "2404.14007", "2405.06914")
LARGEST = 80_000  # bytes of a picture
ABOUT_MESSAGES = ("| Message |", "| Text on the node |", "| 提示信息 |")
MORE = (ROOT / "README.md", ROOT / "docs" / "comfyui.md")


def messages(page):
    """The texts in the first column of a page's table of messages."""
    inside = False
    for line in page.read_text("utf-8").splitlines():
        inside = line.startswith(ABOUT_MESSAGES) or (inside and line.startswith("|"))
        if inside and (found := re.match(r"\| `(.+?)` \|", line)):
            yield found[1]


def said():
    """Every text of the code, with … for what is filled in."""
    for folder in ("nodes", "cidm_core"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


@pytest.fixture(scope="module")
def texts():
    """One long text; `'…'` counts as `…`, because pages leave the quotation marks out."""
    return re.sub(r"'?…+'?", "…", "\n".join(said()))


def test_pages_and_nodes_match():
    assert {page.stem for page in DOCS.glob("*.md")} == set(NODES)
    assert {page.parent.name for page in DOCS.glob("*/*.md")} <= set(NODES)


@pytest.mark.parametrize("name", sorted(NODES))
def test_a_page_shows_its_node(name):
    text = (DOCS / f"{name}.md").read_text("utf-8")
    assert text.startswith(f"# {NODES[name]['display_name'].replace(' (try-out)', '')}")
    assert f"](images/{name}.png)" in text
    assert any(f"arxiv.org/abs/{paper}" in text for paper in PAPERS)
    lacking = [field for field in NODES[name].get("inputs", {}) if f"`{field}`" not in text]
    assert not lacking


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=lambda page: str(page.relative_to(ROOT)))
def test_messages_are_those_of_the_code(page, texts):
    assert not [text for text in messages(page) if re.sub("…+", "…", text) not in texts]


def test_pictures_are_there_and_small():
    for page in PAGES:
        # The frontend looks for pictures from the docs folder, also for a page in a sub-folder.
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8")):
            assert (DOCS / name).stat().st_size < LARGEST, (page.name, name)
