"""Parts of a cut-out that nobody named: connected areas of like colour.

A stand-in for the paper's segments of hair, face, dress and shoes (Lin et al. 2024, method figure),
which a segmentation model finds and a language model names. Nothing here knows what it cuts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

_MOST = 4
_LEAST_SHARE = 0.08
_GRID_PX = 48
_ROUNDS = 20
_NONE = -1

_EVERY, _HEAD, _TAIL = slice(None), slice(None, -1), slice(1, None)
# Cells and those below them, cells and those to their right.
_NEIGHBOURS = ((_HEAD, _EVERY), (_TAIL, _EVERY)), ((_EVERY, _HEAD), (_EVERY, _TAIL))
_Labels = NDArray[np.intp]  # (height, width); `_NONE` outside


def split(whole: Image.Image) -> list[Image.Image]:
    """Two to four connected parts of an RGBA picture, each at least 8 % of its area, or none.

    k-means of colour and place on a grid of at most 48 cells a side, from a beginning that cuts the
    longer axis in equal areas; pieces that lie apart are parts of their own, and small ones go to
    the neighbour with the longest border. The same picture gives the same parts.

    Returns:
        RGBA pictures, cropped; together they are the whole, but for small pieces of it that touch
        nothing.
    """
    scale = min(1.0, _GRID_PX / max(whole.size))
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    cells = np.asarray(whole.resize(size, Image.Resampling.BOX), dtype=np.float64) / 255
    inside = cells[..., 3] > 0.5
    if inside.sum() < 2 * _MOST:
        return []
    labels = _merged(_connected(_clusters(cells, inside)), _LEAST_SHARE * inside.sum())
    found = [each for each in np.unique(labels) if each != _NONE]
    if len(found) < 2:
        return []
    labels = _grown(_grown(labels))
    return [_piece(whole, labels == each) for each in found]


def _clusters(cells: NDArray[np.float64], inside: NDArray[np.bool_]) -> _Labels:
    """k-means of the cells inside, by colour and place."""
    places = np.argwhere(inside)
    points = np.concatenate([cells[inside][:, :3], places / max(inside.shape)], axis=1)
    order = np.argsort(places[:, int(inside.shape[1] > inside.shape[0])], kind="stable")
    of = np.empty(len(points), dtype=np.intp)
    of[order] = np.arange(len(points)) * _MOST // len(points)
    for _ in range(_ROUNDS):
        centres = np.stack([points[of == k].mean(0) for k in np.unique(of)])
        nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        if (nearest == of).all():
            break
        of = nearest
    labels = np.full(inside.shape, _NONE, dtype=np.intp)
    labels[inside] = of
    return labels


def _connected(labels: _Labels) -> _Labels:
    """Each piece of a label that hangs together as a label of its own."""
    own = np.where(labels == _NONE, _NONE, np.arange(labels.size).reshape(labels.shape))
    while True:
        before = own.copy()
        for here, there in _NEIGHBOURS:
            same = (labels[here] == labels[there]) & (labels[here] != _NONE)
            least = np.minimum(own[here], own[there])
            own[here] = np.where(same, least, own[here])
            own[there] = np.where(same, least, own[there])
        if (own == before).all():
            return own


def _merged(labels: _Labels, least: float) -> _Labels:
    """No piece smaller than `least` cells, and at most four."""
    labels = labels.copy()
    while True:
        pieces, areas = np.unique(labels[labels != _NONE], return_counts=True)
        if not len(pieces) or (areas.min() >= least and len(pieces) <= _MOST):
            return labels
        smallest = pieces[areas.argmin()]
        labels[labels == smallest] = _next_to(labels, smallest)


def _next_to(labels: _Labels, piece: int) -> int:
    """The piece with the longest border to one; `_NONE` if it touches none."""
    touching: list[NDArray[np.intp]] = []
    for here, there in _NEIGHBOURS:
        touching.append(labels[there][labels[here] == piece])
        touching.append(labels[here][labels[there] == piece])
    others = np.concatenate(touching)
    others, borders = np.unique(others[(others != piece) & (others != _NONE)], return_counts=True)
    return int(others[borders.argmax()]) if len(others) else _NONE


def _grown(labels: _Labels) -> _Labels:
    """One cell further outwards, so that the soft edge of the whole belongs to its parts."""
    grown = labels.copy()
    for here, there in _NEIGHBOURS:
        for to, of in ((here, there), (there, here)):
            grown[to] = np.where(grown[to] == _NONE, labels[of], grown[to])
    return grown


def _piece(whole: Image.Image, cells: NDArray[np.bool_]) -> Image.Image:
    """What lies in an area of cells, whose steps are smoothed."""
    area = Image.fromarray(cells.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
    share = np.asarray(area.resize(whole.size, Image.Resampling.BICUBIC)) / 255
    alpha = np.asarray(whole.getchannel("A")) * (2 * share - 0.5).clip(0, 1)
    piece = whole.copy()
    piece.putalpha(Image.fromarray(np.rint(alpha).astype(np.uint8)))
    return piece.crop(piece.getchannel("A").getbbox())
