"""Noise schedules, as diffusers' schedulers take them, and what the model predicts in them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import HostError
from .weights import Weights, open_weights

SCHEDULE: Mapping[str, Any] = {  # Stable Diffusion 1.x; single files do not carry it
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

PREDICTIONS = ("epsilon", "v_prediction")
_SHORT = {"eps": "epsilon", "v": "v_prediction"}
_PARAMETERIZATION = re.compile(r"^\s*parameterization\s*:\s*[\"']?([\w-]+)", re.MULTILINE)
_SILENCE = 1e-6
_NO_SIGNAL = 4.8973451890853435e-08  # what ComfyUI leaves of it, so that no sigma is infinite
_SAME_SCHEDULE = 1e-3  # relative; stored noise levels are rounded to float32


@dataclass(frozen=True)
class Told:
    """What the user says that a model predicts; None leaves it to the marks of the file.

    Attributes:
        prediction: One of `PREDICTIONS`.
        zero_terminal_snr: Whether no signal is left at the last timestep.

    Raises:
        HostError: If that is unknown, or cannot be.
    """

    prediction: str | None = None
    zero_terminal_snr: bool | None = None

    def __post_init__(self) -> None:
        if self.prediction not in (None, *PREDICTIONS):
            raise HostError(
                f"prediction is {self.prediction!r}; choose {' or '.join(PREDICTIONS)}."
            )

    def settled(self, name: str, prediction: str, zero_terminal_snr: bool) -> tuple[str, bool]:
        """Both, marks included.

        Raises:
            HostError: If the user wants a model of noise to begin where there is only noise.
        """
        prediction = self.prediction or prediction
        if self.zero_terminal_snr and prediction == "epsilon":
            raise HostError(
                f"{name} predicts noise (epsilon), which tells nothing of the picture where noise "
                "is all there is: zero-terminal SNR is for models that predict v. Say also "
                "--prediction v_prediction (prediction='v_prediction'), or leave it out."
            )
        asked = self.zero_terminal_snr
        return prediction, zero_terminal_snr if asked is None else asked


AS_MARKED = Told()


def schedule_of_file(path: Path, weights: Weights, told: Told = AS_MARKED) -> dict[str, Any]:
    """The noise schedule of a checkpoint in one file, which does not hold it but for marks.

    In this order: what the user says, `parameterization` in a `.yaml` beside the file, an empty
    tensor `v_pred` (with `ztsnr`: and no signal is left at the last timestep),
    `modelspec.prediction_type` in the header.

    Raises:
        HostError: If a mark asks for what is unknown here, or the `.yaml` cannot be read.
    """
    prediction = told.prediction or _marked(path, weights)
    marked = prediction == "v_prediction" and "ztsnr" in weights.shapes
    prediction, without_end = told.settled(path.name, prediction, marked)
    if not without_end:
        return {**SCHEDULE, "prediction_type": prediction}
    ends = (SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5)
    betas = torch.linspace(*ends, SCHEDULE["num_train_timesteps"], dtype=torch.float64).square()
    return schedule_of(without_signal((1 - betas).cumprod(0)), prediction)


def _marked(path: Path, weights: Weights) -> str:
    """What the marks of a checkpoint say that it predicts."""
    written = _beside(path)
    if written is None and "v_pred" in weights.shapes:
        written = "v"
    if written is None:
        written = weights.notes.get("modelspec.prediction_type") or "epsilon"
    written = written.strip().lower().replace("-", "_")
    prediction = _SHORT.get(written, written)
    if prediction not in PREDICTIONS:
        raise HostError(
            f"{path.name} says that it predicts {written[:40]!r}; known are "
            f"{' and '.join(PREDICTIONS)}. Where you know better, say --prediction (prediction=), "
            "which goes before all marks; or use another model."
        )
    return prediction


def says_v(path: Path) -> bool:
    """Whether a checkpoint bears a mark that its model predicts v; False if it cannot be read."""
    with contextlib.suppress(HostError):
        return schedule_of_file(path, open_weights(path))["prediction_type"] == "v_prediction"
    return False


def _beside(path: Path) -> str | None:
    """What a configuration beside a checkpoint says that it predicts, if it says it."""
    for file in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        try:
            if file.is_file() and (told := _PARAMETERIZATION.search(file.read_text("utf-8-sig"))):
                return told[1]
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(
                f"'{file}', which tells what {path.name} predicts, cannot be read ({error}). "
                "Correct or remove it."
            ) from error
    return None


def without_signal(products: Tensor) -> Tensor:
    """Noise levels of a schedule that is stretched until the last timestep is noise alone.

    Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1.

    Args:
        products: a_t of every timestep, cumulated.
    """
    signal = products.double().sqrt()
    products = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])).square()
    products[-1] = _NO_SIGNAL
    return (1 / products - 1).sqrt()


def schedule_of(sigmas: Tensor, prediction_type: str = "epsilon") -> dict[str, Any]:
    """The noise schedule, as diffusers' schedulers take it, of a table of noise levels.

    Args:
        sigmas: sqrt((1 - a) / a) of every training timestep, the smallest first, for cumulated
            products a.
        prediction_type: One of `PREDICTIONS`.

    Raises:
        HostError: If there are not 1000 levels: the table is a distilled model's or no table.
    """
    if sigmas.ndim != 1 or len(sigmas) != SCHEDULE["num_train_timesteps"]:
        raise HostError(
            f"The model has a noise schedule of shape {tuple(sigmas.shape)}; learning needs the "
            "1000 levels it was trained with. Connect the model before any node that changes its "
            "sampling."
        )
    products = 1 / (1 + sigmas.detach().cpu().double().square())
    before = torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
    betas = 1 - products / before
    found = {**SCHEDULE, "prediction_type": prediction_type}
    # Betas as the model's authors wrote them, where they are Stable Diffusion's kind.
    start, end = round(betas[0].item(), 6), round(betas[-1].item(), 6)
    if 0 < start < end < 1:
        root = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64)
        exact = (1 - root.square()).cumprod(0)
        if bool(((exact / products) - 1).abs().max() < _SAME_SCHEDULE):
            return found | {"beta_start": start, "beta_end": end}
    if products[-1] < _SILENCE:  # sampling must begin at the very last timestep
        found["timestep_spacing"] = "trailing"
    return found | {"trained_betas": betas.clamp(0, 0.9999).tolist()}
