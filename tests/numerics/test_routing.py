"""Routing by token against a reference written from the formula, plain loops."""

import torch
from torch.testing import assert_close

from cidm_core.ops import aggregation, routing
from cidm_core.updates import LowRank

DOUBLE = torch.float64
OWNERS = torch.tensor([routing.PROMPT, routing.BARE, 0, 0, routing.BARE, 1, routing.PROMPT])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def concept(rank, seed, wide=6, out=5):
    return LowRank(down=draw(rank, wide, seed=seed), up=draw(out, rank, seed=seed + 50), alpha=3)


def reference_keys(base, factors, weights, owners, tokens):
    """K_j = (W + sum_k 1[j in tokens_k] delta_k) e_j; under PROMPT psi_k instead of 1."""
    keys = torch.zeros(len(tokens), len(base), dtype=DOUBLE)
    for j, e in enumerate(tokens):
        matrix = base.clone()
        for k, pair in enumerate(factors):
            delta = pair.alpha / pair.down.shape[0] * pair.up @ pair.down
            if owners[j] == routing.PROMPT:
                matrix += weights[k] * delta
            elif owners[j] == k:
                matrix += delta
        keys[j] = matrix @ e
    return keys


def test_routing_of_keys_equals_the_formula():
    factors = [concept(2, 1), concept(3, 2), concept(1, 3)]
    base, tokens, weights = draw(5, 6), draw(len(OWNERS), 6, seed=9), draw(3, seed=4).abs()
    down, up, columns = aggregation.concatenate(factors)
    each = routing.token_weights(weights, OWNERS)[:, columns]
    branch = aggregation.low_rank_branch(tokens[None], down, up, each[None])
    found = tokens @ base.T + branch[0]
    assert_close(found, reference_keys(base, factors, weights, OWNERS.tolist(), tokens))


def test_routing_weights_by_hand():
    found = routing.token_weights(torch.tensor([0.75, 0.5]), OWNERS)
    assert found.tolist() == [[0.75, 0.5], [0, 0], [1, 0], [1, 0], [0, 0], [0, 1], [0.75, 0.5]]


def test_routing_weights_of_all_layers_at_once():
    weights = draw(4, 2)
    found = routing.token_weights(weights, OWNERS)
    assert found.shape == (4, len(OWNERS), 2)
    for layer, row in zip(weights, found, strict=True):
        assert torch.equal(routing.token_weights(layer, OWNERS), row)


def test_routing_without_concepts_is_empty():
    owners = torch.tensor([routing.PROMPT, routing.BARE])
    assert routing.token_weights(torch.zeros(3, 0), owners).shape == (3, 2, 0)


def test_routing_one_weight_for_all_tokens_is_the_row_branch():
    down, up, columns = aggregation.concatenate([concept(2, 1), concept(3, 2)])
    x, weights = draw(2, 4, 6), draw(2, 2, seed=1)[:, columns]
    row = aggregation.low_rank_branch(x, down, up, weights)
    each = weights[:, None].expand(-1, 4, -1)
    assert torch.equal(aggregation.low_rank_branch(x, down, up, each), row)
