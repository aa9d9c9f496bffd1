"""What a run leaves in its folder beside the kept work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cidm_core.as_text import jsonable
from cidm_core.pictures.files import save_picture
from cidm_core.storage.atomic import write_atomic

from ..bench import Bench
from ..systems import System
from . import figures, tables
from .likeness import likeness_picture


def write_reports(
    bench: Bench, out: Path, systems: Sequence[System], results: Mapping[str, Any]
) -> None:
    """Write `results.json`, tables and pictures into a folder."""
    write_atomic(out / "results.json", (json.dumps(jsonable(results), indent=1) + "\n").encode())
    write_atomic(out / "tables.md", tables.markdown(results).encode())
    if "ablations" in results:
        text = tables.ablation_markdown(results["ablations"])
        write_atomic(out / "ablations.md", text.encode())
    pictures: dict[str, Any] = {}
    if "main" in results:
        pictures["forgetting.png"] = figures.forgetting_picture(results["main"])
        pictures["contact_sheet.png"] = figures.contact_picture(bench, systems)
        pictures["likeness.png"] = likeness_picture(results)
    if "multi" in results:
        pictures["scenes.png"] = figures.scenes_picture(bench)
    if "long" in results:
        pictures["bank_size.png"] = figures.bank_picture(results["long"])
    for name, picture in pictures.items():
        save_picture(picture, out / name)
