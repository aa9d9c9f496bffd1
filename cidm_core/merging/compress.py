"""A concept in fewer numbers: every change of a weight by its strongest directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..as_text import listed
from ..concept import Concept
from ..errors import ConceptError
from ..ops import compression
from ..storage.concept_file import file_tensors
from ..updates import FullRank, LowRank, Update
from .settings import CompressConfig, OnProgress, untold

MUCH = 0.5  # an error beyond this leaves the smaller part


@dataclass(frozen=True)
class CompressReport:
    """What a compression did.

    Attributes:
        name: Of the concept.
        low_rank: Whether it had low-rank weights only.
        energy: The share of singular values asked for.
        bytes_before: Size of all tensors.
        bytes_after: And afterwards.
        rank: Mean rank of the layers.
        error: ||change - compressed||_F as a share of ||change||_F, over all layers together.
        errors: The same of each layer, by its path.
        dropped: Layers of which the rule keeps nothing.
        whole: Full-rank layers that stay so, because their bias changes too.
    """

    name: str
    low_rank: bool
    energy: float
    bytes_before: int
    bytes_after: int
    rank: float
    error: float
    errors: Mapping[str, float] = field(repr=False)
    dropped: tuple[str, ...]
    whole: tuple[str, ...]

    def in_words(self) -> str:
        """The report for people."""
        share = self.bytes_after / self.bytes_before
        text = (
            f"{self.bytes_before / 1e6:.2f} MB became {self.bytes_after / 1e6:.2f} MB "
            f"({share:.0%}), mean rank {self.rank:.1f}. The changes are off by {self.error:.0%}, "
            f"in single layers by {min(self.errors.values()):.0%} to "
            f"{max(self.errors.values()):.0%}."
        )
        if self.error > MUCH:
            text += f" Most of what {self.name!r} changes is lost: it will hardly be drawn. "
            text += (
                "It had low rank already, as what is merged has: use it as it is. Where a smaller "
                "merged file is wanted, compress the concepts first and merge them then."
                if self.low_rank
                else "Choose a larger energy, such as 0.9."
            )
        if self.dropped:
            text += f" Nothing is kept of {listed(self.dropped)}."
        if self.whole:
            text += f" Kept whole, because a bias changes there too: {listed(self.whole)}."
        return text


def compress(
    concept: Concept, config: CompressConfig | None = None, on_progress: OnProgress | None = None
) -> tuple[Concept, CompressReport]:
    """The concept with low-rank weights only, which every LoRA loader reads.

    Rows of words, value residuals and layers whose bias changes stay as they are.

    Raises:
        ConceptError: If it changes no weights, or nothing of them would be left.
    """
    config, tell = config or CompressConfig(), on_progress or untold
    weights = {path: update for path, update in concept.updates.items() if _is_matrix(update)}
    if not weights:
        raise ConceptError(
            f"{concept.name!r} changes no weights, so there is nothing to compress. Choose another."
        )
    parts: dict[str, _Part] = {}
    for done, (path, update) in enumerate(weights.items(), start=1):
        parts[path] = _compressed(update, config.energy)
        tell(done, len(weights), "Compressing layers")
    kept = {path: part.update for path, part in parts.items() if part.update is not None}
    if not kept:
        raise ConceptError(
            f"An energy of {config.energy:g} keeps nothing of {concept.name!r}: one singular value "
            "holds more. Choose a larger one."
        )
    common = float(max(update.rank for update in kept.values()))
    same = {path: _with_alpha(update, common) for path, update in kept.items()}
    updates = {p: same.get(p, u) for p, u in concept.updates.items() if p in same or p not in parts}
    made = replace(concept, updates=updates)
    lost, whole = (sum(getattr(p, name) for p in parts.values()) for name in ("lost", "whole"))
    report = CompressReport(
        name=concept.name,
        low_rank=all(isinstance(update, LowRank) for update in weights.values()),
        energy=config.energy,
        bytes_before=_bytes(concept),
        bytes_after=_bytes(made),
        rank=sum(update.rank for update in kept.values()) / len(parts),
        error=_share(lost, whole),
        errors={path: _share(part.lost, part.whole) for path, part in parts.items()},
        dropped=tuple(path for path in parts if path not in kept),
        whole=tuple(p for p, u in updates.items() if isinstance(u, FullRank)),
    )
    told = {"energy": report.energy, "mean_rank": report.rank, "error": report.error}
    return replace(made, facts={**concept.facts, "compressed": told}), report


def _is_matrix(update: Update) -> bool:
    """Whether it is a change of a weight and of nothing else."""
    return isinstance(update, LowRank) or (isinstance(update, FullRank) and update.bias is None)


@dataclass(frozen=True)
class _Part:
    """A compressed layer; `lost` and `whole` are squared norms. None if nothing is kept."""

    update: LowRank | None
    lost: float
    whole: float


def _compressed(update: Update, energy: float) -> _Part:
    if isinstance(update, LowRank):
        u, s, vt = compression.spectrum_of_factors(update.down, update.up)
        s, like = s * update.scale, update.down
    elif isinstance(update, FullRank):
        (u, s, vt), like = compression.spectrum(update.delta), update.delta
    else:
        raise TypeError(update)
    k = compression.kept_rank(s, energy)
    squares = s.square()
    lost, whole = squares[k:].sum().item(), squares.sum().item()
    if not k:
        return _Part(None, lost, whole)
    down, up = vt[:k].contiguous(), u[:, :k] * s[:k]
    return _Part(LowRank(down.to(like), up.to(like), float(k)), lost, whole)


def _with_alpha(update: LowRank, alpha: float) -> LowRank:
    """One alpha for all layers: diffusers' loader takes the commonest for all of attention."""
    return LowRank(update.down, update.up * (update.alpha / alpha), alpha)


def _share(lost: float, whole: float) -> float:
    return (lost / whole) ** 0.5 if whole else 0.0


def _bytes(concept: Concept) -> int:
    return sum(t.numel() * t.element_size() for t in file_tensors(concept).values())
