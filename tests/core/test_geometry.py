"""Concepts of another geometry are refused with our error, and nothing is encoded before."""

from dataclasses import replace

import pytest
import torch
from make import random_concept

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import pipeline
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.errors import FamilyError
from cidm_core.updates import FullRank, LowRank, ValueResidual


def config(**given):
    return SampleConfig(width_px=64, height_px=64, **given)


def _wide(base, path, kind):
    """A concept with one update that is too wide."""
    out, into = base.shape_of(path)
    updates = {
        "low": LowRank(torch.zeros(2, into + 1), torch.zeros(out, 2), 2.0),
        "full": FullRank(torch.zeros(out + 1, into)),
        "value": ValueResidual(torch.zeros(out + 1)),
    }
    return {path: updates[kind]}


UNFIT = {
    "attn2": lambda base, layer: _wide(base, f"{layer}.to_q", "low"),
    "attn1": lambda base, layer: _wide(base, layer.replace("attn2", "attn1") + ".to_k", "full"),
    "value": lambda base, layer: _wide(base, f"{layer}.to_v", "value"),
    "encoder": lambda base, layer: _wide(
        base, "text_encoder.text_model.encoder.layers.0.mlp.fc1", "low"
    ),
    "absent": lambda base, layer: {f"{layer}.to_z": FullRank(torch.zeros(2, 2))},
    "absent in the encoder": lambda base, layer: {
        "text_encoder.text_model.encoder.layers.40.mlp.fc1": FullRank(torch.zeros(2, 2))
    },
    "second encoder": lambda base, layer: {
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1": FullRank(torch.zeros(2, 2))
    },
    "no linear layer": lambda base, layer: {
        "mid_block.resnets.0.conv1": FullRank(torch.zeros(2, 2))
    },
}


@pytest.fixture
def no_encoding(monkeypatch):
    calls = []
    monkeypatch.setattr(pipeline.DiffusersEncoder, "prompts", lambda *_: calls.append(1))
    yield
    assert not calls


@pytest.mark.parametrize("case", UNFIT)
def test_a_concept_of_another_geometry_is_refused_before_encoding(tiny_base, no_encoding, case):
    layer = tiny_base.layers[0].path
    updates = UNFIT[case](tiny_base, layer)
    concept = replace(random_concept(tiny_base, "<a1>", seed=0), updates=updates)
    with pytest.raises(FamilyError, match="Load the model it was learned on"):
        make_plan(tiny_base, {"a1": concept}, "a <a1>", config=config(allow_other_base=True))


@pytest.mark.parametrize("rows", [{}, {"text_encoder": torch.zeros(1, 1, 1024)}])
def test_rows_of_another_width_are_refused_before_encoding(tiny_base, no_encoding, rows):
    concept = replace(random_concept(tiny_base, "<a1>", seed=0), rows=rows)
    with pytest.raises(FamilyError, match="reads words 768 wide"):
        make_plan(tiny_base, {"a1": concept}, "a <a1>", config=config())


def test_other_layers_are_refused_before_encoding(tiny_base, no_encoding):
    layers = tuple(layer.path.replace("mid_block", "mid_blocks") for layer in tiny_base.layers)
    concept = replace(random_concept(tiny_base, "<a1>", seed=0), layers=layers, updates={})
    with pytest.raises(FamilyError, match="7 cross-attention layers"):
        make_plan(tiny_base, {"a1": concept}, "a <a1>", config=config())
