"""Merging fine-tuned weights in closed form: all targets met, ordinary text as before.

Custom Diffusion, Kumari et al. 2023, https://arxiv.org/abs/2212.04488, section 3.2. Of all W that
meet W C^T = V^T, the one nearest to W0 on ordinary text, min ||(W - W0) C_reg^T||_F, is

    W = W0 + (V^T - W0 C^T) (D C^T)^-1 D,    D = C M^-1,    M = C_reg^T C_reg.

M, D and D C^T depend on the text alone: they are factored once for all matrices, in float64. The
released code inverts by LU in float32, anew for each matrix: docs/EQUATIONS.md#merging. With slack
the targets are met nearly, and other texts change less: D C^T + slack diag(D C^T) in its place.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import CidmError

SAME_ROW = 1e-5  # distance, as a share of its length, at which a target repeats an earlier one
# Beyond it, in the Frobenius norm, M says more of rounding in the text encoder than of text.
LARGEST_CONDITION = 1e7
RIDGE = 1e-4  # what M then gets on its diagonal, as a share of the mean there
_DEPENDENT = 1e-12  # smallest eigenvalue of D C^T, scaled to ones on its diagonal


@dataclass(frozen=True, eq=False)
class OrdinaryText:
    """What a merge keeps as it is.

    Attributes:
        cholesky: Lower factor of M, with its ridge, (in, in).
        ridge: What was added to the diagonal of M; 0 where it is well-conditioned.
    """

    cholesky: Float[Tensor, "in in"]
    ridge: float


@dataclass(frozen=True, eq=False)
class Targets:
    """What a merge has to meet, prepared for any number of weights.

    Attributes:
        kept: Which rows of C count: each that repeats no earlier one.
        directions: (D C^T)^-1 D, (kept, in), or with slack in the inverse. A change of W that takes
            the targets to `values` is `values^T @ directions`.
    """

    kept: Int[Tensor, " kept"]
    directions: Float[Tensor, "kept in"]


def ordinary_text(gram: Float[Tensor, "in in"]) -> OrdinaryText:
    """Factor M (Custom Diffusion, section 3.2).

    With fewer independent rows than columns M is singular; and the last norm of a text encoder may
    leave a direction in which no text differs. Changes there cost nothing, and would be as large as
    it takes; a ridge picks the smallest among those that ordinary text cannot tell apart.

    Args:
        gram: M = C_reg^T C_reg, which may be summed over parts of the rows.

    Raises:
        CidmError: If M is zero or not finite.
    """
    m = gram.double()
    mean = m.diagonal().mean().item()
    if not (torch.isfinite(m).all() and mean > 0):
        raise CidmError(
            "The states of ordinary text are missing, zero or not finite, so nothing can be held "
            "to them. Check the captions, and load the text encoder in fp32."
        )
    factor, failed = torch.linalg.cholesky_ex(m)
    if not failed and bool(torch.cholesky_inverse(factor).norm() * m.norm() < LARGEST_CONDITION):
        return OrdinaryText(factor, 0.0)
    ridge = RIDGE * mean
    identity = torch.eye(len(m), dtype=m.dtype, device=m.device)
    return OrdinaryText(torch.linalg.cholesky(m + ridge * identity), ridge)


def first_of_its_kind(targets: Float[Tensor, "rows in"]) -> Int[Tensor, " kept"]:
    """The rows that repeat no earlier one, in order.

    The encoder is causal: "a photo of" has the same states in front of any concept's words. The
    released code compares for equality; a row in another batch may differ by rounding.
    """
    rows = targets.double()
    kept: list[int] = []
    for i, row in enumerate(rows):
        distances = (rows[kept] - row).norm(dim=-1)
        if not bool((distances <= SAME_ROW * row.norm()).any()):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long, device=targets.device)


def prepare(text: OrdinaryText, targets: Float[Tensor, "rows in"], slack: float = 0.0) -> Targets:
    """All of the closed form that does not depend on a weight (Custom Diffusion, section 3.2).

    With slack the minimum is that of ||(W - W0) C_reg^T||_F^2 + sum_j ||W c_j - v_j||^2 / l_j with
    l_j = slack (D C^T)_jj: a row that is alone gets 1 / (1 + slack) of its change. Rows that are
    nearly alike and want different values force no change many times as large as any of them.

    Args:
        text: What is kept.
        targets: C.
        slack: 0 meets the targets exactly.

    Raises:
        CidmError: If a target is not finite, or, without slack, follows from the others.
    """
    if not torch.isfinite(targets).all():
        raise CidmError("The states of a target text are not finite. Load the model in fp32.")
    kept = first_of_its_kind(targets)
    rows = targets[kept].double()
    half = torch.linalg.solve_triangular(text.cholesky, rows.mT, upper=False)
    sizes = half.norm(dim=0)
    half = half / sizes  # rows of one length: D C^T has ones on its diagonal
    gram = half.mT @ half
    d = torch.linalg.solve_triangular(text.cholesky.mT, half, upper=True).mT
    if slack == 0:
        _check_independent(gram, rows.shape[1])
    gram.diagonal().add_(slack)
    directions = torch.cholesky_solve(d, torch.linalg.cholesky(gram)) / sizes[:, None]
    if slack == 0:
        # Once more against what M's condition cost: met are the targets themselves.
        directions = torch.linalg.solve(directions @ rows.mT, directions)
    return Targets(kept, directions)


def _check_independent(gram: Tensor, width: int) -> None:
    smallest = torch.linalg.eigvalsh(gram)[:1]
    if len(gram) > width or bool((smallest < _DEPENDENT).any()):
        raise CidmError(
            f"The {len(gram)} text rows that the concepts have to keep depend on each other: text "
            f"is {width} numbers wide here. Merge with slack, or fewer concepts at a time."
        )


def constrained(
    base: Float[Tensor, "out in"],
    context_reg: Float[Tensor, "regular in"],
    targets: Float[Tensor, "rows in"],
    values: Float[Tensor, "rows out"],
    slack: float = 0.0,
) -> Float[Tensor, "out in"]:
    """The weight that gives `values` at `targets` and is nearest to `base` elsewhere (section 3.2).

    Args:
        base: W0.
        context_reg: C_reg, states of ordinary text.
        targets: C; of rows that repeat, the first counts.
        values: V.
        slack: As `prepare` has it.

    Returns:
        W, in the type of `base`.

    Raises:
        CidmError: If the targets cannot be met.
    """
    rows = context_reg.double()
    text = ordinary_text(rows.mT @ rows)
    found = prepare(text, targets, slack)
    w0, wanted = base.double(), values[found.kept].double()
    change = (wanted - targets[found.kept].double() @ w0.mT).mT @ found.directions
    return (w0 + change).to(base)


def factors(
    found: Targets, values: Float[Tensor, "rows out"]
) -> tuple[Float[Tensor, "kept in"], Float[Tensor, "out kept"]]:
    """The change that takes the targets to `values`, as (down, up) of a low-rank update.

    It is exact: the change has no more ranks than there are targets. The rows of `down` are
    orthonormal, so that rounding them costs nothing.
    """
    q, r = torch.linalg.qr(found.directions.mT)
    return q.mT, values[found.kept].double().mT @ r.mT


def missed(
    reached: Float[Tensor, "rows out"], values: Float[Tensor, "rows out"]
) -> Float[Tensor, ""]:
    """The constraint residual ||reached - values||_F as a share of ||values||_F; 0 if both are."""
    wanted = values.double()
    gap, size = (reached.double() - wanted).norm(), wanted.norm()
    return gap / size if bool(size > 0) else gap
