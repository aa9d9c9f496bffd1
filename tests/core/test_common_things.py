"""Common things that a tiny model draws, cut out by a stand-in for CLIPSeg."""

import numpy as np
import pytest
from PIL import Image

from cidm_core.diffusers_host.common_things import NAMES, draw_common_things
from cidm_core.errors import PhotoError
from cidm_core.training.loop import Stopped

QUICK = {"steps": 2, "width_px": 32, "height_px": 32}


class Middle:
    """Sees everything in the middle; of some things, everywhere."""

    size, name = 16, "middle"

    def __init__(self, everywhere=()):
        self.everywhere, self.asked = everywhere, []

    def share(self, picture, class_words):
        self.asked.append(class_words)
        seen = np.full((16, 16), 1.0 if class_words in self.everywhere else 0.0, np.float32)
        seen[4:12, 4:12] = 1
        return seen


def drawn(base, folder, segmenter, names=("chef", "stool"), **options):
    return draw_common_things(base, folder, segmenter, names, each=3, **QUICK | options)


def shown(things):
    return [(each.label, each.picture.size, each.picture.tobytes()) for each in things]


def test_things_are_drawn_once_cut_out_and_kept(tiny_base, tmp_path):
    events, segmenter = [], Middle()
    found = drawn(tiny_base, tmp_path, segmenter, on_progress=events.append)
    assert [each.label for each in found] == ["chef"] * 3 + ["stool"] * 3
    assert all(each.picture.mode == "RGBA" and each.subject is None for each in found)
    assert len({picture for *_, picture in shown(found)}) == 6
    assert [(e.step, e.steps) for e in events] == [(0, 6), (3, 6), (3, 6), (6, 6)]
    assert segmenter.asked == ["chef"] * 3 + ["stool"] * 3
    chef = next(path for path in tmp_path.iterdir() if path.name.startswith("chef-"))
    assert Image.open(chef / "0001.png").text["Description"] == "a photo of a chef"
    again = drawn(tiny_base, tmp_path, segmenter)
    assert len(segmenter.asked) == 6
    assert shown(again) == shown(found)


def test_after_an_interruption_they_are_the_same(tiny_base, tmp_path):
    left = [3]

    def should_stop():
        left[0] -= 1
        return left[0] < 0

    with pytest.raises(Stopped, match="the same call goes on"):
        drawn(tiny_base, tmp_path / "twice", Middle(), should_stop=should_stop)
    found = drawn(tiny_base, tmp_path / "twice", Middle())
    assert shown(found) == shown(drawn(tiny_base, tmp_path / "once", Middle()))


def test_what_is_seen_everywhere_is_left_out(tiny_base, tmp_path, caplog):
    found = drawn(tiny_base, tmp_path, Middle(everywhere=["chef"]))
    assert [each.label for each in found] == ["stool"] * 3
    assert caplog.text.count("No chef can be cut out of") == 3
    with pytest.raises(PhotoError, match="CLIPSeg cuts nothing out"):
        drawn(tiny_base, tmp_path, Middle(everywhere=["wizard"]), ["wizard"])


def test_without_a_segmenter_it_is_said_what_to_give(tiny_base, tmp_path):
    with pytest.raises(PhotoError, match=r"--segment.*a folder of cut-outs such as chef\.png"):
        drawn(tiny_base, tmp_path, None)
    assert not list(tmp_path.iterdir())


def test_the_paper_s_things_come_first():
    assert NAMES[:6] == ("chef", "wizard", "doctor", "dog", "jean jacket", "stool")
