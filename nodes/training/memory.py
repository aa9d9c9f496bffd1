"""What learning will need in memory: asked without learning, and told by the training node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host import comfy as host
from ..host.base import base_without_numbers
from ..host.model import model_facts
from ..host.pictures import shown
from ..host.sockets import MethodChoice, MethodSocket, schema
from .inputs import LABELS, config_of, precision_of

if TYPE_CHECKING:
    from ...cidm_core.diffusers_host.advice import Advisor, Change

_DEFAULT = MethodChoice("cidm", {})
_NAMES = {preset: label for label, preset in LABELS.items()}
_REST = "The host looks after the VAE. How long learning takes is told by its first steps."
_MINI = "MINI"  # what the families of the mini models begin with


class TrainingEstimate(io.ComfyNode):
    """Every preset, what it needs, and whether that fits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_TrainingEstimate",
            display_name="Training Estimate (CIDM)",
            description=(
                "How much memory Train Concept will need with each preset, beside what your card "
                "has. Nothing is learned; it takes some seconds."
            ),
            search_aliases=[
                *("vram", "memory", "out of memory", "oom", "will it fit", "which preset"),
                *("low vram", "estimate training"),
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that Train Concept gets."),
                io.Clip.Input("clip", tooltip="Its CLIP, as Train Concept gets it."),
                MethodSocket.Input(
                    "method",
                    optional=True,
                    tooltip="From a Method node, with resolution, batch and all. Without one: "
                    "CIDM.",
                ),
            ],
            outputs=[io.String.Output("report", tooltip="What the node shows.")],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, method: MethodChoice | None = None) -> io.NodeOutput:
        chosen = method or _DEFAULT
        text = _report(advisor_of(model, clip, chosen.method, chosen.settings, "Balanced"))
        return io.NodeOutput(text, ui=shown(cls, text=text))


def is_small(model: Any) -> bool:
    """Whether it is one of the embedded models, which fit everywhere."""
    return model_facts(model).family.name.startswith(_MINI)


def advisor_of(
    model: Any,
    clip: Any,
    method: str,
    settings: Mapping[str, object],
    preset: str,
    **known: bool,
) -> Advisor:
    """Counts what learning on these sockets needs.

    Args:
        model: MODEL.
        clip: CLIP.
        method: Name of the method.
        settings: Those that the user decided on.
        preset: Label of the preset.
        known: What else decides it: `has_masks`, `has_prior`.

    Raises:
        CidmError: If model or settings cannot be.
    """
    from ...cidm_core.diffusers_host.advice import Advisor
    from ...cidm_core.training.estimate import Room

    base = base_without_numbers(model, clip, precision_of(settings))

    def config(name: str) -> Any:
        return config_of(method, settings, _NAMES[name], base.family)

    return Advisor(
        base,
        method,
        config(LABELS.get(preset, "balanced")),
        Room(*host.memory()),
        host.torch_device(),
        with_preset=config,
        wording=wording,
        **known,
    )


def wording(change: Change) -> str:
    """A change as it is made on the nodes."""
    parts = [f"Preset {_NAMES[change.preset]}"] if change.preset else []
    for name, value in (change.settings or {}).items():
        parts.append(f"{name} {'on' if value is True else value}")
    return " with ".join(parts[:2]) if change.preset else ", ".join(parts)


def _report(advisor: Advisor) -> str:
    """One line a preset, and the change that fits if none does."""
    from ...cidm_core.training.estimate import gb

    room, presets = advisor.room, advisor.presets()
    lines = [f"{gb(room.total)} GB of memory, {gb(room.free)} free for learning"]
    lines += [
        f"{_NAMES[name]}: about {gb(memory.about)} GB, {room.verdict(memory)} ({memory.parts})"
        for name, memory in presets.items()
    ]
    better = advisor.better() if _nothing_fits(advisor) else None
    if better is not None:
        verdict = room.verdict(better.memory)
        lines.append(f"{better.name}: about {gb(better.memory.about)} GB, {verdict}")
    return "\n".join([*lines, _REST])


def _nothing_fits(advisor: Advisor) -> bool:
    found = advisor.presets().values()
    return not any(advisor.room.verdict(memory) == "fits" for memory in found)
