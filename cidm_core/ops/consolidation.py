"""Concept consolidation: new low-rank weights leave the earlier ones alone, or share with them.

Paper: CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.1, Eq. 2, 6 and 7.
A_i is `up` (out, rank), B_i is `down` (rank, in). The released code has another R1 and no R2:
docs/EQUATIONS.md#r1. Nothing here builds a full (out, in) delta; leading axes are batched layers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import CidmError

_CHUNK = 1 << 18  # entries of |up @ old^T| held at a time: 1 MB in fp32, stays in the cache


def orthogonality(
    up: Float[Tensor, "*layers out rank"],
    old_ups: Float[Tensor, "*layers tasks out old_rank"],
    mode: str = "subspace",
) -> Float[Tensor, "*layers"]:
    """How far the new column space is from being orthogonal to the earlier ones: R1 of Eq. 2.

    "subspace": `sum_i sum |A_i^T A_g|`, zero exactly when the column spaces are orthogonal.
    "released": `mean_i mean |A_g A_i^T|` as the public code; pulls A_g to zero instead.
    "energy": `sum_i ||A_i^T A_g||_F^2`, the smooth sibling of "subspace"; see `gram_energy`.

    Args:
        up: A_g of the concept being learned.
        old_ups: A_i of the earlier concepts; constants, no gradient flows into them.
        mode: "subspace", "released" or "energy".

    Raises:
        CidmError: If the mode is unknown.
    """
    if mode == "released":
        if up.ndim == 2:
            return released_overlap(up, old_ups)
        return torch.stack([orthogonality(a, o, mode) for a, o in zip(up, old_ups, strict=True)])
    products = old_ups.detach().mT @ up[..., None, :, :]
    if mode == "subspace":
        return products.abs().sum((-3, -2, -1))
    if mode == "energy":
        return products.square().sum((-3, -2, -1))
    raise CidmError(
        f"Orthogonality mode {mode!r} is unknown; choose 'subspace', 'released' or 'energy'."
    )


def released_overlap(
    up: Float[Tensor, "out rank"], old_ups: Float[Tensor, "tasks out old_rank"]
) -> Float[Tensor, ""]:
    """`mean_i mean |A_g A_i^T|` in a few rows at a time (R1 as released).

    The exact value, but the out x out matrices of the public code never exist as a whole.

    Raises:
        CidmError: If the ranks differ, for then A_g A_i^T does not exist.
    """
    if up.shape[-1] != old_ups.shape[-1]:
        raise CidmError(
            f"R1 as released compares equal ranks only: the new concept has {up.shape[-1]}, "
            f"earlier ones {old_ups.shape[-1]}. Choose orthogonality 'subspace', or the same rank."
        )
    return _ReleasedOverlap.apply(up, old_ups.detach())  # type: ignore[no-any-return]


class _ReleasedOverlap(torch.autograd.Function):
    """Value and gradient in one pass: the old factors are constants, so only A_g's is needed."""

    @staticmethod
    def forward(ctx: Any, up: Tensor, old_ups: Tensor) -> Tensor:  # type: ignore[override]
        tasks, out, _ = old_ups.shape
        total, grad = up.new_zeros(()), torch.zeros_like(up)
        rows = max(1, _CHUNK // max(1, out))
        for old in old_ups:
            for start in range(0, out, rows):
                product = up[start : start + rows] @ old.mT
                total += product.abs().sum()
                grad[start : start + rows] += product.sign_() @ old
        count = max(1, tasks * out * out)
        ctx.save_for_backward(grad / count)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad_output * grad, None


def gram_energy(
    up: Float[Tensor, "*layers out rank"], gram: Float[Tensor, "*layers out out"]
) -> Float[Tensor, "*layers"]:
    """`tr(A_g^T P A_g)` with `P = sum_i A_i A_i^T`: "energy" at the same cost for any bank."""
    return (up * (gram.detach() @ up)).sum((-2, -1))


def orthonormal_basis(
    old_ups: Float[Tensor, "tasks out rank"], keep: int | None = None
) -> Float[Tensor, "out basis"]:
    """Orthonormal columns Q that span the earlier column spaces, strongest direction first.

    Args:
        old_ups: A_i of the earlier concepts; zero-padded columns do no harm.
        keep: At most so many directions; `out - rank` leaves room for a new concept of that
            rank, at the price of an orthogonality that is then soft.
    """
    columns = old_ups.movedim(0, 1).flatten(1).double()
    if columns.shape[1] > columns.shape[0]:
        return gram_basis(columns @ columns.mT, keep).to(old_ups.dtype)
    left, strength, _ = torch.linalg.svd(columns, full_matrices=False)
    noise = torch.finfo(torch.double).eps * max(columns.shape)
    return left[:, : _count(strength, noise, keep)].to(old_ups.dtype)


def gram_basis(
    gram: Float[Tensor, "out out"], keep: int | None = None
) -> Float[Tensor, "out basis"]:
    """`orthonormal_basis` from `P = sum_i A_i A_i^T`, for banks with more columns than rows."""
    energy, vectors = torch.linalg.eigh(gram.double())
    strength = energy.flip(0).clamp(min=0).sqrt()  # singular values of the columns
    noise = (torch.finfo(gram.dtype).eps * len(gram)) ** 0.5
    return vectors.flip(1)[:, : _count(strength, noise, keep)].to(gram.dtype)


def project_out(
    up: Float[Tensor, "*layers out rank"], basis: Float[Tensor, "*layers out basis"]
) -> Float[Tensor, "*layers out rank"]:
    """`A_g <- A_g - Q Q^T A_g`: R1 becomes 0 by construction (methods, section 8.5)."""
    return up - basis @ (basis.mT @ up)


def common_subspace(
    factors: Sequence[tuple[Float[Tensor, "out _"], Float[Tensor, "_ in"]]], k: int
) -> Float[Tensor, "k in"]:
    """W_*: the k right singular vectors that carry most of the stacked deltas, as rows.

    The minimum of R2 = `sum_i ||delta_i - H_i W_*||_F^2` over H_i and all W_* of rank k. Fewer
    rows come back if the deltas span fewer dimensions.

    Args:
        factors: `(up, down)` of every concept, the scale folded into one of them.
        k: Rank of the subspace.

    Raises:
        CidmError: If there is no concept.
    """
    if not factors:
        raise CidmError("A common subspace needs at least one earlier concept.")
    stack = torch.cat([compact(up, down) for up, down in factors])
    return orthonormal_basis(stack.mT[None], keep=k).mT


def compact(
    up: Float[Tensor, "out rank"], down: Float[Tensor, "rank in"]
) -> Float[Tensor, "rows in"]:
    """R B for A = Q R: at most rank rows with the right singular values and vectors of A B."""
    return torch.linalg.qr(up, mode="r").R @ down


def shared_loss(
    up: Float[Tensor, "*layers out rank"],
    down: Float[Tensor, "*layers rank in"],
    basis: Float[Tensor, "*layers k in"],
) -> Float[Tensor, "*layers"]:
    """`||delta - delta W^T W||_F^2`: R2 of one concept with its best H = delta W^T.

    Args:
        up: A_g, times the scale.
        down: B_g.
        basis: W_* with orthonormal (or zero) rows.
    """
    rest = down - (down @ basis.mT) @ basis
    return _product_energy(up, rest)


def shared_residual(
    up: Float[Tensor, "*layers out rank"],
    down: Float[Tensor, "*layers rank in"],
    h: Float[Tensor, "*layers out k"],
    w: Float[Tensor, "*layers k in"],
) -> Float[Tensor, "*layers"]:
    """`||delta - H W||_F^2`: R2 of one concept with given H_i and W_*."""
    return _product_energy(torch.cat([up, -h], dim=-1), torch.cat([down, w], dim=-2))


def shared_gradients(
    up: Float[Tensor, "*layers tasks out rank"],
    down: Float[Tensor, "*layers tasks rank in"],
    h: Float[Tensor, "*layers tasks out k"],
    w: Float[Tensor, "*layers k in"],
) -> tuple[Float[Tensor, "*layers tasks out k"], Float[Tensor, "*layers k in"]]:
    """Gradients of R2 = `sum_i ||delta_i - H_i W_*||_F^2` by every H_i and by W_* (Eq. 6 and 7).

    `dR2/dH_i = 2 (H_i W_* - delta_i) W_*^T` and `dR2/dW_* = 2 sum_i H_i^T (H_i W_* - delta_i)`.
    To descend, subtract them: the plus sign of the paper's Eq. 7 climbs.
    """
    wide = w[..., None, :, :]
    grad_h = h @ (wide @ wide.mT) - up @ (down @ wide.mT)
    grad_w = (h.mT @ h).sum(-3) @ w - ((h.mT @ up) @ down).sum(-3)
    return 2 * grad_h, 2 * grad_w


def _product_energy(left: Tensor, right: Tensor) -> Tensor:
    """`||left @ right||_F^2` = tr(left^T left right right^T), from rank x rank matrices."""
    return ((left.mT @ left) * (right @ right.mT)).sum((-2, -1))


def _count(strength: Tensor, noise: float, keep: int | None) -> int:
    """How many directions stand above rounding noise, at most `keep`."""
    found = int((strength > strength[:1] * noise).sum())
    return found if keep is None else min(found, max(keep, 0))
