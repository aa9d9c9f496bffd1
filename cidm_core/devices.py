"""Which device and precision a model is loaded for."""

from __future__ import annotations

import psutil
import torch

from .errors import HostError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        HostError: If there is no such device.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is None:
        return torch.device(next((name for name, found in has.items() if found), "cpu"))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise HostError(f"Device {device!r} is unknown. Use cpu, cuda, cuda:0 or mps.") from error
    if not has.get(chosen.type, True) or (chosen.index or 0) >= max(1, torch.cuda.device_count()):
        available = ["cpu", *(name for name, found in has.items() if found)]
        raise HostError(
            f"Device {device!s} was asked for; this machine and this torch have "
            f"{', '.join(available)}. Leave the device out, or install a torch that supports it."
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision asked for, or the device's usual one.

    Raises:
        HostError: If it is none of fp32, bf16, fp16.
    """
    if dtype is None:
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.float16 if device.type == "mps" else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise HostError(f"Precision {dtype!r} is unknown. Use one of {', '.join(DTYPES)}.")
    return chosen


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out. On CPU and MPS torch raises a plain RuntimeError."""
    signs = ("out of memory", "can't allocate memory", "not enough memory")
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in signs)


def memory_of(device: torch.device) -> tuple[int, int]:
    """Memory of a device in bytes, in all and what other programs leave free of it."""
    if device.type in ("cuda", "xpu"):
        free, total = getattr(torch, device.type).mem_get_info(device)
        # What torch holds without using it is ours.
        kept = getattr(torch, device.type).memory_reserved(device)
        used = getattr(torch, device.type).memory_allocated(device)
        return total, free + kept - used
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return total, max(0, total - torch.mps.driver_allocated_memory())
    held = psutil.virtual_memory()
    return held.total, held.available


def most_held(device: torch.device) -> int | None:
    """Bytes that torch has held of a device at most so far; None where nobody counts them."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).max_memory_reserved(device)
    return None
