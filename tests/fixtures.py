"""A tiny SD 1.5 in every form the loader takes: in memory, as a folder, as a single file.

All three hold the same random weights (seed 0, fp32). Sharing them is safe as long as a test
leaves the modules as it found them.
"""

import pytest
from tools.make_checkpoint import write_compvis, write_diffusers

from cidm_core.diffusers_host.load import load_base


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A diffusers folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd15"
    write_diffusers(folder, "tiny", "fp32")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A single file in CompVis layout with a folder `tokenizer` beside it."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    write_compvis(path, "tiny", "fp32")
    return path


@pytest.fixture(scope="session")
def tiny_base(tiny_folder):
    """Seven cross-attention layers, 32 and 64 wide, context 768; a forward takes milliseconds."""
    return load_base(tiny_folder, device="cpu", dtype="fp32")
