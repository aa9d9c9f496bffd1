"""Write workflows/*.json with the real frontend: `python tests/tools/make_workflows.py [title]`.

Needs a ComfyUI as the host tests do, and a browser as the browser tests do.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "host"), str(HERE.parent / "host" / "browser")]

import canvas  # noqa: E402
import server as host  # noqa: E402
from page import Page  # noqa: E402

import workflows  # noqa: E402

FOLDER = host.ROOT / "workflows"


def main(wanted: str = "") -> None:
    """Make those whose title has the word in it."""
    running = host.Server(Path(tempfile.mkdtemp()))
    try:
        running.wait()
        page = Page()
        page.open(running, **{"Comfy.VueNodes.Enabled": False})
        for make in workflows.ALL:
            workflow = make()
            if wanted.lower() in workflow.title.lower():
                write(page, workflow)
        page.stop()
    finally:
        running.stop()


def write(page: Page, workflow: workflows.Workflow) -> None:
    """One file, without what only says who made it and when."""
    made = canvas.build(page, workflow.spec())
    made.pop("id", None)
    made["extra"].pop("ds", None)
    path = FOLDER / f"{workflow.title}.json"
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
