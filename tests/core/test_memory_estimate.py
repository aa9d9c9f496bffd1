"""Memory counted without computing: against hand formulas, real runs and what presets promise."""

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cidm_core.diffusers_host import advice
from cidm_core.diffusers_host.advice import Advisor
from cidm_core.diffusers_host.dry_run import memory_needed, without_numbers
from cidm_core.diffusers_host.ledger import META, AsOn, Ledger, backward
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.shortage import low_memory
from cidm_core.errors import HostError
from cidm_core.methods import METHODS, config_for
from cidm_core.methods.cidm import CidmConfig
from cidm_core.training.estimate import GB, Memory, Room, gb, told
from cidm_core.training.presets import NEEDS_GB, PRESETS, presets_of
from lab.speed.memory import count_memory
from lab.speed.models import PROPORTIONS, make_proportional
from tests.phantoms import make_phantom

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(scope="module")
def sd15():
    return make_phantom("full")


@pytest.fixture(scope="module")
def mini():
    return load_base("mini-sd", device="meta", dtype="fp32")


def configured(method, base, preset="balanced", **settings):
    made = METHODS[method].Config
    return config_for(method, base.family, **{**presets_of(made)[preset], **settings})


# --- the ledger ----------------------------------------------------------------------------------


def test_a_layer_by_hand():
    """Of a linear layer and a gelu after it, backward keeps two inputs."""
    layer = nn.Linear(64, 256, device=META)
    with Ledger() as ledger:
        ledger.hold(layer.parameters())
        assert ledger.mark() == (64 * 256 + 256) * 4
        x = torch.zeros(8, 64, device=META, requires_grad=True)
        loss = F.gelu(layer(x)).sum()
        kept = 8 * 64 * 4 + 8 * 256 * 4
        assert ledger.now == (64 * 256 + 256) * 4 + kept + 4
        backward(loss)
        grads = (64 * 256 + 256) * 4 + 8 * 64 * 4
        del loss
        assert ledger.now == (64 * 256 + 256) * 4 + grads + 8 * 64 * 4


def test_what_leaves_the_device_is_not_counted():
    for parked, left in ((False, 0), (True, 4000)):
        with Ledger(counts_parked=parked) as ledger:
            x = torch.zeros(1000, device=META)
            home = x.to("cpu")
            del x
            assert ledger.now == left
            assert home.to(META).shape == (1000,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_are_those_of_autocast_on_a_cpu(dtype):
    layer, norm = nn.Linear(8, 8), nn.LayerNorm(8)
    attend = F.scaled_dot_product_attention

    def types(make):
        x = torch.zeros(1, 2, 4, 8, **make)
        parts = [F.linear(x, layer.weight.to(x)), norm.to(x.device)(x), torch.cat([x, x])]
        parts += [attend(x, x, x), torch.matmul(x, x.mT), F.gelu(x)]
        return [each.dtype for each in parts]

    with torch.autocast("cpu", dtype=dtype):
        real = types({})
    with Ledger(), AsOn(CPU, dtype):
        counted = types({"device": META})
    assert counted == real


# --- against real runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "preset"),
    [*((name, "low-vram") for name in METHODS), ("cidm", "balanced"), ("cidm", "least-vram")],
)
def test_a_real_run_holds_as_much(method, preset):
    """Two real steps on a CPU, all living tensors counted; bf16."""
    row = count_memory(make_proportional(PROPORTIONS["tiny"]), method, preset, "bf16", 64)
    assert row["estimate_of_alive"] == pytest.approx(1.0, abs=0.03)


def test_masks_and_prior_pictures_count(mini):
    plain = memory_needed(mini, "cidm", device=CUDA)
    masked = memory_needed(mini, "cidm", device=CUDA, has_masks=True)
    assert masked.work > plain.work  # attention maps are kept
    small = configured("custom_diffusion", mini, prior_batches="paired")
    drawn = memory_needed(mini, "custom_diffusion", small, device=CUDA)
    given = memory_needed(mini, "custom_diffusion", small, device=CUDA, has_prior=True)
    mixed = memory_needed(mini, "custom_diffusion", device=CUDA, has_prior=True)
    assert given.work > 1.5 * mixed.work  # as many prior pictures follow the photos
    assert drawn.drawing > drawn.loading
    assert given.drawing == 0
    assert given.work == drawn.work


