"""Pictures of graphs for the documents: run what is shown, move the view there, take it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .page import Page

AT = (70, 120)  # below and beside what lies on top of the canvas
_LISTEN = """() => {
  window.ended = null;
  app.api.addEventListener("execution_success", () => { window.ended = ""; });
  app.api.addEventListener("execution_error", ({ detail }) => {
    window.ended = detail.exception_message;
  });
}"""
_RUN = "() => app.queuePrompt(0)"
_FIT = """({ shown, size, at }) => {
  const nodes = app.graph.nodes.filter((node) => shown.includes(String(node.id)));
  const whole = nodes.length === app.graph.nodes.length ? app.graph.groups : [];
  const boxes = [...whole, ...nodes].map((each) => [...each.pos, ...each.size]);
  const left = Math.min(...boxes.map((box) => box[0])) - 16;
  const top = Math.min(...boxes.map((box) => box[1])) - 62;
  const wide = Math.max(...boxes.map((box) => box[0] + box[2])) + 16 - left;
  const high = Math.max(...boxes.map((box) => box[1] + box[3])) + 16 - top;
  const scale = Math.min(1, size[0] / wide, size[1] / high);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [at[0] / scale - left, at[1] / scale - top];
  app.canvas.deselectAll?.();
  app.canvas.setDirty(true, true);
  return [wide * scale, high * scale];
}"""
_CLOSE = "() => document.querySelectorAll('.p-toast-close-button').forEach((each) => each.click())"
_ALL = "() => app.graph.nodes.map((node) => String(node.id))"


def run(page: Page, seconds: float) -> None:
    """Queue what is shown, and wait for its end.

    Raises:
        RuntimeError: With the message of the node that failed.
    """
    page.evaluate(_LISTEN)
    page.evaluate(_RUN)
    page.wait("() => window.ended !== null", timeout=seconds)
    if error := page.evaluate("() => window.ended"):
        raise RuntimeError(error)
    time.sleep(6)  # pictures are loaded
    page.evaluate(_CLOSE)


def shoot(page: Page, path: Path, size: tuple[int, int], shown: Sequence[str] = ()) -> None:
    """A picture, of this size at most, of some nodes or of all with their groups."""
    view = {"shown": list(shown) or page.evaluate(_ALL), "size": size, "at": AT}
    width, height = page.evaluate(_FIT, view)
    time.sleep(1)
    page.picture(path, x=AT[0], y=AT[1], width=width, height=height)
