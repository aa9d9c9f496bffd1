"""Eq. 1, masks, noise offset and the attention regulariser, against plain loops."""

import math

import pytest
import torch
from torch.testing import assert_close

from cidm_core.ops import diffusion

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_eq1_add_noise_by_hand():
    z, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 3.0)
    found = diffusion.add_noise(z, noise, torch.tensor([0.64, 1.0]))
    assert_close(found.flatten(), torch.tensor([0.8 * 2 + 0.6 * 3, 2.0]))


def test_eq1_add_noise_keeps_unit_variance():
    z, noise = draw(1, 4, 64, 64), draw(1, 4, 64, 64, seed=1)
    noisy = diffusion.add_noise(z, noise, torch.tensor([0.3], dtype=DOUBLE))
    assert float(noisy.var()) == pytest.approx(1, abs=0.05)


def test_noise_offset_shifts_whole_channels():
    z = torch.zeros(2, 4, 16, 16)
    plain = diffusion.noise_with_offset(z, 0.0, seeded())
    moved = diffusion.noise_with_offset(z, 0.5, seeded())
    shift = (moved - plain).flatten(2)
    assert_close(shift, shift[..., :1].expand_as(shift), atol=1e-6, rtol=0)  # one value a channel
    assert shift[..., 0].std() == pytest.approx(0.5, rel=0.6)
    assert len(set(shift[..., 0].flatten().tolist())) == 8


