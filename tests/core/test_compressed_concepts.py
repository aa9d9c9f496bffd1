"""Concepts compressed by their singular values: what is kept, lost, told and read by others."""

import copy
import json
from dataclasses import replace

import diffusers
import pytest
import torch
from bank_samples import contents
from make import random_concept
from torch.testing import assert_close
from update_kinds import concepts as of_kinds

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, OK, main
from cidm_core.errors import BankError, CidmError, ConceptError
from cidm_core.merging.banks import compress_in_bank
from cidm_core.merging.compress import compress
from cidm_core.merging.settings import CompressConfig
from cidm_core.storage.concept_file import concept_to_bytes
from cidm_core.updates import FullRank, LowRank, ValueResidual


@pytest.fixture(scope="module")
def whole(tiny_base):
    """Full rank on keys and values, with singular values that fall off, and one of low rank."""
    made = random_concept(tiny_base, "<new1>", 1, size=0.1)
    draw = torch.Generator().manual_seed(0)
    updates = {}
    for path, update in made.updates.items():
        if path.endswith(("to_k", "to_v")):
            out, into = update.shape
            fall = 0.8 ** torch.arange(out)
            left = torch.randn(out, out, generator=draw) * fall
            updates[path] = FullRank(left @ torch.randn(out, into, generator=draw) * 0.01)
    path = f"{tiny_base.layers[0].path}.to_q"
    return replace(made, name="pip", updates={**updates, path: made.updates[path]})


def by_the_book(delta, energy):
    """Singular values one by one while their sum stays within the share; the rest is lost."""
    u, s, vt = torch.linalg.svd(delta.double(), full_matrices=False)
    k, total = 0, 0.0
    while k < len(s) - 1 and (total + s[k]) / s.sum() <= energy:
        total += s[k]
        k += 1
    return k, (u[:, :k] * s[:k]) @ vt[:k], (s[k:].norm() / s.norm()).item()


@pytest.mark.parametrize("energy", [0.4, 0.6, 0.9])
def test_every_layer_keeps_what_the_rule_says(whole, energy):
    made, report = compress(whole, CompressConfig(energy=energy))
    assert made.rows is whole.rows
    lost = 0.0
    for path, update in whole.updates.items():
        k, delta, error = by_the_book(update.delta, energy)
        assert report.errors[path] == pytest.approx(error, abs=1e-6)
        lost += (update.delta - delta).norm() ** 2
        if k:
            assert made.updates[path].rank == k
            assert_close(made.updates[path].delta.double(), delta, rtol=1e-4, atol=1e-6)
        else:
            assert path in report.dropped
            assert path not in made.updates
    size = sum(update.delta.norm() ** 2 for update in whole.updates.values())
    assert report.error == pytest.approx(float((lost / size) ** 0.5), rel=1e-4)
    assert made.facts["compressed"]["error"] == report.error
    assert report.bytes_after < report.bytes_before


def test_more_energy_is_nearer_and_larger(whole):
    found = [compress(whole, CompressConfig(energy=each))[1] for each in (0.3, 0.6, 0.9)]
    assert [r.error for r in found] == sorted((r.error for r in found), reverse=True)
    assert [r.bytes_after for r in found] == sorted(r.bytes_after for r in found)
    assert "MB became" in found[0].in_words()


def test_a_loss_of_most_is_told_with_what_to_do(whole, tiny_base, tmp_path):
    """Low rank of even strength, as merged concepts have, loses most by any cut."""
    made = random_concept(tiny_base, "<new2>", 2, size=0.1, name="pet")
    _, report = compress(made)
    assert report.error > 0.5
    assert report.low_rank
    assert "Most of what 'pet' changes is lost" in report.in_words()
    assert "use it as it is" in report.in_words()
    assert "is lost" not in compress(whole, CompressConfig(energy=0.9))[1].in_words()
    assert "Choose a larger energy" in compress(whole, CompressConfig(energy=0.3))[1].in_words()
    held = Bank(tmp_path / "held")
    held.add(made)
    before = contents(held.path)
    with pytest.raises(BankError, match=r"Nothing was replaced.*Most of what 'pet'"):
        compress_in_bank(held, "pet", None)
    assert contents(held.path) == before


