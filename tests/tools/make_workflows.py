"""Write workflows/*.json with the real frontend: `python tests/tools/make_workflows.py [title]`.

Needs a ComfyUI as the host tests do, and a browser as the browser tests do.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "host")]

import server as host  # noqa: E402
from browser import canvas  # noqa: E402
from browser.page import Page  # noqa: E402

import workflows  # noqa: E402

FOLDER, BLUEPRINTS = host.ROOT / "workflows", host.ROOT / "subgraphs"


def main(wanted: str = "") -> None:
    """Make those whose title has the word in it."""
    with host.running(Path(tempfile.mkdtemp())) as server:
        page = Page()
        for make in workflows.ALL:
            workflow = make()
            if wanted.lower() in workflow.title.lower():
                _open_anew(page, server)
                write(page, workflow)
        if wanted.lower() in workflows.blueprint().title.lower():
            _open_anew(page, server)
            write_blueprint(page)
        page.stop()


def _open_anew(page: Page, server: host.Server) -> None:
    """The classic canvas, without values of other workflows, which an open one keeps."""
    page.leave()
    page.open(server, **{"Comfy.VueNodes.Enabled": False})


def write(page: Page, workflow: workflows.Workflow) -> None:
    """One file, without what only says who made it and when."""
    made = canvas.build(page, workflow.spec())
    made.pop("id", None)
    made["extra"].pop("ds", None)
    path = FOLDER / f"{workflow.title}.json"
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_blueprint(page: Page) -> None:
    """The subgraph of a workflow that is made only for it."""
    workflow = workflows.blueprint()
    canvas.build(page, workflow.spec())
    ids = workflow.ids()
    spec = {
        "inside": [ids[key] for key in workflows.INSIDE],
        "shown": [(label, ids[key], widget) for label, key, widget in workflows.SHOWN],
        "outputs": [("layout", ids["regions"], 1)],
        "name": workflow.title,
        "description": "Draws several learned concepts, each in its own box.",
        "category": "Image generation and editing/Regional concepts",
        "sockets": {"elements": "boxes", "latent_image": "latent", "output": "latent"},
    }
    made = canvas.wrap(page, spec)
    BLUEPRINTS.mkdir(exist_ok=True)
    path = BLUEPRINTS / f"{workflow.title}.json"
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
