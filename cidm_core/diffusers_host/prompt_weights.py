"""Weights in prompts, as ComfyUI's text encode nodes read them: `(word:1.2)`, `(word)`, nested.

A weighted token's hidden state moves away from (above 1) or towards (below 1) that of the empty
prompt at the same place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

STEP = 1.1  # of a pair of brackets without a number
_ESCAPED = {r"\(": "\ue000", r"\)": "\ue001"}  # characters of the private use area
# What other programs read and nobody here does.
_FOREIGN = {
    "[...]": re.compile(r"\[[^\]]*\]"),
    "BREAK": re.compile(r"\bBREAK\b"),
    "embedding:...": re.compile(r"\bembedding:\S+", re.IGNORECASE),
    "<lora:...>": re.compile(r"<(?:lora|lyco|hypernet)\s*:[^<>]*>", re.IGNORECASE),
    "{...|...}": re.compile(r"\{[^{}]*\|[^{}]*\}"),
    "AND": re.compile(r"\bAND\b"),
}


def stretches_of(text: str) -> list[tuple[str, float]]:
    r"""Cut a prompt into stretches of one weight; escaped brackets `\(` are plain ones."""
    for written, kept in _ESCAPED.items():
        text = text.replace(written, kept)
    found: list[tuple[str, float]] = []
    for part, weight in _stretches(text, 1.0):
        for written, kept in _ESCAPED.items():
            part = part.replace(kept, written[1])
        found.append((part, weight))
    return found


def _stretches(text: str, weight: float) -> Iterator[tuple[str, float]]:
    for part in _top_level(text):
        if not (len(part) > 1 and part.startswith("(") and part.endswith(")")):
            yield part, weight
            continue
        inner, colon, number = part[1:-1].rpartition(":")
        given = _number(number) if inner else None
        if colon and given is not None:
            yield from _stretches(inner, given)  # a number does not multiply, it says the weight
        else:
            yield from _stretches(part[1:-1], weight * STEP)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _top_level(text: str) -> Iterator[str]:
    """Bracketed parts of the outermost level, and what is between them."""
    depth, start = 0, 0
    for place, sign in enumerate(text):
        if sign == "(":
            if depth == 0 and place > start:
                yield text[start:place]
                start = place
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0:
                yield text[start : place + 1]
                start = place + 1
    if start < len(text):
        yield text[start:]


def apply_weights(states: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
    """Hidden states of weighted tokens.

    Args:
        states: (..., tokens, dim).
        weights: (tokens).
        empty: States of the empty prompt, (tokens, dim).
    """
    moved = (states - empty) * weights[:, None] + empty
    return torch.where((weights == 1.0)[:, None], states, moved)


def foreign_syntax(text: str) -> list[str]:
    """Names of what other programs would act on and this one takes as plain words."""
    return [name for name, pattern in _FOREIGN.items() if pattern.search(text)]
