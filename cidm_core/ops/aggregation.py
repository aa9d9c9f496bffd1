"""Elastic weight aggregation (EWA): one low-rank update out of many concepts.

Paper: CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.2, Eq. 3.
The released code uses another relevance and another normalisation: docs/EQUATIONS.md#eq-3.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ConceptError, RelevanceError

_POWER = {"paper": 2, "released": 4, "gate": 2}  # the exponent of psi
_ORDER = {"paper": 2, "released": 1, "gate": 2}  # the norm psi divides by


@runtime_checkable
class Factors(Protocol):
    """What a low-rank update must offer; `cidm_core.updates.LowRank` does."""

    @property
    def down(self) -> Tensor: ...  # (rank, in_features)
    @property
    def up(self) -> Tensor: ...  # (out_features, rank)
    @property
    def scale(self) -> float: ...  # delta = scale * up @ down


class Concatenated(NamedTuple):
    """The factors of several concepts side by side, scales folded into `up`."""

    down: Float[Tensor, "columns in_features"]
    up: Float[Tensor, "out_features columns"]
    columns: Int[Tensor, " columns"]  # which concept each column belongs to


def relevance(
    prompt_context: Float[Tensor, "*batch tokens dim"],
    concept_tokens: Float[Tensor, "*batch concepts words dim"],
    word_mask: Bool[Tensor, "concepts words"],
    mode: str = "paper",
) -> Float[Tensor, "*batch concepts"]:
    """How well each concept fits the prompt: M of Eq. 3, for one layer or a batch of layers.

    "paper": `max_t c_t . mean_w e_w`, plain inner products (Eq. 3).
    "released": `mean_w max_t cos(c_t, e_w)`, as the public code does.

    A concept without any word gets 0, so it never takes part.

    Args:
        prompt_context: Encoded prompt tokens c_t; leading axes, e.g. layers, are batched.
        concept_tokens: Encoded concept words e_w, padded to the longest concept.
        word_mask: True where a word is real, False where it is padding.
        mode: "paper" or "released".

    Raises:
        RelevanceError: If the prompt has no token or the mode is unknown.
    """
    if prompt_context.shape[-2] == 0:
        raise RelevanceError("The prompt has no token to compare concepts with. Encode a prompt.")
    words = word_mask[..., None]
    count = word_mask.sum(-1).clamp(min=1)
    if mode == "paper":
        # where, not *: padding may hold anything, even NaN
        mean = torch.where(words, concept_tokens, 0).sum(-2) / count[:, None]
        return (mean @ prompt_context.mT).amax(-1)
    if mode == "released":
        unit = F.normalize(torch.where(words, concept_tokens, 0), dim=-1)
        cosine = unit @ F.normalize(prompt_context, dim=-1).mT[..., None, :, :]
        return torch.where(word_mask, cosine.amax(-1), 0).sum(-1) / count
    raise RelevanceError(f"Relevance mode {mode!r} is unknown; choose 'paper' or 'released'.")


def normalise(
    relevance: Float[Tensor, "*batch concepts"],
    mode: str = "paper",
    present: Bool[Tensor, "*#batch concepts"] | None = None,
    top_k: int | None = None,
) -> Float[Tensor, "*batch concepts"]:
    """Turn relevance into aggregation weights: psi of Eq. 3.

    "paper": `M^2 / ||M^2||_2`; equal concepts get 1/sqrt(n) each, so weights may sum to more
    than 1. "released": `M^4 / ||M^4||_1`. "gate": the paper's rule among the concepts whose
    words are in the prompt; a lone one gets exactly 1, without any all weights are 0.

    The powers are even, as printed: a relevance of -1 counts like +1. Encoded CLIP tokens
    share a large common direction, so negative values do not occur in practice.
    An empty bank gives empty weights.

    Args:
        relevance: M, one value per concept; leading axes are batched.
        mode: "paper", "released" or "gate".
        present: Whether a concept's words are in the prompt; needed and read by "gate" only.
        top_k: Only the k largest |M| take part; equal ones in bank order.

    Raises:
        RelevanceError: If M is not finite, the mode is unknown, "gate" lacks `present`, or
            every M is 0 in the modes "paper" and "released".
    """
    if mode not in _POWER:
        raise RelevanceError(f"Weight mode {mode!r} is unknown; choose {', '.join(_POWER)}.")
    if relevance.shape[-1] == 0:
        return relevance
    if not relevance.isfinite().all():
        raise RelevanceError("A relevance is NaN or infinite. Check the concept's tokens.")
    size = relevance.abs()
    if mode == "gate":
        size = _gate(size, present)
    elif not (size > 0).any(-1).all():
        raise RelevanceError(
            f"None of the {size.shape[-1]} concepts in the bank fits this prompt: every "
            "relevance is 0. Name a trained concept, or sample without the bank."
        )
    # psi does not depend on the scale of M: dividing first keeps M^4 in range, and 1 exact
    peak = size.amax(-1, keepdim=True)
    size = torch.where(peak > 0, size / peak, 0)
    size = _largest(size, top_k) ** _POWER[mode]
    return F.normalize(size, p=_ORDER[mode], dim=-1, eps=1e-30)


def _gate(size: Tensor, present: Tensor | None) -> Tensor:
    """Zero absent concepts; present ones that all have relevance 0 count alike."""
    if present is None:
        raise RelevanceError("Weight mode 'gate' needs to know which concepts the prompt names.")
    gated = torch.where(present, size, 0)
    return torch.where((gated > 0).any(-1, keepdim=True), gated, present.to(size.dtype))


def _largest(size: Tensor, top_k: int | None) -> Tensor:
    """Zero all but the k largest; the sort is stable, so ties go to earlier concepts."""
    if top_k is None or top_k >= size.shape[-1]:
        return size
    dropped = torch.sort(size, stable=True, dim=-1, descending=True).indices[..., max(top_k, 0) :]
    return size.scatter(-1, dropped, 0)


def delta(
    weights: Float[Tensor, " concepts"], factors: Sequence[Factors]
) -> Float[Tensor, "out_features in_features"]:
    """The aggregated update `sum_i w_i * scale_i * up_i @ down_i` of one layer (Eq. 3).

    Deltas are summed, never factors: the sum of products is not the product of sums. At least
    the precision of `weights` is kept.

    Raises:
        ConceptError: If there is no concept or the concepts' shapes differ.
    """
    down, up, columns = concatenate(factors)
    scaled = up * weights[columns.to(weights.device)].to(up.device)
    return scaled @ down.to(scaled.dtype)


def concatenate(factors: Sequence[Factors]) -> Concatenated:
    """Put the factors of several concepts, of any ranks, side by side.

    `up @ diag(w[columns]) @ down` is Eq. 3's sum, so one pair of matrix products serves all
    concepts whatever their number.

    Raises:
        ConceptError: If there is no concept or the concepts' shapes differ.
    """
    if not factors:
        raise ConceptError("No concept to aggregate. Choose at least one of the bank.")
    shapes = [(f.up.shape[0], f.down.shape[1]) for f in factors]
    if len(set(shapes)) > 1:
        raise ConceptError(
            f"Concepts of different shapes for one layer: {sorted(set(shapes))} (out, in). "
            "Use concepts learned on one model family."
        )
    ranks = torch.tensor([f.down.shape[0] for f in factors])
    up = torch.cat([f.scale * f.up for f in factors], dim=1)
    columns = torch.arange(len(factors)).repeat_interleave(ranks)
    return Concatenated(torch.cat([f.down for f in factors]), up, columns.to(up.device))


def low_rank_branch(
    x: Float[Tensor, "batch tokens in_features"],
    down: Float[Tensor, "columns in_features"],
    up: Float[Tensor, "out_features columns"],
    column_weights: Float[Tensor, "batch columns"] | Float[Tensor, "batch tokens columns"],
) -> Float[Tensor, "batch tokens out_features"]:
    """What the aggregated update adds to a layer's output, with other weights in each row.

    `x @ delta_b^T` for batch row b, as two matrix products over all concepts (Eq. 3 unmerged).
    With weights for every token, `x_t @ delta_bt^T` (see `routing`).

    Args:
        x: Input of the layer.
        down: From `concatenate`.
        up: From `concatenate`.
        column_weights: `weights[..., columns]`, weights (batch, concepts) of each row, or
            (batch, tokens, concepts) of each token.
    """
    if column_weights.ndim == 2:
        column_weights = column_weights[:, None, :]
    return (x @ down.mT * column_weights) @ up.mT
