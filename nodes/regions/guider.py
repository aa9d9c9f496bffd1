"""Regional Noise Guider: a guidance scale of its own for every region (CIDM section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.samplers import CFGGuider, calc_cond_batch, cfg_function
from comfy_api.latest import io
from torch import Tensor

from ...cidm_core.config import SampleConfig
from ...cidm_core.errors import HostError, RegionError
from ...cidm_core.sampling.layout import NEGATIVE, RegionTexts, Scene, guide, layout
from ..host.inputs import inputs_of, settings_from
from ..host.sockets import RegionPrompt, RegionsSocket, schema
from ..sampling.banked import KEY, applied_config
from ..sampling.conditions import check_encoded
from .rows import SceneRows

_SETTINGS = (
    *("alpha", "feather", "region_mode", "region_weights"),
    *("regional_attention", "noise_estimation"),
)


class RegionalNoiseGuider(io.ComfyNode):
    """Puts every region's prompt where it belongs, in U + 2 UNet rows per step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_RegionalNoiseGuider",
            display_name="Regional Noise Guider",
            description=(
                "Draws every region with its own prompt and its own concept weights, and the rest "
                "with the global prompt (CIDM section 4.3). Connect it to SamplerCustomAdvanced. "
                "U regions cost U + 2 UNet rows per step, in one call if memory allows."
            ),
            search_aliases=[
                *("regional prompt", "regional sampling", "CIDM guider", "region noise"),
                *("regional lora", "attention couple"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Apply Concept Bank."),
                io.Conditioning.Input("positive", tooltip="The prompt of the whole picture."),
                io.Conditioning.Input("negative", tooltip="What the picture should not show."),
                RegionsSocket.Input("regions", tooltip="From Concept Region or Concept Regions."),
                io.Float.Input(
                    "cfg",
                    default=float(SampleConfig().guidance_scale),
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale of the picture and of every region.",
                ),
                *inputs_of(SampleConfig, _SETTINGS),
            ],
            outputs=[
                io.Guider.Output(
                    display_name="guider", tooltip="For SamplerCustomAdvanced, with any sampler."
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
        applied = applied_config(model)
        if applied is None:
            raise HostError(
                "The model of the Regional Noise Guider has no concept bank. Put Apply Concept "
                "Bank between the checkpoint loader and this node, and take MODEL and CLIP from it."
            )
        config = settings_from(
            SampleConfig,
            {"guidance_scale": cfg, **settings},
            {"recipe": applied.recipe, "strength": applied.strength},
        )
        if not positive:
            raise RegionError("The positive conditioning is empty. Connect CLIP Text Encode.")
        guider = RegionalGuider(model)
        guider.set_cfg(config.guidance_scale)
        guider.inner_set_conds({"positive": positive, "negative": negative})
        if regions and (config.noise_estimation or config.regional_attention):
            guider.set_regions(positive, negative, tuple(regions), config)
        return io.NodeOutput(guider)


@dataclass(frozen=True, eq=False)
class Regional:
    """What a guider knows of regions: `roles` name the conditioning of every row of the scene."""

    regions: tuple[RegionPrompt, ...]
    config: SampleConfig
    scene: Scene
    roles: tuple[str, ...]


class RegionalGuider(CFGGuider):
    """CFG for the picture and for every region, combined by Eq. 5."""

    regional: Regional | None = None

    def set_regions(
        self, positive: Any, negative: Any, regions: tuple[RegionPrompt, ...], config: SampleConfig
    ) -> None:
        """Lay out the rows, and give each its conditioning."""
        texts = {"positive": positive, "negative": negative}
        pairs: list[RegionTexts[str]] = []
        for u, region in enumerate(regions):
            own = None if region.negative is None else f"region_{u}_negative"
            pairs.append(RegionTexts(f"region_{u}", own))
            texts |= {f"region_{u}": region.positive} | ({own: region.negative} if own else {})
        if config.strength:
            # The sampler will see positive ones through regional attention only.
            said = {r: t for r, t in texts.items() if "negative" not in r}
            check_encoded({r: [{**o, "cross_attn": c} for c, o in t] for r, t in said.items()})
        slots: list[tuple[str, str]] = []

        def slot(text: str, weighed_by: str) -> int:
            slots.append((text, weighed_by))
            return len(slots) - 1

        scene = layout("positive", "negative", pairs, config, slot)
        roles = _roles(scene)
        self.regional = Regional(regions, config, scene, roles)
        rows = SceneRows(texts, slots, scene)
        self.inner_set_conds({role: rows.conditioning(n) for n, role in enumerate(roles)})

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Denoised latents (batch, channels, height, width)."""
        model_options = model_options or {}
        regional = self.regional
        if regional is None or not regional.scene.negatives:
            return super().predict_noise(x, timestep, model_options, seed)
        estimates = self._estimates(x, timestep, model_options)
        # As printed, the shares of Eq. 5 do not sum to 1: it holds for noise estimates only.
        as_noise = regional.config.region_mode == "literal"

        def guided(row: int, negative: int) -> Tensor:
            names = regional.roles[row], regional.roles[negative]
            found = self._guided(*names, estimates, x, timestep, model_options)
            return x - found if as_noise else found

        masks = model_options["transformer_options"][KEY].masks
        found = guide(regional.scene, guided, masks, regional.config)
        return x - found if as_noise else found

    def _estimates(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> dict[str, Tensor]:
        names = list(self.conds)
        if math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization"):
            names = [name for name in names if not name.endswith("negative")]
        conds = [self.conds[name] for name in names]
        if function := model_options.get("sampler_calc_cond_batch_function"):
            found = function({"conds": conds, **self._told(x, timestep, model_options)})
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
            told = self._told(x, timestep, model_options)
            told |= {"conds": conds, "conds_out": pair}
            pair = function({**told, "cond_scale": self.cfg, "timestep": timestep})
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

    def _told(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]) -> dict[str, Any]:
        """What every hook of other packs is told."""
        told = {"input": x, "sigma": timestep, "model": self.inner_model}
        return {**told, "model_options": model_options}


def _roles(scene: Scene) -> tuple[str, ...]:
    """What the host calls the conditioning of each row."""
    regions = [f"region_{u}" for u in range(len(scene.negatives))]
    own = [f"region_{u}_negative" for u, row in enumerate(scene.negatives) if row != NEGATIVE]
    return ("negative", "positive", *regions, *own)
