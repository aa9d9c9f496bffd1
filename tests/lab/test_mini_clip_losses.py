"""mini-clip's losses against plain loops in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from lab.mini.clip_check import auc
from lab.mini.clip_loss import TEMPERATURE, caption_loss, identity_loss


def unit(seed, count=7, dim=5):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=-1)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def log_share(chosen, candidates):
    return chosen - math.log(sum(math.exp(c) for c in candidates))


@pytest.mark.parametrize("present", [[True] * 7, [True, False, False, True, True, False, True]])
def test_caption_loss(present):
    pictures, right, wrong = unit(1).tolist(), unit(2).tolist(), unit(3).tolist()
    scale, count = 6.5, 7
    to_text = to_picture = choice = 0.0
    for i in range(count):
        row = [scale * dot(pictures[i], right[j]) for j in range(count)]
        column = [scale * dot(pictures[j], right[i]) for j in range(count)]
        to_picture -= log_share(column[i], column) / count
        tempting = scale * dot(pictures[i], wrong[i])
        to_text -= log_share(row[i], row + [tempting] * present[i]) / count
        if present[i]:
            choice -= log_share(row[i], [row[i], tempting]) / sum(present)
    found = caption_loss(unit(1), unit(2), unit(3), torch.tensor(present), torch.tensor(scale))
    assert float(found) == pytest.approx((to_text + to_picture) / 2 + choice, abs=1e-6)


def test_caption_loss_without_wrong_captions():
    none = torch.zeros(7, dtype=torch.bool)
    z, t = unit(1).requires_grad_(), unit(2)
    loss = caption_loss(z, t, unit(3), none, torch.tensor(5.0))
    logits = 5 * z.detach() @ t.T
    goal = torch.arange(7)
    both = (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2
    assert float(loss.detach()) == pytest.approx(float(both))
    loss.backward()
    assert z.grad.isfinite().all()


def test_identity_loss():
    z, group = unit(4).tolist(), [0, 0, 0, 1, 1, -1, 2]
    terms = []
    for i in range(7):
        friends = [j for j in range(7) if j != i and group[j] == group[i] and group[i] >= 0]
        others = [dot(z[i], z[j]) / TEMPERATURE for j in range(7) if j != i]
        chances = [log_share(dot(z[i], z[j]) / TEMPERATURE, others) for j in friends]
        if chances:  # a look with one view, and pictures of no family, are negatives only
            terms.append(-sum(chances) / len(chances))
    found = identity_loss(unit(4), torch.tensor(group))
    assert float(found) == pytest.approx(sum(terms) / len(terms), abs=1e-9)
    assert len(terms) == 5


def test_identity_loss_has_finite_gradients():
    z = unit(4).requires_grad_()
    identity_loss(z, torch.tensor([0, 0, 1, 1, -1, -1, 2])).backward()
    assert z.grad.isfinite().all()


def test_auc():
    positive, negative = [0.1, 0.5, 0.5, 0.9], [0.2, 0.5, 0.05]
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auc(torch.tensor(positive), torch.tensor(negative)) == pytest.approx(wins / 12)
