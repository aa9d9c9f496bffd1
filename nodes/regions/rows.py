"""Conditionings of a scene's rows: every prompt of the picture reaches every region.

A prompt may be several conditionings, each for a part of the picture or of the steps
(Conditioning Combine, Set Timestep Range). A region's row gets one for each pair of a conditioning
of the picture and one of the region that meet in time; ComfyUI averages those that act at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...cidm_core.errors import RegionError
from ...cidm_core.sampling.layout import GLOBAL, Scene
from ...cidm_core.sampling.times import ALWAYS, Phase, gaps, meet
from ..sampling.conditions import REQUEST, CondEntry, RowRequest

_PLACE = ("area", "mask", "mask_strength", "set_area_to_bounds", "strength")
_CONTROL = ("control", "control_apply_to_uncond")
_SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")
_MOST = 64  # conditionings of a row

_Insert = tuple[CondEntry, Sequence[CondEntry], int]
_Choice = tuple[Phase, float, tuple[_Insert, ...]]


class SceneRows:
    """Conditionings of a scene's rows, with what our hook is asked to do for them.

    Args:
        texts: CONDITIONING by role: "positive", "negative", "region_0" ...
        slots: Roles of the text and of whose weights act, by slot of the scene.
        scene: The rows.
    """

    def __init__(
        self, texts: Mapping[str, Any], slots: Sequence[tuple[str, str]], scene: Scene
    ) -> None:
        self._texts, self._slots, self._scene = texts, slots, scene

    def conditioning(self, number: int) -> list[CondEntry]:
        """The conditioning of a row.

        Raises:
            RegionError: If regional attention is to put in what it cannot.
        """
        text, weighed_by = self._slots[self._scene.rows[number]]
        inserts = self._scene.inserts[number]
        entries = self._texts[text]
        if number <= GLOBAL:
            return self._attended(entries, inserts) if inserts else entries
        if inserts:
            # Outside its box, a region's row keeps the picture's text.
            return self._attended(_whole(entries), inserts)
        # While the region has nothing to say, its row is that of the picture.
        picture = _whole(self._texts["negative" if text.endswith("negative") else "positive"])
        rest = [each for gap in gaps(map(_time, entries)) for each in _during(picture, gap)]
        rows = [*self._controlled(_sized_as(picture, entries)), *rest]
        return [_asking(each, RowRequest(self._by(weighed_by, text, each))) for each in rows]

    def _attended(
        self, entries: Sequence[CondEntry], inserts: Sequence[tuple[int, int]]
    ) -> list[CondEntry]:
        rows = [(entry, (_time(entry), 1.0, ())) for entry in entries]
        for slot, region in inserts:
            choices = self._choices(slot, region)
            rows = [(e, both) for e, had in rows for c in choices if (both := _both(had, c))]
            if len(rows) > _MOST:
                raise RegionError(
                    f"The conditionings of the first {region + 1} regions make {len(rows)} "
                    "combinations. Put the texts of a region into one CLIP Text Encode node."
                )
        return [_row(entry, *choice) for entry, choice in rows]

    def _choices(self, slot: int, region: int) -> list[_Choice]:
        """What regional attention may put in for a region: its entries, or nothing meanwhile."""
        text, weighed_by = self._slots[slot]
        entries = self._texts[text]
        if len(entries) > 1 and any(map(_placed, entries)):
            raise RegionError(
                f"Region {region + 1} has {len(entries)} conditionings, some with a mask or an "
                "area of their own. Make a region of each, or switch regional_attention off."
            )
        found: list[_Choice] = [(gap, 1.0, ()) for gap in gaps(map(_time, entries))]
        for entry in entries:
            put = ((entry, self._by(weighed_by, text, entry), region),)
            strength = entry[1].get("strength", 1.0) if len(entries) > 1 else 1.0
            found.append((_time(entry), strength, put))
        return found

    def _by(self, weighed_by: str, text: str, entry: CondEntry) -> Sequence[CondEntry]:
        """The entries that weigh; none for the picture, whose prompts weigh together."""
        if weighed_by == "positive":
            return ()
        return (entry,) if weighed_by == text else self._texts[weighed_by]

    def _controlled(self, entries: Sequence[CondEntry]) -> list[CondEntry]:
        """A region's conditionings with the picture's ControlNet, which lets rows share a call."""
        whole = _whole(self._texts["positive"])
        kept = [({k: e[1][k] for k in _CONTROL if k in e[1]}, _time(e)) for e in whole]
        nets = {id(control.get("control")) for control, _ in kept}
        if len(nets) == 1:
            kept = [(kept[0][0], ALWAYS)]
        else:
            kept += [({}, gap) for gap in gaps(span for _, span in kept)]
        return [
            [each[0], {**control, **each[1]}]
            for control, span in kept
            for each in _during(entries, span)
        ]


def _time(entry: CondEntry) -> Phase:
    """When a conditioning acts, of itself and by the schedule of its CLIP's hooks."""
    options = entry[1]
    own = options.get("start_percent", 0.0), options.get("end_percent", 1.0)
    clip = options.get("clip_start_percent", 0.0), options.get("clip_end_percent", 1.0)
    return max(own[0], clip[0]), min(own[1], clip[1])


def _during(entries: Iterable[CondEntry], span: Phase) -> Iterator[CondEntry]:
    """What acts in a span, and no longer than that."""
    for entry in entries:
        now = meet(_time(entry), span)
        if now == _time(entry):
            yield entry
        elif now:
            yield [entry[0], {**entry[1], "start_percent": now[0], "end_percent": now[1]}]


def _whole(entries: Sequence[CondEntry]) -> list[CondEntry]:
    """The conditionings for the whole picture; while there is none, all, freed of their areas."""
    whole = [entry for entry in entries if not _placed(entry)]
    placed = [
        [entry[0], {key: value for key, value in entry[1].items() if key not in _PLACE}]
        for entry in entries
        if _placed(entry)
    ]
    return [*whole, *(e for gap in gaps(map(_time, whole)) for e in _during(placed, gap))]


def _sized_as(picture: Sequence[CondEntry], entries: Sequence[CondEntry]) -> list[CondEntry]:
    """Conditionings with the picture's sizes, which SDXL reads, unless they tell their own."""
    told = [{k: v for k, v in entry[1].items() if k in _SIZES} for entry in picture]
    size = next(filter(None, told), {})
    return [
        entry if any(key in entry[1] for key in _SIZES) else [entry[0], {**size, **entry[1]}]
        for entry in entries
    ]


def _placed(entry: CondEntry) -> bool:
    return "area" in entry[1] or "mask" in entry[1]


def _both(a: _Choice, b: _Choice) -> _Choice | None:
    """Two things put into a row while both act."""
    span = meet(a[0], b[0])
    return span and (span, a[1] * b[1], (*a[2], *b[2]))


def _row(entry: CondEntry, span: Phase, strength: float, put: tuple[_Insert, ...]) -> CondEntry:
    """A conditioning of the picture with what is put into it at one time."""
    (now,) = _during([entry], span)
    if strength != 1.0:
        now = [now[0], {**now[1], "strength": strength * now[1].get("strength", 1.0)}]
    return _asking(now, RowRequest((entry,), put))


def _asking(entry: CondEntry, request: RowRequest) -> CondEntry:
    return [entry[0], {**entry[1], REQUEST: request}]
