"""Tests against a real ComfyUI: one server and one browser for all that a worker runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
import server as host
from browser import page as tab
from filelock import FileLock
from tools import checkpoint_presets, make_checkpoint

HERE = Path(__file__).parent
CHECKPOINT = "sd15-random.safetensors"


def pytest_collection_modifyitems(items):
    """The host's tests first, and those of the browser together: an open page is never at rest."""
    reason = host.absent()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.host)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: (HERE not in item.path.parents, "page" in item.fixturenames))


def _made_once(name, preset):
    """A random checkpoint, made once per version of its generator."""
    makers = (make_checkpoint, checkpoint_presets)
    source = b"".join(Path(maker.__file__).read_bytes() for maker in makers)
    folder = Path(tempfile.gettempdir()) / f"cidm-tests-{hashlib.sha256(source).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    path = folder / name
    with FileLock(folder / ".lock"):
        if not path.is_file():
            half = folder / f"{os.getpid()}.safetensors"
            make_checkpoint.write_compvis(half, preset, "fp16", tokenizer=False)
            half.replace(path)
    return path


@pytest.fixture(scope="session")
def checkpoint():
    """A random SD 1.5 checkpoint both hosts open."""
    return _made_once(CHECKPOINT, "host")


@pytest.fixture(scope="session")
def small_checkpoint():
    """A random SD 1.5 checkpoint that ComfyUI opens with `inside/small.py` only."""
    return _made_once("sd15-small.safetensors", "words")


@pytest.fixture(scope="session")
def xl_checkpoint():
    """A random SDXL checkpoint that ComfyUI opens with `inside/small.py` only."""
    return _made_once("sdxl-random.safetensors", "sdxl-words")


@pytest.fixture(scope="session")
def base(tmp_path_factory, checkpoint):
    """ComfyUI's base directory; the checkpoint has ComfyUI's own tokenizer beside it."""
    base = tmp_path_factory.mktemp("comfy")
    models = base / "models" / "checkpoints"
    models.mkdir(parents=True)
    host.link(models / CHECKPOINT, checkpoint)
    host.link(models / "tokenizer", host.COMFY / "comfy" / "sd1_tokenizer")
    (base / "custom_nodes").mkdir()
    host.link(base / "custom_nodes" / "tiny_vision.py", HERE / "browser" / "tiny_vision.py")
    return base


@pytest.fixture(scope="session")
def server(base):
    """The running host; see `server.Server`."""
    with host.running(base) as running:
        yield running


@pytest.fixture(scope="session")
def page():
    """A tab of headless Chromium; see `browser.page`."""
    if reason := tab.absent():
        pytest.skip(reason)
    started = tab.Page()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def in_host():
    """`server.in_host`."""
    return host.in_host


@pytest.fixture
def stock_prompt():
    """Function (text, px, steps, seed) -> prompt of stock nodes; node "save" shows the picture."""

    def make(text="a cat", px=64, steps=2, seed=1):
        def node(kind, **inputs):
            return {"class_type": kind, "inputs": inputs}

        return {
            "load": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
            "positive": node("CLIPTextEncode", clip=["load", 1], text=text),
            "negative": node("CLIPTextEncode", clip=["load", 1], text=""),
            "latent": node("EmptyLatentImage", width=px, height=px, batch_size=1),
            "sample": node(
                "KSampler",
                model=["load", 0],
                positive=["positive", 0],
                negative=["negative", 0],
                latent_image=["latent", 0],
                seed=seed,
                steps=steps,
                cfg=4.0,
                sampler_name="euler",
                scheduler="normal",
                denoise=1.0,
            ),
            "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
            "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
        }

    return make
