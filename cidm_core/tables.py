"""Aligned columns of text."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A head, then one line per row; columns of numbers stand to the right.

    Floats get three decimals, None becomes a dash.
    """
    texts = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[k]) for row in texts) for k in range(len(head))]
    right = [all(isinstance(row[k], int | float | None) for row in rows) for k in range(len(head))]
    lines = [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
