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


def orthonormal_basis(
    old_ups: Float[Tensor, "tasks out rank"], keep: int | None = None
) -> Float[Tensor, "out basis"]:
    """Orthonormal columns Q that span the earlier column spaces, strongest direction first.

    Args:
        old_ups: A_i of the earlier concepts; zero-padded columns do no harm.
        keep: At most so many directions; `out - rank` leaves room for a new concept of that
            rank, at the price of an orthogonality that is then soft.
    """
    return leading_directions(old_ups.movedim(0, 1).flatten(1), keep)[0]


def leading_directions(
    columns: Float[Tensor, "rows columns"], keep: int | None = None
) -> tuple[Float[Tensor, "rows found"], Float[Tensor, " found"]]:
    """Left singular vectors and singular values above rounding noise, at most `keep`."""
    rows, count = columns.shape
    if count > rows:
        return gram_directions(columns.double() @ columns.double().mT, keep, columns.dtype)
    left, strength, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    noise = torch.finfo(torch.double).eps * rows
    found = int((strength > strength[:1] * noise).sum())
    kept = slice(0, found if keep is None else min(found, max(keep, 0)))
    return left[:, kept].to(columns.dtype), strength[kept].to(columns.dtype)


def gram_directions(
    gram: Float[Tensor, "rows rows"], keep: int | None = None, dtype: torch.dtype | None = None
) -> tuple[Float[Tensor, "rows found"], Float[Tensor, " found"]]:
    """`leading_directions` of C from `C C^T`, for more columns than anyone wants to hold."""
    energy, vectors = torch.linalg.eigh(gram.double())
    energy, vectors = energy.flip(0), vectors.flip(1)
    found = int((energy > energy[:1] * torch.finfo(gram.dtype).eps * len(gram)).sum())
    kept = slice(0, found if keep is None else min(found, max(keep, 0)))
    dtype = dtype or gram.dtype
    return vectors[:, kept].to(dtype), energy[kept].sqrt().to(dtype)


def complete(basis: Float[Tensor, "rows found"], count: int) -> Float[Tensor, "rows columns"]:
    """Fill up to `count` (at most rows) orthonormal directions, drawn from a fixed seed."""
    rows, found = basis.shape
    missing = min(count, rows) - found
    if missing <= 0:
        return basis
    free = torch.randn(rows, missing, generator=torch.Generator().manual_seed(0)).to(basis)
    for _ in range(2):  # twice is enough to lose what rounding leaves of the basis
        free = torch.linalg.qr(project_out(free, basis)).Q
    return torch.cat([basis, free], dim=1)


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
    """R B for A = Q R: at most rank rows that stand for A B wherever only norms are asked.

    `||A B - H W|| = ||R B - H' W||` for every H = Q H', and a descent on H that starts in the
    span of Q never leaves it.
    """
    dtype = torch.promote_types(up.dtype, torch.float32)
    return torch.linalg.qr(up.to(dtype), mode="r").R @ down.to(dtype)


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
    up: Float[Tensor, "*layers out rank"],
    down: Float[Tensor, "*layers rank in"],
    h: Float[Tensor, "*layers out k"],
    w: Float[Tensor, "*layers k in"],
) -> tuple[Float[Tensor, "*layers out k"], Float[Tensor, "*layers k in"]]:
    """Gradients of one term of R2, `||delta_i - H_i W_*||_F^2`, by H_i and by W_* (Eq. 6 and 7).

    `2 (H_i W_* - delta_i) W_*^T` and `2 H_i^T (H_i W_* - delta_i)`; W_*'s gradient of R2 is the sum
    of the latter over concepts. To descend, subtract them: the plus sign of Eq. 7 climbs.
    """
    grad_h = h @ (w @ w.mT) - up @ (down @ w.mT)
    grad_w = (h.mT @ h) @ w - (h.mT @ up) @ down
    return 2 * grad_h, 2 * grad_w


def stacked_gradients(
    rows: Float[Tensor, "*layers rows in"],
    h: Float[Tensor, "*layers rows k"],
    w: Float[Tensor, "*layers k in"],
) -> tuple[Float[Tensor, "*layers rows k"], Float[Tensor, "*layers k in"]]:
    """The same for many concepts at once, each by its `compact` rows."""
    rest = h @ w - rows
    return 2 * rest @ w.mT, 2 * h.mT @ rest


def _product_energy(left: Tensor, right: Tensor) -> Tensor:
    """`||left @ right||_F^2` = tr(left^T left right right^T), from rank x rank matrices."""
    return ((left.mT @ left) * (right @ right.mT)).sum((-2, -1))
