"""What the training node shows while it works: bar, text, samples and the loss curve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..host import comfy as host

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...cidm_core.training.composites.folder import Composite
    from ...cidm_core.training.progress import Progress

_TEXT_SECONDS = 0.25  # between two texts
_UNITS = {
    "drawing": "Prior picture",
    "composing": "Composite",
    "preparing": "Photo",
    "learning": "Step",
}
_CURVE_SECONDS = 5.0  # between two loss curves, as long as there is no sample


class Reporter:
    """Callbacks of `train_concept` for one node.

    Args:
        node_id: Of the node; None shows nothing.
        title: Of the loss curve.
    """

    def __init__(self, node_id: object, title: str) -> None:
        self._node_id, self._title = node_id, title
        self._rows: list[dict[str, Any]] = []
        self._texted = self._drawn = float("-inf")
        self._sample: Image | None = None
        self._below = ""
        self.last: Progress | None = None

    def show(self, picture: Image) -> None:
        """Show a picture before anything is done."""
        host.show_progress(0, 1, picture, self._node_id)

    def keep(self, text: str) -> None:
        """Show a text, from now on below all others."""
        self._below = text
        self.say("")

    def show_composites(self, made: Sequence[Composite]) -> None:
        """Show some composites before anything is learned from them."""
        from ...cidm_core.training.composites.preview import preview

        self.show(preview(made))

    def on_progress(self, event: Progress) -> None:
        """Show a step, or a photo, composite or prior picture that is ready."""
        from ...cidm_core.training.progress import details

        self.last = event
        if event.outlook:
            self._below, self._texted = event.outlook, float("-inf")
        now = time.monotonic()
        if event.phase == "learning":
            row = {"step": event.step, "loss": event.loss, **event.terms}
            self._rows.append(row)
        host.show_progress(event.step, event.steps, self._curve(now), self._node_id)
        if now - self._texted >= _TEXT_SECONDS or event.step == event.steps:
            self._texted = now
            stage = f" ({event.stage})" if event.stage_steps not in (0, event.steps) else ""
            far = f"{_UNITS[event.phase]} {event.step} of {event.steps}{stage}"
            self.say(f"{far}  {details(event)}".rstrip())

    def on_preview(self, step: int, pictures: Sequence[Image]) -> None:
        """Show a sample, which then stays until the next one."""
        steps = self.last.steps if self.last else step
        if pictures:
            self._sample = pictures[0]
            host.show_progress(step, steps, pictures[0], self._node_id)

    def leave(self, curve: Image) -> None:
        """The last picture of a run: the curve, below the last sample.

        The classic canvas goes on showing what came last here, instead of the node's output.
        """
        from ...cidm_core.pictures.sheets import stack

        if self.last is not None:  # something was learned just now
            picture = stack([self._sample, curve]) if self._sample else curve
            host.show_progress(self.last.steps, self.last.steps, picture, self._node_id)

    def say(self, text: str) -> None:
        """Show text on the node."""
        host.say_on_node(f"{text}\n{self._below}".strip(), self._node_id)

    def say_stopped(self) -> None:
        """Tell how to go on."""
        learned = self.last is not None and self.last.phase == "learning"
        where = f" at step {self.last.step} of {self.last.steps}" if learned and self.last else ""
        kept = "The state is kept: q" if learned else "Nothing was learned yet. Q"
        self._below = ""
        self.say(f"Stopped{where}. {kept}ueue the same graph again to go on.")

    def _curve(self, now: float) -> Image | None:
        """The loss so far, now and then."""
        if self._sample or len(self._rows) < 2 or now - self._drawn < _CURVE_SECONDS:
            return None
        from ...cidm_core.pictures.losses import loss_picture

        self._drawn = now
        return loss_picture(self._rows, self._title)