# --- against hand formulas -----------------------------------------------------------------------


def test_what_learns_costs_sixteen_bytes_a_number(sd15):
    """Value, gradient and two moments in float32; AdamW's counters besides."""
    found = memory_needed(sd15, "cidm", configured("cidm", sd15), device=CUDA)
    numbers = sum(
        4 * (width + out)  # rank 4
        for layer in sd15.layers
        for out, width in map(layer.shape, ("to_q", "to_k", "to_v", "to_out.0"))
    )
    rows = 2 * 16 * 768  # words, layers, width
    assert found.learned == pytest.approx(16 * (numbers + rows), abs=64)


def test_whole_matrices_cost_it_too(mini):
    found = memory_needed(mini, "custom_diffusion", device=CUDA)
    numbers = sum(2 * layer.width * 128 for layer in mini.layers)
    assert found.learned == pytest.approx(16 * (numbers + 2 * 128), abs=64)


def test_weights_cost_their_type(sd15):
    found = memory_needed(sd15, "cidm", configured("cidm", sd15, "low-vram"), device=CUDA)
    held = [sd15.unet, *sd15.text_encoders]
    weights = sum(2 * p.numel() for each in held for p in each.parameters())
    assert found.weights == pytest.approx(weights, abs=5000)  # the noise levels, too
    assert found.loading == weights + sum(2 * p.numel() for p in sd15.vae.parameters())
    small = memory_needed(sd15, "cidm", configured("cidm", sd15, "least-vram"), device=CUDA)
    assert small.weights < 0.52 * sum(2 * p.numel() for p in sd15.unet.parameters())


