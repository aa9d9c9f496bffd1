"""A real ComfyUI, started for the tests: own base directory, own port, our pack symlinked in."""

from __future__ import annotations

import atexit
import ctypes
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACK = "ComfyUI-CIDM"
COMFY = Path(os.environ.get("COMFYUI_PATH", "~/ComfyUI")).expanduser()
PYTHON = Path(os.environ.get("COMFYUI_PYTHON", COMFY / ".venv/bin/python")).expanduser()
# Of a frontend to use in place of ComfyUI's own: the folder with index.html.
FRONTEND = os.environ.get("COMFYUI_FRONTEND")
ENDINGS = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}


def absent() -> str | None:
    """Why host tests cannot run here, or None."""
    if not (COMFY / "main.py").is_file():
        return f"no ComfyUI at {COMFY}: set COMFYUI_PATH to a checkout"
    if not PYTHON.is_file():
        return f"no python of ComfyUI at {PYTHON}: set COMFYUI_PYTHON"
    return None


@dataclass
class Result:
    """What became of a prompt.

    Attributes:
        status: "success", "error" (a node raised), "interrupted", or "rejected" (never queued).
        error: The host's message of a node's error, or the body of the rejection.
        outputs: What output nodes showed, by node id, as in the history.
        events: (type, data) of every websocket message, in order.
        messages: (type, data) of the history's status.
        previews: Bytes of every preview frame.
        prompt_id: The host's name of the job.
    """

    status: str
    error: dict[str, Any] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    prompt_id: str = ""

    def said(self, kind: str) -> list[dict[str, Any]]:
        """Data of the events of one type."""
        return [data for name, data in self.events if name == kind]


