"""Merge Concepts and Compress Concept in the real host, beside the command line's way."""

import shutil

import pytest
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.concept import Subject
from cidm_core.diffusers_host.encode import DiffusersEncoder
from cidm_core.diffusers_host.load import load_base
from cidm_core.families import FAMILIES
from cidm_core.merging.merge import merge
from cidm_core.merging.texts import shipped_captions

LINES = [*shipped_captions(FAMILIES["SD15"])[:30], "a red (cup:1.3) on a table"]


@pytest.fixture(scope="module")
def mini():
    return load_base("mini-sd", device="cpu", dtype="fp32")


@pytest.fixture
def bank(server, mini):
    """Three concepts: rows per layer, one that modifies its class words, one without words."""
    folder = server.base / "models" / "concept_banks"
    found = Bank(folder / "trio")
    made = [
        random_concept(mini, words, i, size=0.1) for i, words in enumerate(("<d1> <d2>", "<n>"))
    ]
    modifier = (Subject(("<n>",), "cat", modifier=True),)
    made[1] = random_concept(mini, "<n>", 1, size=0.1, name="n", subjects=modifier)
    made.append(
        random_concept(
            mini, "<x>", 3, size=0.1, name="gate", rows={}, subjects=(Subject((), "gate"),)
        )
    )
    for concept in made:
        found.add(concept)
    yield found
    for name in ("trio", "trio-merged", "trio-merged-compressed", "other", "other-compressed"):
        shutil.rmtree(folder / name, ignore_errors=True)


def prompt(**inputs):
    def node(kind, **given):
        return {"class_type": kind, "inputs": given}

    merge_inputs = {"model": ["load", 0], "clip": ["load", 1], "bank": ["bank", 0], "name": "all"}
    merge_inputs |= {"captions": "\n".join(LINES), **inputs}
    return {
        "load": node("CIDM_LoadMiniModel", model="mini-sd"),
        "bank": node("CIDM_LoadConceptBank", bank="trio"),
        "merge": node("CIDM_MergeConcepts", **merge_inputs),
        "small": node("CIDM_CompressConcept", bank=["merge", 0], energy=0.9, overwrite=True),
        "text": node("PreviewAny", source=["merge", 1]),
    }


def test_merged_and_compressed_as_on_the_command_line(server, bank, mini):
    before = list(bank)
    result = server.run(prompt())
    assert result.status == "success", str(result.error)
    assert result.outputs["text"]["text"][0] == "<d1> <d2> and <n> cat and gate"
    made = Bank(bank.path.parent / "trio-merged")["all"]
    encode = DiffusersEncoder(mini).captions
    wanted, report = merge([bank[name] for name in before], "all", mini, encode, LINES)
    assert made.facts["ordinary_rows"] == report.ordinary_rows
    for path, update in wanted.updates.items():
        delta = update.delta
        assert (made.updates[path].delta - delta).norm() < 0.02 * delta.norm(), path
    small = Bank(bank.path.parent / "trio-merged-compressed")["all"]
    assert small.facts["compressed"]["energy"] == 0.9
    told = result.outputs["small"]["text"][0]
    assert "The changes are off by" in told
    assert list(bank) == before


def test_what_cannot_be_is_told_and_nothing_is_lost(server, bank):
    def said(**inputs):
        result = server.run(prompt(**inputs))
        if result.status == "rejected":
            errors = [e for node in result.error["node_errors"].values() for e in node["errors"]]
            return " ".join(f"{e['message']} {e['details']}" for e in errors)
        return result.error["exception_message"]

    assert "two concepts or more" in said(concepts="n")
    assert "'n' is named twice" in said(concepts="n, d1\nN")
    assert "Do you mean 'gate'?" in said(concepts="n\ngat")
    assert "into another bank than 'trio'" in said(into="trio")
    assert "has no name" in said(name=" ")
    assert not (bank.path.parent / "trio-merged").exists()
    assert server.run(prompt(into="other", rows="diffusers")).status == "success"
    again = prompt(into="other")
    result = server.run(again)
    assert "already has a concept 'all'" in result.error["exception_message"]
    assert server.run(prompt(into="other", overwrite=True)).status == "success"
    assert Bank(bank.path.parent / "other")["all"].config["rows"] == "compvis"
