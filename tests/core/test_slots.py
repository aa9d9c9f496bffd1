"""Slots of prompts with concepts of two banks that share a name and words."""

import pytest
import torch
from make import random_concept

from cidm_core.config import SampleConfig
from cidm_core.errors import ConceptError
from cidm_core.sampling.layer_updates import baked, layer_updates
from cidm_core.sampling.slots import SlotTable
from cidm_core.text import Spans, TextContext


class Prompt:
    def __init__(self, concepts, weights):
        self.concepts, self.weights = concepts, weights


@pytest.fixture(scope="module")
def pair(tiny_base):
    return [random_concept(tiny_base, "<v1> <w1>", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def prompts(tiny_base, pair):
    ones = torch.ones(len(tiny_base.layers), 1)
    ids = [("one", "v1", ""), ("two", "v1", "")]
    return [Prompt({name: c}, ones) for name, c in zip(ids, pair, strict=True)]


def table_of(tiny_base, prompts):
    table = SlotTable(len(tiny_base.layers))
    text = TextContext(torch.zeros(1, 6, 8), None, Spans({"<v1>": (1,), "<w1>": (2,)}, (3,)))
    for prompt in prompts:
        table.add("a <v1> <w1>", text, table.weigh([prompt]), prompt.concepts)
    return table


def test_each_slot_has_the_concept_of_its_own_bank(tiny_base, pair, prompts):
    concepts, slots = table_of(tiny_base, prompts).finish()
    assert concepts == tuple(pair)
    assert [slot.weights[0].tolist() for slot in slots] == [[1, 0], [0, 1]]
    assert [slot.owners["<w1>"] for slot in slots] == [0, 1]


def test_words_of_two_banks_are_routed_to_their_own(tiny_base, pair, prompts):
    names = [layer.path for layer in tiny_base.layers]
    path = next(p for p in pair[0].updates if p.endswith("attn2.to_v"))

    def added(concepts, slots):
        where = torch.device("cpu"), torch.float32
        config = SampleConfig(key_value_routing="token")
        found = layer_updates(concepts, slots, names, *where, config)[path]
        x = torch.randn(1, 6, found.parts[0].down.shape[1], generator=torch.manual_seed(0))
        return [found(x, torch.tensor([i])) for i in range(len(slots))]

    both = added(*table_of(tiny_base, prompts).finish())
    alone = [added(*table_of(tiny_base, [prompt]).finish())[0] for prompt in prompts]
    for together, single in zip(both, alone, strict=True):
        torch.testing.assert_close(together, single)
    assert not torch.allclose(both[0], both[1])


def test_prompts_together_weigh_by_their_mean(tiny_base, prompts):
    table = SlotTable(len(tiny_base.layers))
    weights = table.weigh(prompts)
    assert [float(column[0]) for column in weights.values()] == [0.5, 0.5]


def test_baked_weights_are_the_sum_of_eq_3(tiny_base, pair, prompts):
    names = [layer.path for layer in tiny_base.layers]
    table = SlotTable(len(names))
    table.add("", None, table.weigh(prompts), {})
    concepts, (slot,) = table.finish()
    deltas = baked(concepts, slot, names, SampleConfig(strength=0.5))
    for path in pair[0].updates:
        wanted = 0.25 * sum(concept.updates[path].delta for concept in pair)
        torch.testing.assert_close(deltas[f"{path}.weight"], wanted)
    with pytest.raises(ConceptError, match="single words of the prompt"):
        baked(concepts, slot, names, SampleConfig(key_value_routing="token"))