class Server:
    """One running ComfyUI.

    Attributes:
        base: Its base directory (models, input, output, custom_nodes).
        port: Where it listens, on 127.0.0.1.
        url: Address without a trailing slash.
    """

    def __init__(self, base: Path, *extra: str, comfy: Path = COMFY, pack: str = PACK) -> None:
        self.base, self.port = base, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = base / "server.log"
        for folder in ("models/checkpoints", "custom_nodes", "input", "output"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        link(base / "custom_nodes" / pack, ROOT)
        command = [PYTHON, "main.py", "--cpu", "--port", self.port, "--base-directory", base]
        command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
        command += ["--disable-api-nodes", "--preview-method", "latent2rgb", *extra]
        if FRONTEND:
            command += ["--front-end-root", FRONTEND]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                cwd=comfy,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(PYTHONUNBUFFERED="1"),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        atexit.register(self.stop)

    def wait(self, seconds: float = 180) -> None:
        """Return when the server answers."""
        end = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at its start:\n{self.log_text()[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                if time.monotonic() > end:
                    raise TimeoutError(f"ComfyUI is silent:\n{self.log_text()[-4000:]}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        """End the server and all it started; harmless when it is gone."""
        atexit.unregister(self.stop)
        for number, seconds in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
            if self._process.poll() is not None:
                return
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(seconds)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def log_text(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def raw(self, path: str) -> bytes:
        """Body of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        """Body of a GET, parsed as JSON."""
        return json.loads(self.raw(path))

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and parsed body of a POST of JSON; 4xx and 5xx do not raise."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text) if text else None
        except ValueError:
            return status, text.decode(errors="replace")

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Cancel the running job, or only the one of this name."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def run(
        self,
        prompt: Mapping[str, Any],
        on_event: Callable[[str, Any], None] | None = None,
        timeout: float = 240,
    ) -> Result:
        """Run a prompt in API format to its end.

        Args:
            prompt: Node id -> {"class_type", "inputs"}.
            on_event: Called with (type, data) of each message; of a preview frame with
                ("preview", bytes). May call `interrupt`.
            timeout: Seconds; a job that takes longer is cancelled and raises TimeoutError.
        """
        client = uuid.uuid4().hex
        # The host wants _meta where it replaces a node.
        nodes = {
            str(name): {"_meta": {"title": node["class_type"]}, **node}
            for name, node in prompt.items()
        }
        with self.listen(client) as messages:
            code, body = self.post("/prompt", {"prompt": nodes, "client_id": client})
            if code != 200:
                return Result("rejected", error=body)
            result = Result("", prompt_id=body["prompt_id"])
            self._follow(result, messages, on_event, time.monotonic() + timeout)
        history = self._history(result.prompt_id)
        result.outputs = history.get("outputs", {})
        result.messages = [tuple(item) for item in history.get("status", {}).get("messages", [])]
        return result

    @contextmanager
    def listen(self, client: str) -> Iterator[Any]:
        """A websocket as the page of that name has one; `recv()` gives the host's messages."""
        import websocket

        address = f"ws://127.0.0.1:{self.port}/ws?clientId={client}"
        messages = websocket.create_connection(address, timeout=60)
        messages.settimeout(1)
        try:
            # Without this the host sends no preview pictures.
            flags = {"supports_preview_metadata": True}
            messages.send(json.dumps({"type": "feature_flags", "data": flags}))
            yield messages
        finally:
            messages.close()

    def _follow(
        self, result: Result, messages: Any, on_event: Callable[..., None] | None, end: float
    ) -> None:
        import websocket

        while not result.status:
            if time.monotonic() > end or not self.alive:
                self._give_up(result)
            try:
                message = messages.recv()
            except websocket.WebSocketTimeoutException:
                continue
            if isinstance(message, bytes):
                kind, data = "preview", message
                result.previews.append(message)
            else:
                parsed = json.loads(message)
                kind, data = parsed["type"], parsed["data"]
                result.events.append((kind, data))
                if kind in ENDINGS and data.get("prompt_id") == result.prompt_id:
                    result.status = ENDINGS[kind]
                    result.error = data if result.status == "error" else None
            if on_event:
                on_event(kind, data)

    def _give_up(self, result: Result) -> None:
        if self.alive:
            self.interrupt(result.prompt_id)
        raise TimeoutError(
            f"{result.prompt_id} has no end ({'slow' if self.alive else 'server died'}); last "
            f"{result.events[-3:]}\n{self.log_text()[-4000:]}"
        )

    def _history(self, prompt_id: str) -> dict[str, Any]:
        for _ in range(100):
            if found := self.get(f"/history/{prompt_id}").get(prompt_id):
                return found
            time.sleep(0.05)
        return {}

    def picture(self, shown: Mapping[str, str]) -> Image.Image:
        """The picture behind one entry of an output's "images"."""
        picture = Image.open(io.BytesIO(self.raw("/view?" + urllib.parse.urlencode(shown))))
        picture.load()
        return picture

    def pictures(self, result: Result, node: str | int) -> list[Image.Image]:
        """The pictures an output node showed."""
        return [self.picture(shown) for shown in result.outputs[str(node)]["images"]]


@contextmanager
def running(base: Path) -> Iterator[Server]:
    """A host that answers, ended at the end."""
    server = Server(base)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def in_host(script: Path | str, *args: object, timeout: int = 240) -> Any:
    """Run a script with ComfyUI's python and modules; return the JSON it printed last.

    `import inside` gives the script `inside.pack()` and `inside.report(...)`. It has a process to
    itself, in which `comfy.sd` is imported already.
    """
    runner, command = _runner(), [str(Path(script).resolve()), *map(str, args)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        order = {"command": command, "out": str(out), "seconds": timeout}
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=runner.stdin, flush=True)
        status = runner.stdout.readline().strip()
        if not status:
            _runner.cache_clear()
        said = out.read_text("utf-8", errors="replace") if out.exists() else ""
    if status != "0":
        raise AssertionError(f"{command[0]} ended with {status or 'its host'}:\n{said[-8000:]}")
    return json.loads(said.strip().splitlines()[-1])


@cache
def _runner() -> subprocess.Popen[str]:
    """A process that has imported ComfyUI; one for all scripts."""
    started = subprocess.Popen(
        [str(word) for word in (PYTHON, Path(__file__).parent / "inside" / "run.py", COMFY)],
        cwd=COMFY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=_die_with_parent,
    )
    atexit.register(started.kill)
    return started


def environment(**more: str) -> dict[str, str]:
    """Ours without python settings of the caller, one thread, nothing downloaded."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link(at: Path, to: Path) -> None:
    """A symlink, unless it is there already."""
    if not at.is_symlink():
        at.symlink_to(to, target_is_directory=to.is_dir())


def _die_with_parent() -> None:
    """Linux ends the child when pytest is killed and cannot clean up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
