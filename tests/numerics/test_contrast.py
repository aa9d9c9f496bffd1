"""CLIF's contrast, min-SNR weights and falling rates against plain float64 (arXiv 2405.06914)."""

import math

import numpy as np
import pytest
import torch

from cidm_core.errors import TrainingError
from cidm_core.ops.contrast import contrastive_loss, cosines, mean_off_diagonal, retrieval
from cidm_core.ops.diffusion import snr_weights
from cidm_core.ops.schedules import piecewise

SCALE = 14.0
RULE = "1:200,0.4:500,0.1:1000,0.04:2000,0.01"


def drawn(pairs=6, more=0, dim=5):
    source = np.random.default_rng(5)
    return source.normal(size=(pairs, dim)), source.normal(size=(pairs + more, dim))


def published(images, texts, groups, scale, *, normalise=True):
    """Both cross-entropies, term by term: -sum_j P_ij log softmax(s f_i g_j)."""
    if normalise:
        images = images / np.linalg.norm(images, axis=1, keepdims=True)
        texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    pairs, total = len(groups), 0.0
    for i in range(pairs):
        right = [j for j in range(pairs) if groups[j] == groups[i]]
        of_image = [scale * images[i] @ text for text in texts]
        of_text = [scale * texts[i] @ image for image in images]
        for scores in (of_image, of_text):
            least = math.log(sum(math.exp(score) for score in scores))
            total += sum(least - scores[j] for j in right) / len(right)
    return total / (2 * pairs)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 1, 0]])
@pytest.mark.parametrize("more", [0, 4])
def test_the_loss_is_both_cross_entropies(groups, more, normalise):
    images, texts = drawn(more=more)
    scale = SCALE if normalise else 0.7
    wanted = published(images, texts, groups, scale, normalise=normalise)
    given = [torch.from_numpy(each) for each in (images, texts)]
    found = contrastive_loss(*given, torch.tensor(groups), scale, normalise=normalise)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_lower_precision_of_the_model_leaves_the_contrast_alone():
    """Cosines times 100 in bf16 would be off by half a logit."""
    given = [torch.from_numpy(each).float() for each in drawn()]
    own = torch.arange(6)
    full = contrastive_loss(*given, own, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(*given, own, 100.0).item() == pytest.approx(full.item(), rel=1e-6)


def test_with_a_group_for_each_pair_it_is_clips_own():
    images, texts = (torch.from_numpy(each) for each in drawn())
    unit = [each / each.norm(dim=1, keepdim=True) for each in (images, texts)]
    logits, own = SCALE * unit[0] @ unit[1].T, torch.arange(6)
    both = [torch.nn.functional.cross_entropy(each, own) for each in (logits, logits.T)]
    found = contrastive_loss(images, texts, own, SCALE)
    assert found.item() == pytest.approx((sum(both) / 2).item(), rel=1e-12)


def test_pairs_of_one_caption_do_not_push_each_other_away():
    """One text half way between both images: as one group it is right, as two it is pulled."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    for groups, pulled in (([0, 0], False), ([0, 1], True)):
        texts = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
        contrastive_loss(images, texts, torch.tensor(groups), SCALE).backward()
        assert (texts.grad.abs().max().item() > 1e-3) == pulled


def test_retrieval_and_distances():
    texts = torch.eye(4, dtype=torch.float64)
    images = torch.tensor([[3.0, 1, 0, 0], [0, 0, 2, 1], [0, 1, 1, 5]], dtype=torch.float64)
    assert retrieval(images, texts, torch.tensor([0, 2, 3])) == 1
    assert retrieval(images, texts, torch.tensor([0, 1, 3])) == pytest.approx(2 / 3)
    allowed = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert retrieval(images, texts, torch.tensor([0, 3, 2]), allowed) == pytest.approx(2 / 3)
    twice = torch.cat([texts, texts[:1]])  # no image can tell a text from its double
    assert retrieval(images, twice, torch.tensor([0, 2, 3])) == pytest.approx(2 / 3)
    assert math.isnan(retrieval(images[:0], texts, torch.tensor([], dtype=torch.long)))
    square = cosines(torch.tensor([[2.0, 0], [0, 1], [1, 1]], dtype=torch.float64))
    half = math.sqrt(0.5)
    wanted = torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]], dtype=torch.float64)
    assert torch.allclose(square, wanted)
    assert mean_off_diagonal(square) == pytest.approx(2 * half / 3)
    assert math.isnan(mean_off_diagonal(square[:1, :1]))


def test_min_snr_weights():
    alphas = torch.tensor([0.999, 0.9, 0.5, 0.01, 0.0], dtype=torch.float64)
    for a, noise, v in zip(
        alphas.tolist(),
        snr_weights(alphas, 5.0).tolist(),
        snr_weights(alphas, 5.0, "v_prediction").tolist(),
        strict=True,
    ):
        snr = a / (1 - a)
        assert noise == pytest.approx(min(snr, 5) / snr if snr else 1)
        assert v == pytest.approx(min(snr, 5) / (snr + 1))


def test_rates_fall_as_the_rule_says():
    factor = piecewise(RULE)
    at = {
        0: 1,
        199: 1,
        200: 0.4,
        499: 0.4,
        500: 0.1,
        1000: 0.04,
        1999: 0.04,
        2000: 0.01,
        9**9: 0.01,
    }
    assert {step: factor(step, 3000) for step in at} == at
    from diffusers.optimization import get_piecewise_constant_schedule

    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_piecewise_constant_schedule(optimiser, "1:20,0.4:50,0.1").lr_lambdas[0]
    ours = piecewise("1:20,0.4:50,0.1")
    assert [ours(step, 60) for step in range(60)] == [theirs(step) for step in range(60)]
    assert piecewise("0.5")(7, 10) == 0.5


@pytest.mark.parametrize("rule", ["", "1:a,2", "1:50,0.4:20,1", "1:0,2", "-1", "nan", "1:2:3,4"])
def test_rules_that_cannot_be_read(rule):
    with pytest.raises(TrainingError, match="The rule"):
        piecewise(rule)
