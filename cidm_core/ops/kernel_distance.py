"""Distance of two sets of pictures by their features, without bias for few pictures.

The squared maximum mean discrepancy (Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html)
with the polynomial kernel of the Kernel Inception Distance (Binkowski et al. 2018,
https://arxiv.org/abs/1801.01401), k(x, y) = (x . y / d + 1)^3. KID itself takes features of
Inception v3; here they may be any encoder's.
"""

from jaxtyping import Float
from torch import Tensor

from ..errors import CidmError


def polynomial(x: Float[Tensor, "m dim"], y: Float[Tensor, "n dim"]) -> Float[Tensor, "m n"]:
    """The kernel of KID for every pair, `(x_i . y_j / dim + 1)^3`."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    x: Float[Tensor, "m dim"], y: Float[Tensor, "n dim"], *, paired: bool = False
) -> Float[Tensor, ""]:
    """Squared MMD of two sets, 0 on average for two of one kind; below 0 by chance.

    `mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)`. Feature
    vectors in float64, or the third power loses what matters.

    Args:
        x: Features of the first set, two or more.
        y: Of the second.
        paired: x_i and y_i belong together, such as pictures of one seed: then the last mean leaves
            out i = j as well (Gretton's Eq. 4). Without bias for such pairs, and exactly 0 for a
            set and itself.

    Raises:
        CidmError: If there are fewer than two pictures, or pairs of unequal numbers.
    """
    if min(len(x), len(y)) < 2 or (paired and len(x) != len(y)):
        raise CidmError(
            f"Sets of {len(x)} and {len(y)} pictures cannot be compared. Give two or more, as many "
            "of each if they are pairs."
        )
    across = _mean_of_others(polynomial(x, y)) if paired else polynomial(x, y).mean()
    return _mean_of_others(polynomial(x, x)) + _mean_of_others(polynomial(y, y)) - 2 * across


def _mean_of_others(kernel: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Mean of all entries beside the diagonal."""
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
