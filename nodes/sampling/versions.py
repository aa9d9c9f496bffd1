"""The versions of a prompt inside the host's text encoders, one per cross-attention layer.

The host encodes chunks of tokens and joins them; a prompt in L versions is L times its chunks. Here
equal versions are encoded once, and pooled text is that of all versions, not of the first.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ...cidm_core.text import pooled_text
from ..host.encoders import HostEncoder
from .tokens import Expanded


@contextmanager
def encoding_versions(
    clip: Any, encoders: Iterable[HostEncoder], tokens: Expanded
) -> Generator[None]:
    """While a CLIP encodes these tokens: each distinct version is run once by each encoder."""
    with ExitStack() as stack:
        for each in encoders if tokens.copies > 1 else ():
            kept, places = tokens.versions[each.key]
            chunks = len(tokens[each.key]) // tokens.copies
            if len(places) == 1:  # the same in all layers, beside another encoder's that differ
                places = places * tokens.copies
            hooks = _Hooks(kept, places, chunks, pooled=each.row.pooled)
            module = each.module(clip)
            stack.callback(module.register_forward_pre_hook(hooks.before).remove)
            stack.callback(module.register_forward_hook(hooks.after).remove)
        yield


class _Hooks:
    """Around the forward pass of one encoder.

    Args:
        kept: The versions that differ.
        places: For each version the place of its like among them.
        chunks: Of the prompt.
        pooled: Whether the encoder's pooled text is read.
    """

    def __init__(
        self, kept: Sequence[int], places: Sequence[int], chunks: int, *, pooled: bool
    ) -> None:
        self._kept = [version * chunks + i for version in kept for i in range(chunks)]
        self._places = [place * chunks + i for place in places for i in range(chunks)]
        self._chunks, self._pooled = chunks, pooled

    def before(self, _module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Leave out the chunks that are there already; after them may come an empty one."""
        (sections,) = given
        empty = sections[len(self._places) :]
        return ([*(sections[i] for i in self._kept), *empty],)

    def after(self, _module: Any, _given: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put them where the host looks for them."""
        states, pooled, *more = output
        rows = [*self._places, *range(len(self._kept), len(states))]
        return (states[rows], self._of_all(pooled[rows]), *more)

    def _of_all(self, pooled: Tensor) -> Tensor:
        """Pooled text of every section; the host takes the first."""
        if not self._pooled:
            return pooled
        return pooled_text(pooled[: len(self._places) : self._chunks]).expand_as(pooled)
