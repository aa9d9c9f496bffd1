"""What scores and embeddings say: what is forgotten, what is confused, what is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Doubles = NDArray[np.float64]
_SIDE_PX = 32
_NOTHING = 1e-9  # what rounding leaves of a flat picture


def forgetting_matrix(
    concepts: Sequence[str], cells: Mapping[tuple[int, int], float]
) -> dict[str, object]:
    """How well each concept is drawn after each task, and what is lost.

    Drops are as in continual learning's backward transfer (Lopez-Paz and Ranzato 2017), with the
    sign turned: `own - final`, above 0 where something was lost. Their mean, and that of the shares
    kept, leaves out the last concept, which nothing came after.

    Args:
        concepts: Names in learning order.
        cells: Score by (after which task, of which concept), counted from 0; those of every concept
            after its own task and after the last one are needed.

    Returns:
        `values`: rows are tasks, columns concepts, None where nothing was measured; and the figures
        of reports. A share kept is None if a concept scored 0 or less to begin with.
    """
    count = len(concepts)
    values = np.full((count, count), np.nan)
    for place, score in cells.items():
        values[place] = score
    own, final = values.diagonal(), values[-1]
    drops = own - final
    kept = final / own if (own > 0).all() else np.full(count, np.nan)
    earlier = slice(-1) if count > 1 else slice(None)
    figures = {
        "average_final": final.mean(),
        "average_own": own.mean(),
        "mean_drop": drops[earlier].mean(),
        "worst_drop": drops.max(),
        "retention": kept[earlier].mean(),
        "lowest_retention": kept[earlier].min(),
    }
    return {
        "concepts": list(concepts),
        "values": [[_known(value) for value in row] for row in values],
        **{name: _known(value) for name, value in figures.items()},
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def confusion(
    concepts: Sequence[str], asked: Sequence[int], nearest: Sequence[int], most: int = 3
) -> dict[str, object]:
    """Which concept's photos pictures are nearest to, against the concept that was asked for.

    Args:
        concepts: Names.
        asked: For each picture, the index of the concept it should show.
        nearest: For each picture, the index of the concept whose photos are the nearest.
        most: How many confusions are listed.

    Returns:
        `counts`: pictures, the concept asked for down and the nearest across; `accuracy`: mean over
        the concepts asked for of the share nearest to their own photos, None without any; `worst`:
        the most frequent confusions, as asked for, nearest, share.
    """
    counts = np.zeros((len(concepts), len(concepts)), dtype=np.int64)
    np.add.at(counts, (np.asarray(asked, dtype=np.int64), np.asarray(nearest, dtype=np.int64)), 1)
    totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    own = shares.diagonal()[totals[:, 0] > 0]
    others = shares.copy()
    np.fill_diagonal(others, 0.0)
    order = np.argsort(-others, axis=None, kind="stable")[:most]
    places = [divmod(int(flat), len(concepts)) for flat in order]
    return {
        "concepts": list(concepts),
        "counts": counts.tolist(),
        "accuracy": float(own.mean()) if len(own) else None,
        "worst": [
            (concepts[i], concepts[j], float(others[i, j])) for i, j in places if others[i, j]
        ],
    }


def cosines(first: Tensor, second: Tensor) -> Doubles:
    """(first, second): cosine of every pair of embeddings (n, dim), in float64."""
    a, b = (each.detach().cpu().double().numpy() for each in (first, second))
    return _unit(a) @ _unit(b).T


def pixels(pictures: Sequence[Image.Image], side_px: int = _SIDE_PX) -> Doubles:
    """(pictures, side * side * 3) in 0..1: every picture at one common size."""
    size = (side_px, side_px)
    resized = [p.convert("RGB").resize(size, Image.Resampling.BOX) for p in pictures]
    return np.stack([np.asarray(p, dtype=np.float64).reshape(-1) / 255 for p in resized])


def correlations(first: Doubles, second: Doubles) -> Doubles:
    """(first, second): Pearson correlation of the pixels of every pair; 0 for flat pictures."""
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (first, second))
    return _unit(a) @ _unit(b).T


def _unit(rows: Doubles) -> Doubles:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > _NOTHING)
