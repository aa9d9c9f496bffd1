"""Inputs of nodes rendered from the settings; the host's input classes are stood in for."""

import importlib
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest

from cidm_core.config import SampleConfig, TrainConfig
from cidm_core.importers.settings import ImportConfig
from cidm_core.methods.cidm import CidmConfig

ROOT = Path(__file__).parents[2]


class Stub:
    """Keeps what an input was made of."""

    def __init__(self, id, options=None, **rest):
        self.id, self.options, self.rest = id, options, rest


@pytest.fixture(scope="module")
def inputs():
    """`nodes.host.inputs` as ComfyUI loads it: in a package of any name, the host stood in."""
    kinds = {
        kind: types.SimpleNamespace(Input=type(kind, (Stub,), {}))
        for kind in ("Int", "Float", "Combo", "Boolean", "String")
    }
    pack, host, latest = (types.ModuleType(n) for n in ("pack x", "comfy_api", "comfy_api.latest"))
    pack.__path__ = [str(ROOT)]
    latest.io = types.SimpleNamespace(Input=Stub, **kinds)
    before = dict(sys.modules)
    sys.modules |= {"pack x": pack, "comfy_api": host, "comfy_api.latest": latest}
    sys.modules["pack x.nodes.host.comfy"] = types.ModuleType("comfy")  # asked for folders only
    try:
        yield importlib.import_module("pack x.nodes.host.inputs")
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("pack x", "comfy_api"):
                del sys.modules[name]
        sys.modules |= {k: v for k, v in before.items() if k.split(".")[0] == "comfy_api"}


def test_every_setting_has_an_input_with_its_help_and_default(inputs):
    for settings in (ImportConfig, CidmConfig, SampleConfig):
        found = {each.id: each for each in inputs.inputs_of(settings)}
        assert list(found) == [f.name for f in fields(settings)]
        for f in fields(settings):
            row = found[f.name]
            assert row.rest["tooltip"].startswith(f.metadata["help"])
            none = "auto" if f.metadata["by_recipe"] and f.metadata["choices"] else 0
            assert row.rest["default"] == (none if f.default is None else f.default)
            assert bool(row.rest["advanced"]) == f.metadata["advanced"]


def test_kinds_and_limits(inputs):
    rows = {each.id: each for each in inputs.inputs_of(CidmConfig)}
    steps, seed, rate = rows["steps"], rows["seed"], rows["lr_lora"]
    assert (type(steps).__name__, steps.rest["min"], steps.rest["max"]) == ("Int", 1, 100_000)
    assert seed.rest["max"] == 2**53 - 1  # JavaScript counts no further
    assert seed.rest["control_after_generate"] is False
    assert rate.rest["step"] == rate.rest["round"] == pytest.approx(1e-6)
    assert rows["orthogonality"].options == [
        "auto",
        "subspace",
        "energy",
        "released",
        "projection",
        "none",
    ]
    assert type(rows["use_concept_masks"]).__name__ == "Boolean"
    assert rows["preview_prompt"].rest["multiline"] is True
    assert rows["save_every"].rest["max"] > 100_000  # a number without limit is not cut at 2048
    assert rows["resolution_px"].rest["step"] == 8


@pytest.mark.parametrize(
    ("default", "step"), [(7.5, 0.01), (1.0, 0.01), (0.05, 1e-4), (1e-4, 1e-6), (0.0, 0.01)]
)
def test_a_step_is_fine_enough_for_the_default(inputs, default, step):
    assert inputs.float_step(default) == pytest.approx(step)


def test_chosen_names_keep_their_order(inputs):
    rows = inputs.inputs_of(
        SampleConfig,
        ["feather", "alpha", "seed"],
        leave_out=["seed"],
        advanced={"feather": True},
    )
    assert [each.id for each in rows] == ["feather", "alpha"]
    assert rows[0].rest["advanced"] is True
    with pytest.raises(KeyError):
        inputs.inputs_of(SampleConfig, ["colour"])


def test_defaults_sent_back_are_the_default_settings(inputs):
    for settings in (ImportConfig, TrainConfig, SampleConfig):
        sent = {each.id: each.rest["default"] for each in inputs.inputs_of(settings)}
        assert inputs.settings_from(settings, {**sent, "model": object()}) == settings()


def test_what_a_recipe_decides_shows_auto_and_takes_its_value(inputs):
    rows = {each.id: each for each in inputs.inputs_of(SampleConfig)}
    assert rows["weights"].options == ["auto", "gate", "paper", "released"]
    assert rows["recipe"].options == ["ours", "paper", "released"]
    sent = {each.id: each.rest["default"] for each in rows.values()}
    made = inputs.settings_from(SampleConfig, {**sent, "recipe": "released"})
    assert made == SampleConfig(recipe="released")
    made = inputs.settings_from(SampleConfig, {**sent, "recipe": "paper", "weights": "gate"})
    assert made == SampleConfig(recipe="paper", weights="gate")
    under = {"region_mode": "auto", "alpha": 0.5}
    made = inputs.settings_from(SampleConfig, under, {"recipe": "paper"})
    assert (made.region_mode, made.alpha) == ("literal", 0.5)


def test_zero_means_none_only_where_none_is_allowed(inputs):
    found = inputs.settings_given(CidmConfig, {"resolution_px": 0, "save_every": 0, "alpha": 2})
    assert found == {"save_every": 0, "alpha": 2.0}


def test_a_base_stands_where_nothing_was_sent(inputs):
    made = inputs.settings_from(
        CidmConfig, {"steps": 5, "resolution_px": 0}, {"resolution_px": 64, "steps": 9}
    )
    assert (made.steps, made.resolution_px) == (5, 64)


def test_a_value_out_of_its_limits_is_refused(inputs):
    with pytest.raises(ValueError, match="resolution_px is 4"):
        inputs.settings_from(CidmConfig, {"resolution_px": 4})
