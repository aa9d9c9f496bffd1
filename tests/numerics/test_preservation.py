"""Custom Diffusion's loss and start-token rule against plain float64 (arXiv 2212.04488)."""

import numpy as np
import pytest
import torch

from cidm_core.ops.diffusion import masked_errors, masked_mse
from cidm_core.ops.preservation import with_prior, without_start


def drawn(batch=5, channels=4, side=6):
    source = np.random.default_rng(3)
    prediction, target = source.normal(size=(2, batch, channels, side, side))
    masks = (source.random((batch, side, side)) < 0.6).astype(float)
    masks[1] = 0  # nothing of this picture counts
    return prediction, target, masks


def published(prediction, target, masks, is_prior, weight, how):
    """The loss in the words of each code: their mask has one channel, the error four."""
    total, n = 0.0, len(prediction)
    for i in range(n):
        error = (prediction[i] - target[i]) ** 2
        inside = (error * masks[i][None]).sum() / max(masks[i].sum(), 1)
        if how == "diffusers":  # masked for photos, a plain mean for prior pictures
            total += weight * error.mean() if is_prior[i] else inside
        else:  # all masked alike; the four channels divided out
            total += (weight if is_prior[i] else 1.0) * inside / 4
    return total / n


@pytest.mark.parametrize("how", ["compvis", "diffusers"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_photos_and_prior_pictures(how, weight):
    prediction, target, masks = drawn()
    is_prior = np.array([False, False, True, False, True])
    masks[is_prior] = 1
    expected = published(prediction, target, masks, is_prior, weight, how)
    given = [torch.from_numpy(each) for each in (prediction, target, masks)]
    errors = masked_errors(*given)
    scale = 4 if how == "diffusers" else 1
    parts = with_prior(errors, torch.from_numpy(is_prior), 5, weight, scale)
    assert sum(parts).item() == pytest.approx(expected, rel=1e-12)
    assert masked_mse(*given).item() == pytest.approx(errors.mean().item(), rel=1e-12)


def test_without_prior_pictures_it_is_the_masked_loss():
    given = [torch.from_numpy(each) for each in drawn()]
    photos, prior = with_prior(masked_errors(*given), None, 5)
    assert photos.item() == pytest.approx(masked_mse(*given).item(), rel=1e-12)
    assert prior.item() == 0


def test_the_start_token_gives_no_gradient():
    """d/dW of sum(u * (x W^T)) is sum over tokens of u x^T; the start token's part is missing."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 5, generator=source, dtype=torch.float64)
    weight = torch.randn(3, 5, generator=source, dtype=torch.float64, requires_grad=True)
    u = torch.randn(2, 7, 3, generator=source, dtype=torch.float64)
    features = x @ weight.T
    found = without_start(features)
    assert torch.equal(found, features)
    (u * found).sum().backward()
    expected = np.einsum("bto,bti->oi", u[:, 1:].numpy(), x[:, 1:].numpy())
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=1e-12)
