"""When prompts act: what spans share, and what they leave free."""

import pytest

from cidm_core.sampling.times import ALWAYS, gaps, meet


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (ALWAYS, (0.2, 0.6), (0.2, 0.6)),
        ((0.0, 0.5), (0.3, 1.0), (0.3, 0.5)),
        ((0.0, 0.5), (0.5, 1.0), None),
        ((0.7, 1.0), (0.0, 0.2), None),
    ],
)
def test_what_two_spans_share(a, b, both):
    assert meet(a, b) == meet(b, a) == both


@pytest.mark.parametrize(
    ("spans", "free"),
    [
        ([], [ALWAYS]),
        ([ALWAYS], []),
        ([(0.5, 1.0), (0.0, 0.5)], []),
        ([(0.1, 0.3), (0.2, 0.4), (0.6, 0.9)], [(0.0, 0.1), (0.4, 0.6), (0.9, 1.0)]),
        ([(0.0, 0.8), (0.1, 0.2)], [(0.8, 1.0)]),
    ],
)
def test_what_spans_leave_free(spans, free):
    assert gaps(spans) == free