def test_the_model_is_whole_again(mini):
    before = {name: p.dtype for name, p in mini.unet.named_parameters()}
    memory_needed(mini, "cidm", configured("cidm", mini, "least-vram"), device=CUDA)
    assert {name: p.dtype for name, p in mini.unet.named_parameters()} == before
    assert not any(p.requires_grad for p in mini.unet.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_what_they_need_on_sd15(sd15, preset):
    found = memory_needed(sd15, "cidm", configured("cidm", sd15, preset), device=CUDA)
    assert found.about / GB == pytest.approx(NEEDS_GB[preset][0], rel=0.03)


def check_sdxl(presets):
    base = make_phantom("sdxl-full")
    for preset in presets:
        found = memory_needed(base, "cidm", configured("cidm", base, preset), device=CUDA)
        assert found.about / GB == pytest.approx(NEEDS_GB[preset][1], rel=0.03)


def test_presets_say_what_they_need_on_sdxl():
    check_sdxl(["low-vram"])


@pytest.mark.lab
def test_all_presets_say_what_they_need_on_sdxl():
    check_sdxl(PRESETS)


# --- a model without numbers ---------------------------------------------------------------------


def test_it_loads_without_numbers(mini):
    shapes = mini
    assert {p.device.type for p in shapes.unet.parameters()} == {"meta"}
    real = load_base("mini-sd", device="cpu")
    both = [
        memory_needed(each, "cidm", device=CUDA).to_dict()
        for each in (shapes, without_numbers(real))
    ]
    assert both[0] == both[1]
    with pytest.raises(HostError, match="load it on 'meta'"):
        memory_needed(real, "cidm", device=CUDA)


def test_counting_changes_no_random_number(mini):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    memory_needed(mini, "cidm", device=CUDA)
    assert torch.equal(torch.rand(4), expected)


# --- verdicts and advice -------------------------------------------------------------------------


def memory(counted):
    return Memory(counted, 0, 0, 0, 0, 0)


def test_verdicts():
    needed = memory(4 * GB)  # 4.5 at least, 5.4 surely
    free = {"fits": 5.5, "tight": 4.6, "does not fit": 4.4}
    for verdict, each in free.items():
        assert Room(8 * GB, int(each * GB)).verdict(needed) == verdict


def test_gigabytes():
    assert [gb(int(x * GB)) for x in (0.012, 0.3, 4.06, 9.94, 14.6)] == [
        *("0.01", "0.3", "4.1", "9.9", "15")
    ]


def test_told_in_words():
    text = told(memory(4 * GB), Room(8 * GB, 7 * GB))
    assert text.startswith("Memory: about 4.9 GB of 8.0 GB, 7.0 free: fits (weights 4.0, ")


@pytest.fixture
def advisor(mini, monkeypatch):
    """An adviser beside a made-up rule of what settings need; and the settings it looked at."""
    asked = []

    def needed(base, method, config, **how):
        asked.append(config)
        work = (
            config.batch_size * config.resolution_px / 64 * (8 - 6 * config.gradient_checkpointing)
        )
        return memory(int((work + 2 - config.frozen_fp8) * GB))

    monkeypatch.setattr(advice, "memory_needed", needed)

    def make(free, **settings):
        made = {"batch_size": 1, "resolution_px": 64, **settings}

        def with_preset(name):
            return config_for("cidm", mini.family, **{**made, **presets_of(CidmConfig)[name]})

        def wording(change):
            return f"{change.preset} {dict(change.settings or {})}"

        return Advisor(
            mini,
            "cidm",
            config_for("cidm", mini.family, **made),
            Room(80 * GB, free * GB),
            CUDA,
            with_preset=with_preset,
            wording=wording,
        )

    return make, asked


def test_the_smallest_change_that_fits(advisor):
    make, _ = advisor
    checkpointed = " {'gradient_checkpointing': True} needs about 4.9 GB: fits."
    assert make(6).told().splitlines()[1] == checkpointed
    batch = " {'batch_size': 1, 'accumulation': 4} needs about 11 GB: fits."
    assert make(13, batch_size=4).told().splitlines()[1] == batch
    assert make(5).told().splitlines()[1] == "least-vram {} needs about 3.9 GB: fits."


def test_what_fits_needs_no_advice(advisor):
    make, asked = advisor
    told = make(20).told()
    assert ": fits (" in told
    assert "\n" not in told
    assert len(asked) == 1


def test_where_nothing_fits_the_least_is_named(advisor):
    make, _ = advisor
    found = make(1)
    better = found.better()
    assert better is not None
    assert better.name == "least-vram {'resolution_px': 32}"
    assert "does not fit" in found.told()
    assert found.told().endswith(": does not fit.")


def test_each_is_counted_once(advisor):
    make, asked = advisor
    found = make(80)
    assert set(found.presets()) == set(PRESETS)
    found.presets()
    assert found.chosen == found.presets()["balanced"]
    assert len(asked) == 4  # best has more variants


def test_a_shortage_names_what_helps_and_by_how_much():
    """As for a card: a job of which nothing but these members is asked."""
    real = load_base("mini-sd", device="cpu")
    config = config_for("cidm", real.family, batch_size=64, resolution_px=64)
    lesson = SimpleNamespace(method="cidm")
    job = SimpleNamespace(base=real, config=config, size_px=64, lesson=lesson, photos=(), prior=())
    text = low_memory(cast(Any, job))
    assert re.match(
        r"Memory of cpu ran out while learning at 64 px, batch size 64, precision fp32\. Try "
        r"gradient_checkpointing=True \(about [\d.]+ GB instead of [\d.]+\), batch_size=1 \(about",
        text,
    )
    saved = [float(x) for x in re.findall(r"about ([\d.]+) GB instead", text)]
    now = float(re.findall(r"instead of ([\d.]+)\)", text)[0])
    assert max(saved) < now
