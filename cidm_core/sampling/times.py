"""When a prompt acts: a span of the sampling steps, 0 (the first) to 1 (the last)."""

from collections.abc import Iterable

Phase = tuple[float, float]
ALWAYS: Phase = (0.0, 1.0)


def meet(a: Phase, b: Phase) -> Phase | None:
    """The time that two spans share; None if there is none, or only a moment."""
    start, end = max(a[0], b[0]), min(a[1], b[1])
    return (start, end) if start < end else None


def gaps(spans: Iterable[Phase]) -> list[Phase]:
    """The times in which none of the spans is."""
    found: list[Phase] = []
    covered = 0.0
    for start, end in sorted(spans):
        if start > covered:
            found.append((covered, start))
        covered = max(covered, end)
    return [*found, (covered, 1.0)] if covered < 1.0 else found
