"""The settings of each method as a node; a new method is a class of three lines here."""

from __future__ import annotations

from typing import Any, ClassVar

from comfy_api.latest import io

from ..host.sockets import MethodChoice, MethodSocket, schema
from .inputs import ON_THE_NODE, MethodInputs


class MethodNode(io.ComfyNode):
    """What a settings node is: inputs rendered from the method's Config, a METHOD out."""

    method: ClassVar[str] = ""
    label: ClassVar[str] = ""
    about: ClassVar[str] = ""

    @classmethod
    def define_schema(cls) -> io.Schema:
        name = "".join(part.capitalize() for part in cls.method.split("_"))
        return schema(
            node_id=f"CIDM_Method{name}",
            display_name=f"Method: {cls.label}",
            description=f"{cls.about} Connect it to Train Concept; an untouched setting leaves "
            "preset, model and recipe as they are.",
            search_aliases=["training settings", "learning rate", "rank", "method", "recipe"],
            inputs=MethodInputs(cls.method).inputs(leave_out=ON_THE_NODE),
            outputs=[MethodSocket.Output("method", tooltip="For Train Concept.")],
        )

    @classmethod
    def execute(cls, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(MethodChoice(cls.method, MethodInputs(cls.method).asked(settings)))


class MethodCustomDiffusion(MethodNode):
    """Custom Diffusion."""

    method, label = "custom_diffusion", "Custom Diffusion"
    about = (
        "How Custom Diffusion learns: whole keys and values of cross-attention and a row for each "
        "word, of one subject or several, beside prior pictures of the class."
    )


class MethodInfusion(MethodNode):
    """Infusion."""

    method, label = "infusion", "Infusion"
    about = (
        "How Infusion learns a look: one vector for each cross-attention layer, at the class words "
        "alone, from photos with masks."
    )


class MethodCidm(MethodNode):
    """CIDM, the default."""

    method, label = "cidm", "CIDM"
    about = "How CIDM learns a concept: tokens for every layer, low-rank weights, R1 and R2."


class MethodClif(MethodNode):
    """CLIF."""

    method, label = "clif", "CLIF"
    about = (
        "How CLIF learns look-alikes together: their words told apart by contrast first, then "
        "textual inversion, then LoRA on all attention. It needs masks and Word Contrast."
    )
