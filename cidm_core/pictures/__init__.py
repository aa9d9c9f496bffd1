"""Everything the package draws, with Pillow alone: charts, layouts, grids and contact sheets."""

from .charts import loss_picture, weights_picture
from .layout import DrawnRegion, layout_picture
from .sheets import Panel, Row, contact_sheet, enlarge, grid, stack

__all__ = [
    "DrawnRegion",
    "Panel",
    "Row",
    "contact_sheet",
    "enlarge",
    "grid",
    "layout_picture",
    "loss_picture",
    "stack",
    "weights_picture",
]
