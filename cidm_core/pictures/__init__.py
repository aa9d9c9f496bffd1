"""Everything the package draws, with Pillow alone: charts, layouts, grids and contact sheets."""

from .layout import layout_picture
from .losses import loss_picture, losses_picture
from .sheets import Panel, Row, contact_sheet, enlarge, grid, stack
from .weights import weights_picture

__all__ = [
    "Panel",
    "Row",
    "contact_sheet",
    "enlarge",
    "grid",
    "layout_picture",
    "loss_picture",
    "losses_picture",
    "stack",
    "weights_picture",
]
