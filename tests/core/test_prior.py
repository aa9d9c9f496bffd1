"""Prior pictures by the base model: the same set however often it was interrupted."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from cidm_core.diffusers_host import prior
from cidm_core.diffusers_host.prior import draw_prior
from cidm_core.errors import CidmError, HostError, PhotoError
from cidm_core.training.loop import Stopped

QUICK = {"steps": 2, "width_px": 32, "height_px": 32}


def draw(base, folder, class_words="dog", count=6, **given):
    return draw_prior(base, folder, class_words, count=count, **{**QUICK, **given})


def pixels(photos):
    return [photo.image.tobytes() for photo in photos]


@pytest.fixture(scope="module")
def drawn(tiny_base, tmp_path_factory):
    """Six pictures in one go: their photos and the folder of sets."""
    folder = tmp_path_factory.mktemp("bank") / ".prior"
    return draw(tiny_base, folder), folder


def test_pictures_have_the_prompt_as_caption_and_facts_inside(drawn, tiny_base):
    photos, _ = drawn
    assert [(p.path.name, p.caption, p.kind) for p in photos] == [
        (f"{n:04}.png", "photo of a dog", "") for n in range(1, 7)
    ]
    assert len(set(pixels(photos))) == 6
    with Image.open(photos[4].path) as picture:
        inside = json.loads(picture.text["cidm"])
    assert (inside["seed"], inside["prompt"]) == (4, "photo of a dog")
    chosen = {"scheduler": "ddim", "eta": 1.0, "guidance_scale": 6.0, "steps": 2, "width_px": 32}
    assert chosen.items() <= inside["settings"].items()
    about = json.loads((photos[0].path.parent / ".prior.json").read_text("utf-8"))
    assert about["fingerprint"] == tiny_base.fingerprint
    assert about["prompt"] == "photo of a dog"


def test_they_are_reused_and_not_drawn_again(drawn, tiny_base):
    photos, folder = drawn
    written = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.*"))]
    events = []
    again = draw(tiny_base, folder, on_progress=events.append)
    assert pixels(again) == pixels(photos)
    assert [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.*"))] == written
    assert [(e.step, e.steps, e.phase) for e in events] == [(6, 6, "drawing")]
    fewer = draw(tiny_base, folder, count=3)
    assert pixels(fewer) == pixels(photos)[:3]


@pytest.mark.parametrize("checks", [1, 3])
def test_after_an_interruption_it_is_the_same_set(drawn, tiny_base, tmp_path, checks):
    left = [checks]

    def should_stop():
        left[0] -= 1
        return left[0] < 0

    with pytest.raises(Stopped, match=r"are kept in .*dog-\w{8}'; the same call goes on"):
        draw(tiny_base, tmp_path, should_stop=should_stop)
    kept = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert kept == [f"{n:04}.png" for n in range(1, 5)][: 4 * (checks // 2)]
    events = []
    photos = draw(tiny_base, tmp_path, on_progress=events.append)
    assert pixels(photos) == pixels(drawn[0])
    assert [e.step for e in events] == ([0, 4, 6] if checks == 1 else [4, 6])
    assert events[-1].remaining_seconds == 0


def test_ctrl_c_says_what_is_kept_and_loses_no_caption(drawn, tiny_base, tmp_path, monkeypatch):
    draw(tiny_base, tmp_path, count=4)
    generate, batches = prior.generate, []

    def struck(*args, **given):
        batches.append(given["config"].seed)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return generate(*args, **given)

    monkeypatch.setattr(prior, "generate", struck)
    with pytest.raises(KeyboardInterrupt, match=r"are kept in .*dog-\w{8}'; the same call goes on"):
        draw(tiny_base, tmp_path, count=12)
    assert batches == [4, 8]
    photos = draw(tiny_base, tmp_path, count=6)  # drawn before it struck
    assert batches == [4, 8]
    assert pixels(photos) == pixels(drawn[0])
    assert [(p.caption, p.kind) for p in photos] == [("photo of a dog", "")] * 6


def test_a_picture_that_was_lost_comes_back_and_a_set_grows(drawn, tiny_base, tmp_path):
    three = draw(tiny_base, tmp_path, count=3)
    three[1].path.unlink()
    photos = draw(tiny_base, tmp_path)
    assert pixels(photos) == pixels(drawn[0])
    assert {photo.caption for photo in photos} == {"photo of a dog"}


def test_other_prompts_and_settings_have_their_own_folder(drawn, tiny_base):
    photos, folder = drawn
    others = [
        draw(tiny_base, folder, count=1, prompt="a drawing of a dog"),
        draw(tiny_base, folder, count=1, steps=1),
        draw(tiny_base, folder, "ink drawing", count=1, kind="style"),
    ]
    schedule = {**tiny_base.scheduler_config, "timestep_spacing": "trailing"}
    others.append(draw(replace(tiny_base, scheduler_config=schedule), folder, count=1))
    assert [each[0].caption for each in others] == [
        *("a drawing of a dog", "photo of a dog", "a ink drawing", "photo of a dog")
    ]
    assert len({each[0].path.parent for each in (photos, *others)}) == 5
    assert pixels(draw(tiny_base, folder)) == pixels(photos)


def test_a_folder_of_something_else_is_not_touched(tiny_base, tmp_path):
    folder = draw(tiny_base, tmp_path, count=1)[0].path.parent
    facts = json.loads((folder / ".prior.json").read_text("utf-8"))
    for text in (json.dumps({**facts, "prompt": "photo of a cat"}), "[]", "{"):
        (folder / ".prior.json").write_text(text, "utf-8")
        with pytest.raises(PhotoError, match="Move that folder away"):
            draw(tiny_base, tmp_path, count=2)
    assert len(list(folder.glob("*.png"))) == 1


def test_what_cannot_be_drawn(tiny_base, tmp_path):
    for words, given in (("", {}), ("dog", {"count": 0}), ("dog", {"kind": "animal"})):
        with pytest.raises(PhotoError, match="cannot be drawn"):
            draw(tiny_base, tmp_path, words, **given)
    with pytest.raises(CidmError, match="steps is 0"):
        draw(tiny_base, tmp_path, steps=0)
    with pytest.raises(HostError, match="takes none"):
        draw(tiny_base, tmp_path, scheduler="euler")
