"""Regional Noise Guider: a guidance scale of its own for every region (CIDM section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.config import SampleConfig
from ...cidm_core.errors import HostError, RegionError
from ...cidm_core.ops import guidance
from ...cidm_core.regions import masks_at
from ..host.comfy import CFGGuider, calc_cond_batch, cfg_function
from ..host.inputs import inputs_of
from ..host.sockets import CATEGORY, RegionPrompt, RegionsSocket
from ..sampling.attend import is_attached, latent_px
from ..sampling.conditions import INSERTS, WEIGHED_BY, RegionInsert

_SETTINGS = (
    "alpha",
    "feather",
    "region_mode",
    "region_weights",
    "regional_attention",
    "noise_estimation",
)


class RegionalNoiseGuider(io.ComfyNode):
    """Puts every region's prompt where it belongs, in U + 2 UNet rows per step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CIDM_RegionalNoiseGuider",
            display_name="Regional Noise Guider",
            category=CATEGORY,
            description=(
                "Draws every region with its own prompt and its own concept weights, and the rest "
                "with the global prompt (CIDM section 4.3). Connect it to SamplerCustomAdvanced. "
                "U regions cost U + 2 UNet rows per step, in one call if memory allows."
            ),
            search_aliases=["regional prompt", "regional sampling", "CIDM guider", "region noise"],
            inputs=[
                io.Model.Input("model", tooltip="MODEL output of Apply Concept Bank."),
                io.Conditioning.Input("positive", tooltip="The prompt of the whole picture."),
                io.Conditioning.Input("negative", tooltip="What the picture should not show."),
                RegionsSocket.Input("regions", tooltip="From Concept Region or Concept Regions."),
                io.Float.Input(
                    "cfg",
                    default=float(SampleConfig().guidance_scale),
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale, for the picture and for every region.",
                ),
                *inputs_of(SampleConfig, _SETTINGS),
            ],
            outputs=[
                io.Guider.Output(
                    display_name="guider", tooltip="For SamplerCustomAdvanced; any sampler."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        regions: Sequence[RegionPrompt],
        cfg: float,
        **settings: Any,
    ) -> io.NodeOutput:
        if not is_attached(model):
            raise HostError(
                "The model of the Regional Noise Guider has no concept bank. Put Apply Concept "
                "Bank between the checkpoint loader and this node, and take MODEL and CLIP from it."
            )
        config = SampleConfig(guidance_scale=cfg, **settings)
        return io.NodeOutput(_guider(model, positive, negative, tuple(regions), config))


def _guider(
    model: Any,
    positive: Any,
    negative: Any,
    regions: tuple[RegionPrompt, ...],
    config: SampleConfig,
) -> RegionalGuider:
    if not positive:
        raise RegionError("The positive conditioning is empty. Connect a CLIP Text Encode node.")
    guider = RegionalGuider(model)
    guider.set_cfg(config.guidance_scale)
    conds = {"positive": positive, "negative": negative}
    inserts = [_insert(i, region, config) for i, region in enumerate(regions)]
    if config.regional_attention and not config.noise_estimation:
        conds["positive"] = [[c, {**options, INSERTS: inserts}] for c, options in positive]
    guider.inner_set_conds(conds)
    if config.noise_estimation and regions:
        guider.set_regions(positive, regions, inserts, config)
    return guider


def _insert(number: int, region: RegionPrompt, config: SampleConfig) -> RegionInsert:
    if len(region.positive) != 1 and config.regional_attention:
        raise RegionError(
            f"Region {number + 1} has {len(region.positive)} conditionings; regional attention "
            "takes one. Put its texts into one CLIP Text Encode node, or switch regional_attention "
            "off."
        )
    return RegionInsert(
        region.region, region.positive[0], config.feather, config.region_weights == "per_region"
    )


class RegionalGuider(CFGGuider):
    """CFG for the picture and for every region, combined by Eq. 5."""

    def set_regions(
        self,
        positive: Any,
        regions: tuple[RegionPrompt, ...],
        inserts: Sequence[RegionInsert],
        config: SampleConfig,
    ) -> None:
        """Add one conditioning per region, and one per negative of its own."""
        self.regions, self.config = regions, config
        self._masks: Tensor | None = None
        tensor, options = _whole(positive)
        conds: dict[str, Any] = {}
        for u, (region, insert) in enumerate(zip(regions, inserts, strict=True)):
            source = region.positive[0] if insert.weighed_by_region else None
            if config.regional_attention:
                # Outside its box, a region's row keeps the global prompt.
                conds[f"region_{u}"] = [[tensor, {**options, INSERTS: [insert]}]]
            else:
                conds[f"region_{u}"] = _joined(region.positive, options, source)
            if region.negative is not None:
                conds[f"region_{u}_negative"] = _joined(region.negative, options, source)
        self.inner_set_conds(conds)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Denoised latents (batch, channels, height, width)."""
        model_options = model_options or {}
        if not hasattr(self, "regions"):
            return super().predict_noise(x, timestep, model_options, seed)
        estimates = self._estimates(x, timestep, model_options)

        def guided(name: str) -> Tensor:
            own = f"{name}_negative"
            return self._guided(
                name, own if own in estimates else "negative", estimates, x, timestep, model_options
            )

        whole = guided("positive")
        parts = torch.stack([guided(f"region_{u}") for u in range(len(self.regions))])
        masks = self._masks_for(x)
        mode, alpha = self.config.region_mode, self.config.alpha
        if mode == "partition":
            return guidance.combine(whole, parts, masks, alpha, mode)
        # As printed, the shares of Eq. 5 do not sum to 1: it holds for noise estimates only.
        return x - guidance.combine(x - whole, x - parts, masks, alpha, mode)

    def _estimates(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> dict[str, Tensor]:
        names = list(self.conds)
        if math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization"):
            names = [name for name in names if not name.endswith("negative")]
        conds = [self.conds[name] for name in names]
        if function := model_options.get("sampler_calc_cond_batch_function"):
            found = function(
                {
                    "conds": conds,
                    "input": x,
                    "sigma": timestep,
                    "model": self.inner_model,
                    "model_options": model_options,
                }
            )
        else:
            found = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return dict(zip(names, found, strict=True))

    def _guided(
        self,
        name: str,
        negative: str,
        estimates: dict[str, Tensor],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Tensor:
        """Classifier-free guidance of one prompt, through the hooks of other packs."""
        pair = [estimates[name], estimates.get(negative, torch.zeros_like(x))]
        conds = [self.conds[name], self.conds[negative] if negative in estimates else None]
        for function in model_options.get("sampler_pre_cfg_function", []):
            pair = function(
                {
                    "conds": conds,
                    "conds_out": pair,
                    "cond_scale": self.cfg,
                    "timestep": timestep,
                    "input": x,
                    "sigma": timestep,
                    "model": self.inner_model,
                    "model_options": model_options,
                }
            )
        return cfg_function(
            self.inner_model,
            pair[0],
            pair[1],
            self.cfg,
            x,
            timestep,
            model_options=model_options,
            cond=conds[0],
            uncond=conds[1],
        )

    def _masks_for(self, x: Tensor) -> Tensor:
        if self._masks is None or self._masks.shape[-2:] != x.shape[-2:]:
            regions = [entry.region for entry in self.regions]
            cell = latent_px(self.model_patcher)
            self._masks = masks_at(regions, *x.shape[-2:], self.config.feather, cell).to(x)
        return self._masks


def _whole(positive: Any) -> tuple[Tensor, dict[str, Any]]:
    """The first conditioning that is for the whole picture; else the first, freed of its area."""
    places = ("area", "mask", "mask_strength", "set_area_to_bounds", "strength")
    for tensor, options in positive:
        if "area" not in options and "mask" not in options:
            return tensor, options
    tensor, options = positive[0]
    return tensor, {key: value for key, value in options.items() if key not in places}


def _joined(conditioning: Any, whole: dict[str, Any], weighed_by: Any) -> list[list[Any]]:
    """A region's conditionings with the picture's ControlNet, which lets rows share a call."""
    control = {k: whole[k] for k in ("control", "control_apply_to_uncond") if k in whole}
    return [[c, {**control, **options, WEIGHED_BY: weighed_by}] for c, options in conditioning]
