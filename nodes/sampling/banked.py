"""A MODEL with a bank: what samplers call, and what its users are told.

Two wrappers do it. At the start of sampling every conditioning gets the number of a row; in every
call of the model these numbers arrive with the batch, in whatever order and grouping ComfyUI has
chosen. The model is called around a compiled UNet, which would otherwise compile this too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache, partial
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cidm_core.config import SampleConfig
from ...cidm_core.regions import masks_at
from ...cidm_core.sampling.infuse import Requests
from ...cidm_core.sampling.strengths import unheard
from ..host import comfy as host
from ..host.model import ModelFacts
from .attend import Session
from .beside import again, options_again
from .conditions import rows_of
from .prompts import RowCond

KEY = "cidm"
_FACTS = "cidm_facts"


def attach_hooks(
    model: Any,
    facts: ModelFacts,
    config: SampleConfig,
    requests: Requests | None = None,
    strengths: Collection[str] = (),
) -> Any:
    """A copy of a MODEL that reads what concept prompts carry. Again attached: replaced.

    Args:
        model: MODEL.
        facts: What it is.
        config: How the bank is applied.
        requests: The phrases that `config.infuse` asks for; one that no prompt holds is told of.
        strengths: Concepts with a strength of their own; one that takes no part is told of.
    """
    taught = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL):
        taught.remove_wrappers_with_key(kind, KEY)

    def outer(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        if config.strength and not config.allow_other_base and _is_merged(guider.model_patcher):
            host.warn(
                "The MODEL mixes the weights of several models. Concepts were learned on one of "
                "them and may be less alike here. Switch on allow_other_base in Apply Concept Bank "
                "if you know."
            )
        rows = rows_of(guider.conds, facts, config)
        if requests is not None and (told := requests.unsaid(rows.said, "any prompt")):
            host.warn(told)
        for told in filter(None, (*rows.streams.unheard, unheard(strengths, rows.concepts))):
            host.warn(told)
        session = Session(facts, rows, config, _masks(guider, noise))
        guider.model_options["transformer_options"][KEY] = session
        return executor(noise, *args, **kwargs)

    taught.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer)
    taught.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _model_call)
    taught.set_attachments(KEY, config)
    taught.set_attachments(_FACTS, facts)
    taught.__class__ = _banked(type(taught))
    return taught


def applied_config(model: Any) -> SampleConfig | None:
    """The settings of the bank that was applied to a MODEL; None if there is none."""
    applied = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return model.get_attachment(KEY) if applied else None


def applied_facts(model: Any) -> ModelFacts:
    """What Apply Concept Bank read off a MODEL and its CLIP."""
    return model.get_attachment(_FACTS)


class _Banked:
    """Mixed into the class of a MODEL."""

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> Any:
        config = applied_config(self)
        if config is not None and config.strength:
            host.warn(
                "The model is saved without the concepts of its bank, whose weights depend on the "
                "prompt. Put Bake Concepts before this node to save those of one prompt."
            )
        return super().state_dict_for_saving(*args, **kwargs)  # type: ignore[misc]


@cache
def _banked(kind: type[Any]) -> type[Any]:
    return kind if issubclass(kind, _Banked) else type(kind.__name__, (_Banked, kind), {})


def _is_merged(model: Any) -> bool:
    """Whether a merge of models is among a MODEL's patches: it has whole weights, as a list."""
    return any(isinstance(patch[1], list) for held in model.patches.values() for patch in held)


def _masks(guider: Any, noise: Tensor) -> Tensor:
    """Where the guider's regions are, (regions, height, width) at latent size."""
    regional = getattr(guider, "regional", None)
    height, width = noise.shape[-2:]
    if regional is None:
        return noise.new_zeros(0, height, width)
    latents = guider.model_patcher.model.latent_format
    cell_px = int(getattr(latents, "spacial_downscale_ratio", 8))
    areas = [entry.region for entry in regional.regions]
    return masks_at(areas, height, width, regional.config.feather, cell_px)


def _model_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: Any = None,
    transformer_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    options = dict(transformer_options or {})
    ids, session = kwargs.pop(RowCond.KEY, None), options.pop(KEY, None)
    if session is None or ids is None:
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    model = executor.class_obj
    unet = getattr(model.diffusion_model, "_orig_mod", model.diffusion_model)
    computes_in = x.new_empty(0, dtype=model.manual_cast_dtype or model.get_dtype())
    call = session.call(unet, ids, computes_in, partial(_timestep, model, t))
    with call.installed():
        options["patches"] = call.patches(options.get("patches", {}))
        given = [x, t, c_concat, c_crossattn, control]
        if not call.sources:
            return executor(*given, options, **kwargs)
        given, kwargs = again([given, kwargs], call.sources, len(x))
        return executor(*given, options_again(options, call.sources, len(x)), **kwargs)[: len(x)]


def _timestep(model: Any, sigmas: Tensor) -> float:
    """The place of a noise level among those the model has learned, above 0 and up to 1."""
    sampling = model.model_sampling
    return float(sampling.timestep(sigmas[:1]) + 1) / sampling.num_timesteps
