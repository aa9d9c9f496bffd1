"""One page of headless Chromium on ComfyUI's real frontend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from PIL import Image

DRIVER = Path(__file__).parent / "driver.mjs"
# Its first workflow must be there, or it would come on top of ours.
READY = """() => {
  const manager = window.app?.vueAppReady && window.app.extensionManager;
  return !!manager?.workflow?.activeWorkflow && !manager.spinner;
}"""
SET = "([name, value]) => app.extensionManager.setting.set(name, value)"


def chromium() -> str | None:
    """The browser to start, or None."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def absent() -> str | None:
    """Why there is no browser here, or None."""
    if not shutil.which("node"):
        return "no node on PATH: install Node.js 20 or newer"
    if not chromium():
        return "no Chromium: install one, or set CHROMIUM"
    if subprocess.run(["node", DRIVER, "--check"], capture_output=True).returncode:
        return f"no playwright-core: run `npm install playwright-core` in {DRIVER.parent}"
    return None


class Page:
    """A tab; every method waits until the browser has done it.

    Args:
        width: Of the page, in pixels.
        height: The same.
        still: Whether nothing moves and little is drawn, which spares the tests much time.

    Raises:
        RuntimeError: From any method, with the browser's own message.
    """

    def __init__(self, width: int = 1600, height: int = 900, still: bool = True) -> None:
        self._url = ""
        self._process = subprocess.Popen(
            ["node", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._do("start", chromium=chromium(), width=width, height=height, still=still)

    def _do(self, name: str, **rest: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": name, **rest}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the browser has ended"}
        if "error" in answer:
            raise RuntimeError(f"{name} {str(rest)[:500]}: {answer['error']}")
        return answer["value"]

    def open(self, server: Any, **settings: Any) -> None:
        """The frontend of a server, ready for use; if it is open, only its settings change."""
        if self._url == server.url:
            for name, value in settings.items():
                self.evaluate(SET, [name, value])
            return
        self._url = server.url
        server.post("/api/settings", {"Comfy.TutorialCompleted": True, **settings})
        self._do("goto", url=server.url)
        self.wait(READY, timeout=60)

    def leave(self) -> None:
        """The frontend is closed, until it is opened again."""
        self._url = ""
        self._do("goto", url="about:blank")

    def evaluate(self, code: str, value: Any = None) -> Any:
        """Result of a javascript function of one plain value; promises are awaited."""
        return self._do("evaluate", code=code, value=value)

    def wait(self, code: str, value: Any = None, timeout: float = 20) -> None:
        """Until a javascript function of one plain value is true; seconds."""
        self._do("wait", code=code, value=value, timeout=timeout * 1000)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the left button, in pixels of the page."""
        self._do("drag", **{"from": start, "to": end})

    def click(self, at: tuple[float, float]) -> None:
        self._do("click", at=at)

    def click_on(self, selector: str) -> None:
        """The middle of the first element that fits, once it is there and can be clicked."""
        self._do("clickOn", selector=selector)

    def choose(self, selector: str, path: Path) -> None:
        """A file for an input of files, as its dialog gives it."""
        self._do("choose", selector=selector, path=str(path))

    def type(self, text: str) -> None:
        self._do("type", text=text)

    def press(self, key: str) -> None:
        self._do("press", key=key)

    def box(self, selector: str) -> dict[str, float]:
        """Place of the first element: x, y, width, height."""
        return self._do("box", selector=selector)

    def shot(self, path: Path, selector: str | None = None, **clip: float) -> None:
        """A PNG of the page, of an element, or of x, y, width, height."""
        self._do("shot", path=str(path), selector=selector, clip=clip or None)

    def picture(self, path: Path, **clip: float) -> None:
        """A small PNG for the documents, in two hundred colours, of x, y, width, height."""
        self.shot(path, **clip)
        with Image.open(path) as taken:
            few = taken.convert("RGB").quantize(200, kmeans=2)
        few.save(path, optimize=True)

    def resize(self, width: int, height: int) -> None:
        self._do("size", width=width, height=height)

    def errors(self) -> list[str]:
        """Uncaught errors of the page's scripts since the last call."""
        return self._do("errors")

    def stop(self) -> None:
        try:
            self._do("stop")
        finally:
            self._process.kill()
            self._process.wait()
