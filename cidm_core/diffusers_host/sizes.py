"""What SDXL's UNet reads beside text and time: pooled text, and six numbers about the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sizes import PictureSizes


def added_conditions(pooled: Tensor, sizes: Sequence[PictureSizes]) -> dict[str, Tensor]:
    """`added_cond_kwargs` of a UNet call.

    Args:
        pooled: Pooled text of each row, (rows, dim).
        sizes: Of each row. They stay float32: bfloat16 would round them.
    """
    ids = torch.tensor([each.ids for each in sizes], dtype=torch.float32)
    return {"text_embeds": pooled, "time_ids": ids.to(pooled.device)}