def test_noise_is_the_generators_and_nothing_elses():
    z = torch.zeros(1, 4, 8, 8)
    one, two = (diffusion.noise_with_offset(z, 0.01, seeded(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, diffusion.noise_with_offset(z, 0.01, seeded(4)))
    assert torch.equal(
        diffusion.noise_with_offset(z, 0.0, seeded(3)), torch.randn(z.shape, generator=seeded(3))
    )


def test_noise_offset_has_the_size_it_says():
    z = torch.zeros(64, 4, 1, 1)
    draws = torch.cat([diffusion.noise_with_offset(z, 2.0, seeded(s)) for s in range(20)])
    assert float(draws.std()) == pytest.approx(math.sqrt(1 + 4), rel=0.05)


def reference_mse(prediction, target, mask):
    losses = []
    for p, t, m in zip(prediction, target, mask, strict=True):
        total = count = 0.0
        for c in range(p.shape[0]):
            for y in range(p.shape[1]):
                for x in range(p.shape[2]):
                    total += float(m[y, x] * (p[c, y, x] - t[c, y, x]) ** 2)
                    count += float(m[y, x])
        losses.append(total / count if count else 0.0)
    return sum(losses) / len(losses)


def test_eq1_masked_loss_equals_the_loops():
    prediction, target = draw(3, 4, 5, 6), draw(3, 4, 5, 6, seed=1)
    mask = (draw(3, 5, 6, seed=2) > 0).double()
    mask[2] *= 0.5  # soft masks weigh
    found = diffusion.masked_mse(prediction, target, mask)
    assert float(found) == pytest.approx(reference_mse(prediction, target, mask))


def test_eq1_full_mask_is_the_plain_loss():
    prediction, target = draw(3, 4, 5, 6), draw(3, 4, 5, 6, seed=1)
    plain = (prediction - target).square().mean()
    assert_close(diffusion.masked_mse(prediction, target), plain)
    assert_close(diffusion.masked_mse(prediction, target, torch.ones(3, 5, 6).double()), plain)


def test_eq1_masked_loss_does_not_depend_on_the_masks_size():
    """A constant error is that error squared; the released code says 4 times as much."""
    prediction = torch.full((2, 4, 8, 8), 3.0)
    mask = torch.zeros(2, 8, 8)
    mask[0, :1] = mask[1, :7] = 1
    assert float(diffusion.masked_mse(prediction, torch.zeros_like(prediction), mask)) == 9


def test_eq1_outside_the_mask_nothing_is_learned():
    prediction = draw(1, 4, 4, 4).requires_grad_()
    mask = torch.zeros(1, 4, 4, dtype=DOUBLE)
    mask[:, :2] = 1
    diffusion.masked_mse(prediction, torch.zeros_like(prediction), mask).backward()
    assert (prediction.grad[:, :, 2:] == 0).all()
    assert (prediction.grad[:, :, :2] != 0).all()


def test_eq1_an_empty_mask_costs_nothing_and_gives_no_nan():
    prediction = draw(2, 4, 4, 4).requires_grad_()
    mask = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).double()
    loss = diffusion.masked_mse(prediction, torch.zeros_like(prediction), mask)
    assert_close(loss, prediction[1].square().mean() / 2)
    loss.backward()
    assert prediction.grad.isfinite().all()


def test_eq1_loss_of_half_precision_is_computed_in_full():
    prediction = torch.full((1, 4, 8, 8), 300.0, dtype=torch.float16)
    loss = diffusion.masked_mse(prediction, torch.zeros_like(prediction), torch.ones(1, 8, 8))
    assert loss.dtype == torch.float32
    assert float(loss) == 90000  # more than fp16 can hold


def reference_penalty(attention, mask):
    totals = []
    for maps, m in zip(attention, mask, strict=True):
        words = [maps[:, w] / maps[:, w].max() for w in range(maps.shape[1])]
        outside = [i for i in range(len(m)) if m[i] == 0]

        def mean_outside(values, outside=outside):
            return sum(float(values[i]) for i in outside) / len(outside) if outside else 0.0

        first = mean_outside(words[0]) if len(words) > 1 else 0.0
        totals.append(mean_outside(words[-1]) + first)
    return sum(totals) / len(totals)


@pytest.mark.parametrize("words", [1, 2, 3])
def test_attention_penalty_equals_the_loops(words):
    attention = draw(3, 16, words).sigmoid()
    mask = (draw(3, 16, seed=1) > 0).double()
    mask[2] = 1  # nothing outside
    found = diffusion.attention_penalty(attention, mask)
    assert float(found) == pytest.approx(reference_penalty(attention, mask))


def test_attention_penalty_by_hand():
    attention = torch.tensor([[[0.2, 0.4], [0.1, 0.8], [0.0, 0.2], [0.4, 0.0]]])
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    # first word / 0.4 outside: (0 + 1) / 2; last word / 0.8 outside: (0.25 + 0) / 2
    assert float(diffusion.attention_penalty(attention, mask)) == pytest.approx(0.5 + 0.125)


def test_attention_inside_the_mask_is_free():
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    attention = mask[..., None].repeat(1, 1, 2)
    assert diffusion.attention_penalty(attention, mask) == 0
    assert diffusion.attention_penalty(1 - attention, mask) == 2


@pytest.mark.parametrize("mask", [torch.ones(1, 4), torch.zeros(1, 4)])
def test_attention_penalty_stays_finite_for_empty_maps_and_full_masks(mask):
    attention = torch.zeros(1, 4, 2, requires_grad=True)
    loss = diffusion.attention_penalty(attention, mask)
    loss.backward()
    assert loss == 0
    assert attention.grad.isfinite().all()


def test_attention_penalty_gradient_equals_finite_differences():
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=DOUBLE)
    attention = draw(1, 4, 2).sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: diffusion.attention_penalty(a, mask), attention)


def test_v_is_what_the_definition_says():
    z, noise = draw(4, 6, 6), draw(4, 6, 6, seed=1)
    for angle in (0.1, 0.7, 1.5):
        alpha, sigma = math.cos(angle), math.sin(angle)
        noisy, v = alpha * z + sigma * noise, alpha * noise - sigma * z
        signal = torch.tensor(alpha**2, dtype=DOUBLE)
        assert_close(diffusion.noise_of_v(v, noisy, signal), noise)
        assert_close(diffusion.v_of_noise(noise, noisy, signal), v)
        # Of many estimates of one picture, as the rows of a step are.
        rows = torch.stack([v, 2 * v])[:, None]
        back = diffusion.v_of_noise(diffusion.noise_of_v(rows, noisy, signal), noisy, signal)
        assert_close(back, rows)
