"""Checkpoints of Infusion's public code become value residuals; Perfusion's are told by name."""

from dataclasses import replace

import pytest
import torch
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.errors import BankError, FamilyError
from cidm_core.families import layers_per_block, ldm_path
from cidm_core.importers.concept_import import import_concept
from cidm_core.importers.settings import ImportConfig
from cidm_core.updates import ValueResidual


def released(model, parts=("to_k", "to_v"), shape=lambda width: (width,)):
    """A checkpoint as Lightning leaves it."""
    generator = torch.Generator().manual_seed(1)
    per_block = layers_per_block([layer.path for layer in model.layers])
    outputs = {
        f"{ldm_path(layer.path, per_block)}.{part}.target_output": torch.randn(
            *shape(model.shape_of(f"{layer.path}.{part}")[0]), generator=generator
        )
        for layer in model.layers
        for part in parts
    }
    return {
        "global_step": 500,
        "C_inv": torch.eye(768),
        "target_input": torch.zeros(1, 77, 768),
        "embedding": {
            "initializer_words": ["cat"],
            "string_to_token": {"cat": torch.tensor(2368)},
            "string_to_param": torch.nn.ParameterDict(
                {"cat": torch.nn.Parameter(torch.zeros(1, 768))}
            ),
        },
        "target_output": outputs,
    }


@pytest.fixture
def save(tmp_path):
    def saving(table, name="step=500.ckpt"):
        torch.save(table, tmp_path / name)
        return tmp_path / name

    return saving


def take(path, bank, model=None, **given):
    return import_concept(path, bank, ImportConfig(**{"class_words": "cat", **given}), model)


@pytest.mark.parametrize("parts", [("to_v",), ("to_k", "to_v")])
def test_every_vector_comes_in_at_its_layer(save, tiny_base, tmp_path, parts):
    table, bank = released(tiny_base, parts), Bank(tmp_path / "bank")
    concept, note = take(save(table), bank, tiny_base)
    assert (concept.method, concept.class_words, concept.words) == ("infusion", "cat", ())
    assert concept.config["variant"] == ("released" if "to_k" in parts else "paper")
    assert len(concept.updates) == len(parts) * len(tiny_base.layers)
    per_block = layers_per_block(concept.layers)
    for path, update in bank["cat"].updates.items():
        layer, _, part = path.rpartition(".")
        key = f"{ldm_path(layer, per_block)}.{part}.target_output"
        assert isinstance(update, ValueResidual)
        assert torch.equal(update.vector, table["target_output"][key])
    assert "'cat' calls it where drawing asks for it" in note
    assert (concept.two_streams, concept.last_piece) == ("to_k" not in parts, True)
    assert concept.on_request
    assert not concept.rows
    assert take(save(table), bank)[1] == "It was in the bank already."


def test_what_comes_in_draws(save, tiny_base, tmp_path):
    bank = Bank(tmp_path / "bank")
    concept, _ = take(save(released(tiny_base)), bank, tiny_base)
    config = SampleConfig(steps=1, width_px=32, height_px=32, infuse="cat")
    plain, with_it = (
        generate(tiny_base, {concept.name: concept}, "a cat on grass", config=asking)[0]
        for asking in (replace(config, infuse=""), config)
    )
    assert plain.tobytes() != with_it.tobytes()


def test_perfusion_is_refused_by_name(save, tiny_base, tmp_path):
    table = released(tiny_base, shape=lambda width: (77, width))
    with pytest.raises(BankError, match=r"checkpoint of Perfusion.*77 x "):
        take(save(table), Bank(tmp_path / "bank"), tiny_base)


def test_what_must_be_told(save, tiny_base, tmp_path):
    path, bank = save(released(tiny_base)), Bank(tmp_path / "bank")
    with pytest.raises(BankError, match="Give class_words"):
        take(path, bank, tiny_base, class_words=" ")
    with pytest.raises(BankError, match="teaches no words"):
        take(path, bank, tiny_base, words="<cat>")
    with pytest.raises(BankError, match="does not tell its base model"):
        take(path, bank)
    assert not len(bank)


def test_a_bank_of_the_same_model_tells_it(save, tmp_path, tiny_base):
    bank = Bank(tmp_path / "bank")
    bank.add(random_concept(tiny_base, "<dog1>", 1, name="dog"))
    concept, _ = take(save(released(tiny_base)), bank)
    assert (concept.base, concept.layers) == (bank["dog"].base, bank["dog"].layers)


def test_what_is_wrong_is_said(save, tiny_base, tmp_path):
    bank = Bank(tmp_path / "bank")
    first = next(iter(released(tiny_base)["target_output"]))
    wrong = {
        "input_blocks.9.1.transformer_blocks.0.attn2.to_v.target_output": torch.zeros(320),
        first: torch.zeros(1, 1, 320),
        "nonsense": torch.zeros(3),
    }
    said = ("no layer for 'input_blocks.9", "a vector was expected", "no layer for 'nonsense'")
    for (key, value), message in zip(wrong.items(), said, strict=True):
        table = released(tiny_base)
        table["target_output"][key] = value
        with pytest.raises(BankError, match=message):
            take(save(table), bank, tiny_base)
    table = released(tiny_base)
    table["target_output"][first] = torch.full_like(table["target_output"][first], torch.nan)
    with pytest.raises(BankError, match="NaN"):
        take(save(table), bank, tiny_base)
    narrow = released(tiny_base, shape=lambda width: (width // 2,))
    with pytest.raises(FamilyError, match="the model has"):
        take(save(narrow), bank, tiny_base)


class Callback:
    """Lightning saves such things beside its tables."""


def test_a_file_of_python_objects_is_refused(save, tiny_base, tmp_path):
    path = save({**released(tiny_base), "callbacks": Callback()})
    with pytest.raises(BankError, match="holds more than plain tensors"):
        take(path, Bank(tmp_path / "bank"), tiny_base)