def test_kinds_of_updates(tiny_base):
    """Low rank becomes lower, residuals at words stay, a text encoder's weights shrink as well."""
    bank = of_kinds(tiny_base, kinds={"value": 1, "encoder": 1, "around": 1})
    made, _ = compress(bank["around"], CompressConfig(energy=0.9))
    assert {type(update) for update in made.updates.values()} == {LowRank}
    assert len({update.alpha for update in made.updates.values()}) == 1
    mixed = replace(bank["encoder"], updates=bank["value"].updates | bank["encoder"].updates)
    made, _ = compress(mixed, CompressConfig(energy=0.9))
    assert ValueResidual in {type(update) for update in made.updates.values()}
    for path in bank["value"].updates:
        assert made.updates[path] is mixed.updates[path]
    with pytest.raises(ConceptError, match="changes no weights"):
        compress(bank["value"])


def test_a_layer_whose_bias_changes_stays_whole(whole):
    path = f"{whole.layers[0]}.to_out.0"
    out = FullRank(torch.ones(32, 32), torch.ones(32))
    made, report = compress(replace(whole, updates={**whole.updates, path: out}))
    assert made.updates[path] is out
    assert report.whole == (path,)
    assert path not in report.errors
    assert "Kept whole, because a bias changes there too: down" in report.in_words()


@pytest.mark.parametrize("energy", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_an_energy_that_keeps_nothing_or_all_is_refused(energy):
    with pytest.raises(CidmError, match=r"energy is .*; (allowed is 0.01 to 0.99|give a finite)"):
        CompressConfig(energy=energy)


def test_an_energy_below_the_first_value_of_all_layers_is_refused(whole):
    with pytest.raises(ConceptError, match="keeps nothing of 'pip'"):
        compress(whole, CompressConfig(energy=0.01))


@pytest.mark.filterwarnings("ignore::Warning")
def test_diffusers_reads_the_compressed_file(whole, tiny_base, tmp_path):
    """The whole one it refuses for its full-rank weights."""
    made, _ = compress(whole)
    path = tmp_path / "pip.safetensors"
    path.write_bytes(concept_to_bytes(made))
    unet = copy.deepcopy(tiny_base.unet)
    pipe = diffusers.StableDiffusionPipeline(
        *(tiny_base.vae, copy.deepcopy(tiny_base.text_encoders[0]), tiny_base.tokenizers[0], unet),
        *(diffusers.DDIMScheduler.from_config(tiny_base.scheduler_config), None, None),
        requires_safety_checker=False,
    )
    before = {at: unet.get_submodule(at).weight.detach().clone() for at in whole.updates}
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for at, weight in before.items():
        change = pipe.unet.get_submodule(at).weight - weight
        wanted = made.updates[at].delta if at in made.updates else torch.zeros_like(change)
        assert_close(change, wanted, rtol=1e-4, atol=2e-6)


@pytest.fixture
def bank(whole, tmp_path):
    found = Bank(tmp_path / "bank")
    found.add(whole)
    return found


def test_a_compressed_concept_goes_into_another_bank_or_in_its_place(bank, tmp_path):
    before = contents(bank.path)
    with pytest.raises(BankError, match="into another bank than 'bank'"):
        compress_in_bank(bank, "pip", bank)
    with pytest.raises(BankError, match="keeps its name"):
        compress_in_bank(bank, "pip", None, "small")
    other = Bank(tmp_path / "other")
    made, _ = compress_in_bank(bank, "<new1>", other, "small")
    assert (made.name, list(other)) == ("small", ["small"])
    assert contents(bank.path) == before
    with pytest.raises(BankError, match="overlap '<new1>' of concept 'small'"):
        compress_in_bank(bank, "pip", other)
    made, report = compress_in_bank(bank, "pip", None)
    assert list(bank) == ["pip"]
    assert len(contents(bank.path)["pip.safetensors"]) < len(before["pip.safetensors"])
    assert bank["pip"].updates.keys() == made.updates.keys()
    assert bank["pip"].facts["compressed"]["energy"] == report.energy


def test_the_command(bank, tmp_path, capsys):
    words = ["bank", "compress", "pip", "--bank", str(bank.path)]
    before = contents(bank.path)
    assert main([*words, "--energy", "0"]) == main([*words, "--energy", "1"]) == FAILED
    assert main([*words, "--energy", "0.5", "--as", "small", "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["report"]["energy"]) == ("small", 0.5)
    assert list(Bank(tmp_path / "bank-compressed")) == ["small"]
    assert contents(bank.path) == before
    assert main([*words, "--replace", "--quiet"]) == OK
    assert "The changes are off by" in capsys.readouterr().out
