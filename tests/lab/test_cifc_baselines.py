"""The baselines' equations against independent float64 references."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from make import random_concept

from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.errors import TrainingError
from cidm_core.families import FAMILIES
from cidm_core.methods.base import Task
from cidm_core.methods.batches import Batch, Prediction
from cidm_core.methods.cidm import CidmConfig
from cidm_core.regions import Region
from lab.cifc.baselines.c_lora import CLora
from lab.cifc.baselines.class_kept import ClassKept
from lab.cifc.baselines.composite import CompositePlan
from lab.cifc.baselines.ewc import Ewc
from lab.cifc.baselines.lwf import Lwf
from lab.cifc.baselines.memory import BaselineMemory
from lab.cifc.baselines.merge import combined
from lab.cifc.baselines.sequential import Sequential
from lab.cifc.systems import shrunk

TOLERANCE = 1e-5
MINI = FAMILIES["MINI"]
MODEL = SimpleNamespace(family=MINI, layers=MINI.layers, fingerprint="x:1")


class LinearHost:
    """A model whose estimate is latents * sum of all factors + sum of all tokens."""

    device = torch.device("cpu")

    def __init__(self):
        self.updates = {}

    def embeddings(self, text):
        row = MINI.encoders[0]
        seeded = torch.Generator().manual_seed(len(text))
        return {row.name: torch.randn(1, row.dim, generator=seeded)}

    def predict(self, batch, tokens, watch):
        size = sum(pair.down.sum() + pair.up.square().sum() for pair in self.updates.values())
        shift = sum(rows.sum() for rows in tokens.values())
        return Prediction(batch.latents * size + shift, batch.noise)


def task(words="<new1> <new2>"):
    parts = tuple(words.split())
    return Task("new", (Subject(parts, "dog"),), MINI.name, MODEL.fingerprint, MINI.layers)


def olds(count, rank=4):
    made = [random_concept(MODEL, f"<o{i}a> <o{i}b>", i, rank=rank) for i in range(count)]
    return {concept.name: concept for concept in made}.values()


def batch(seed=0, shape=(2, 8, 4, 4)):
    seeded = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.randn(*size, generator=seeded)

    masks = (rand(shape[0], *shape[2:]) > 0).float()
    times = torch.randint(1000, (shape[0],), generator=seeded)
    return Batch(rand(*shape), rand(*shape), times, ("a <new1> <new2>",) * shape[0], masks)


def made(kind, old, host=None, **options):
    host = host or LinearHost()
    method = kind(task(), CidmConfig(rank=4), old, host, **options)
    host.updates = method.updates
    return method


def moved(method, seed=5):
    """The method with other low-rank weights than it started with."""
    seeded = torch.Generator().manual_seed(seed)
    for pair in method.updates.values():
        for tensor in (pair.down, pair.up):
            tensor.data.add_(0.1 * torch.randn(tensor.shape, generator=seeded))
    return method


def wide(tensor):
    return tensor.detach().double().numpy()


def test_sequential_goes_on_with_the_last_tasks_weights_and_new_tokens():
    old = olds(2)
    method, last = made(Sequential, old), list(old)[-1]
    for path, pair in last.low_rank.items():
        assert torch.equal(method.updates[path].down, pair.down)
        assert torch.equal(method.updates[path].up, pair.up)
    rows = method.result({}).rows["text_encoder"]
    assert not torch.equal(rows, last.rows["text_encoder"])
    assert method.penalties() == {}


def test_sequential_refuses_another_rank():
    with pytest.raises(TrainingError, match="rank 2"):
        made(Sequential, olds(1, rank=2))


# EWC


def remembered(tmp_path, old):
    """A memory of positive random numbers, and the numbers."""
    seeded = torch.Generator().manual_seed(3)
    tensors = {
        f"{path}.{side}": torch.rand(getattr(pair, side).shape, generator=seeded)
        for path, pair in list(old)[-1].low_rank.items()
        for side in ("down", "up")
    }
    memory = BaselineMemory(tmp_path, "ewc")
    memory.write(tensors, [concept.name for concept in old])
    return memory, tensors


def test_ewc_penalty(tmp_path):
    old = olds(2)
    memory, tensors = remembered(tmp_path, old)
    method = moved(made(Ewc, old, weight=7.0, memory=memory))
    before, expected = list(old)[-1].low_rank, 0.0
    for path, pair in method.updates.items():
        for side in ("down", "up"):
            gap = wide(getattr(pair, side)) - wide(getattr(before[path], side))
            expected += 7.0 / 2 * (wide(tensors[f"{path}.{side}"]) * gap**2).sum()
    assert float(method.penalties()["ewc"].detach()) == pytest.approx(expected, rel=TOLERANCE)


def test_ewc_pulls_back_with_lambda_times_fisher(tmp_path):
    old = olds(1)
    memory, tensors = remembered(tmp_path, old)
    method = moved(made(Ewc, old, weight=7.0, memory=memory))
    method.penalties()["ewc"].backward()
    path, pair = next(iter(method.updates.items()))
    gap = wide(pair.up) - wide(next(iter(old)).low_rank[path].up)
    expected = 7.0 * wide(tensors[f"{path}.up"]) * gap
    assert np.allclose(wide(pair.up.grad), expected, rtol=1e-4, atol=1e-7)


def test_ewc_of_the_first_task_is_plain_learning(tmp_path):
    assert made(Ewc, (), weight=7.0, memory=BaselineMemory(tmp_path, "ewc")).penalties() == {}


def test_ewc_refuses_a_memory_of_other_tasks(tmp_path):
    memory, _ = remembered(tmp_path, olds(1))
    with pytest.raises(TrainingError, match="one order"):
        made(Ewc, olds(2), weight=7.0, memory=memory)


# LwF


def test_lwf_distils_the_model_before_with_an_earlier_concepts_tokens():
    old = olds(3)
    method = moved(made(Lwf, old, weight=2.5))
    held = {path: (wide(p.down), wide(p.up)) for path, p in method.updates.items()}
    data = batch()
    terms = method.losses(data)
    concepts = list(old)
    head = concepts[int(data.timesteps.sum()) % 3]
    before = concepts[-1].low_rank

    def estimate(factors, tokens):
        size = sum(down.sum() + (up**2).sum() for down, up in factors)
        return wide(data.latents) * size + wide(tokens).sum()

    rows = head.rows["text_encoder"]
    now = estimate(held.values(), rows)
    then = estimate([(wide(p.down), wide(p.up)) for p in before.values()], rows)
    error = ((now - then) ** 2).mean(1) * wide(data.image_masks)
    expected = 2.5 * (error.sum((1, 2)) / wide(data.image_masks).sum((1, 2))).mean()
    assert float(terms["distil"].detach()) == pytest.approx(expected, rel=1e-4)
    for path, pair in method.updates.items():
        assert np.array_equal(wide(pair.down), held[path][0])
        assert np.array_equal(wide(pair.up), held[path][1])


def test_lwf_has_no_distillation_where_nothing_has_changed():
    method = made(Lwf, olds(2), weight=2.5)
    assert float(method.losses(batch())["distil"].detach()) == 0


def test_lwf_teaches_the_weights_but_not_the_teacher():
    method, data = moved(made(Lwf, olds(1), weight=1.0)), batch()
    before = next(iter(olds(1))).low_rank
    then = sum(wide(p.down).sum() + (wide(p.up) ** 2).sum() for p in before.values())
    now = sum(wide(p.down).sum() + (wide(p.up) ** 2).sum() for p in method.updates.values())
    method.losses(data)["distil"].backward()
    # mean of L^2 (now - then)^2 over the mask, L the latents; the shift by tokens cancels out
    mask = wide(data.image_masks)
    squares = (wide(data.latents) ** 2).mean(1) * mask
    slope = 2 * (now - then) * (squares.sum((1, 2)) / mask.sum((1, 2))).mean()
    for pair in method.updates.values():
        assert np.allclose(wide(pair.up.grad), slope * 2 * wide(pair.up), rtol=1e-3)
        assert np.allclose(wide(pair.down.grad), slope, rtol=1e-3)


def test_lwf_of_the_first_task_is_plain_learning():
    assert list(made(Lwf, (), weight=1.0).losses(batch())) == ["denoise"]


def test_lwf_refuses_what_it_cannot_do():
    one = [random_concept(MODEL, "<only>", 1, rank=4)]
    with pytest.raises(TrainingError, match="as many"):
        made(Lwf, one, weight=1.0)
    with pytest.raises(TrainingError, match="gradient_checkpointing"):
        Lwf(task(), CidmConfig(gradient_checkpointing=True), (), LinearHost(), weight=1.0)


# Class preservation


def test_class_preservation_compares_class_words_with_and_without_the_weights():
    host, seen = LinearHost(), []
    predict = host.predict

    def listening(batch, tokens, watch):
        size = sum(wide(p.up).__abs__().sum() for p in host.updates.values())
        seen.append((batch.prompts[0], size > 0))
        return predict(batch, tokens, watch)

    host.predict = listening
    method = moved(made(ClassKept, (), host, weight=2.5))
    data = batch()
    terms = method.losses(data)
    ups = sum((wide(pair.up) ** 2).sum() for pair in method.updates.values())
    error = ((wide(data.latents) * ups) ** 2).mean(1) * wide(data.image_masks)
    expected = 2.5 * (error.sum((1, 2)) / wide(data.image_masks).sum((1, 2))).mean()
    assert float(terms["class"].detach()) == pytest.approx(expected, rel=1e-3)
    assert seen == [("a dog", False), ("a dog", True), ("a <new1> <new2>", True)]
    sum(terms.values()).backward()
    assert all(pair.up.grad.abs().sum() > 0 for pair in method.updates.values())


def test_class_preservation_costs_nothing_at_the_start_and_refuses_recomputing():
    assert float(made(ClassKept, olds(1), weight=1.0).losses(batch())["class"].detach()) == 0
    with pytest.raises(TrainingError, match="gradient_checkpointing"):
        ClassKept(task(), CidmConfig(gradient_checkpointing=True), (), LinearHost(), weight=1.0)


# C-LoRA


@pytest.mark.parametrize("count", [1, 3])
def test_c_lora_penalty(count):
    old = olds(count, rank=3)
    method = moved(made(CLora, old, weight=40.0))
    expected = 0.0
    for path, pair in method.updates.items():
        taken = sum(
            c.low_rank[path].alpha / 3 * wide(c.low_rank[path].up) @ wide(c.low_rank[path].down)
            for c in old
        )
        new = pair.alpha / 4 * wide(pair.up) @ wide(pair.down)
        expected += np.linalg.norm(np.abs(taken) * new, "fro") ** 2
    assert float(method.penalties()["overlap"].detach()) == pytest.approx(
        40 * expected, rel=TOLERANCE
    )


def test_c_lora_starts_at_random_tokens_and_no_change():
    method, plain = made(CLora, (), weight=1.0), made(Sequential, ())
    rows = method.result({}).rows["text_encoder"]
    assert rows.std() == pytest.approx(CidmConfig().token_init_std, rel=0.2)
    assert not torch.equal(rows[1], plain.result({}).rows["text_encoder"][1])
    assert torch.equal(rows[:, :1].expand_as(rows), rows)
    assert method.penalties() == {}
    assert float(made(CLora, olds(1), weight=1.0).penalties()["overlap"].detach()) == 0


# Merging and composition


@pytest.mark.parametrize("share", [1.0, 1 / 3])
def test_combined_factors_are_the_sum_or_average_of_the_deltas(share):
    concepts = list(olds(3, rank=2))
    for path, pair in combined(concepts, share).items():
        assert (pair.rank, pair.scale) == (6, 1.0)
        parts = [c.low_rank[path] for c in concepts]
        expected = share * sum(p.alpha / p.rank * wide(p.up) @ wide(p.down) for p in parts)
        assert np.allclose(wide(pair.delta), expected, atol=1e-6)


def test_composite_guidance_is_the_mean_of_the_concepts_guided_estimates():
    seeded = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 2, 3, 4, 4, generator=seeded)
    plan = CompositePlan((), (), (), (), torch.zeros(0), SampleConfig(guidance_scale=4.0))
    wished = [wide(rows[2 * i]) * (1 - 4.0) + 4.0 * wide(rows[2 * i + 1]) for i in range(3)]
    assert np.allclose(wide(plan.guide(rows)), np.mean(wished, axis=0), atol=1e-5)


# Mix-of-Show's boxes


@pytest.mark.parametrize("cells", [(8, 8), (64, 48), (5, 7)])
def test_boxes_start_rounded_up_and_end_rounded_down(cells):
    rng = np.random.default_rng(0)
    height, width = cells
    for _ in range(50):
        (x0, x1), (y0, y1) = np.sort(rng.random((2, 2)))
        top, bottom = math.ceil(y0 * height), math.floor(y1 * height)
        left, right = math.ceil(x0 * width), math.floor(x1 * width)
        if top >= bottom or left >= right:
            continue
        expected = torch.zeros(height, width)
        expected[top:bottom, left:right] = 1
        found = shrunk(Region("a dog", box=(x0, y0, x1, y1)), height, width)
        assert torch.equal(found.mask_at(height, width), expected)


def test_a_box_never_shrinks_to_nothing():
    found = shrunk(Region("a dog", box=(0.9, 0.3, 0.99, 0.45)), 8, 8)
    assert found.mask_at(8, 8).sum() == 1
    assert shrunk(Region("a dog", box=(0.0, 0.0, 1.0, 1.0)), 8, 8).box == (0, 0, 1, 1)
