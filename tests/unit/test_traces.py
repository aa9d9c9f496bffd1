"""Which encoded prompt went into a text that was joined or averaged."""

import pytest
import torch

from cidm_core.sampling.traces import Traces

SECTION, DIM = 77, 64


def text(seed, sections=1):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.ones(1, sections * SECTION, DIM) * 3  # as encoded texts have it
    return shared + torch.randn(shared.shape, generator=generator)


@pytest.fixture
def traces():
    made = Traces()
    made.remember("<a>", text(1), [4, 5], SECTION)
    made.remember("<b>", text(2, 2), [80], SECTION)  # in its second section
    return made


@pytest.mark.parametrize(
    ("mixed", "plain", "name"),
    [
        (torch.cat([text(3), text(1)], 1), text(3), "<a>"),
        (torch.cat([text(3), text(4), text(2, 2)], 1), None, "<b>"),
        (torch.lerp(text(3), text(1), 0.1), text(3), "<a>"),
        (torch.lerp(text(3, 2), text(2, 2), 0.6), text(3, 2), "<b>"),
        (text(1), text(3), "<a>"),
        (torch.lerp(text(3), text(4), 0.5), text(3), None),
        (torch.cat([text(3), text(4)], 1), text(3), None),
        (torch.cat([text(3), text(2, 2)[:, :SECTION]], 1), text(3), None),
        (1.5 * text(3), text(3), None),
        (text(3), text(3), None),
        (text(3)[..., :9], None, None),
        (text(3)[:, :5], None, None),
    ],
)
def test_what_is_in_a_mixed_text(traces, mixed, plain, name):
    assert traces.found_in(mixed, plain, SECTION) == name
