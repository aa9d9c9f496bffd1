"""What is found wrong with photos and captions, and what is not."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from cidm_core.errors import PhotoError
from cidm_core.inspection.findings import ESTIMATE, Reading
from cidm_core.inspection.inspect import Frame, findings_for, hearing, inspect
from cidm_core.inspection.pixels import ALIKE, BLURRED, are_alike, looks_of, sharpness
from cidm_core.inspection.sheet import record, report, sheet
from cidm_core.training.data import Photo, TrainingSubject

CIFC = Path(__file__).parents[2].parent / "shared" / "data" / "cifc" / "images"
FRAME = Frame(64, 8)


def scene(seed, size=(200, 200)):
    """Blocks and lines, sharp, unlike those of another seed."""
    draws = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(draws.integers(0, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, w, h = (draws.random(4) * [size[0], size[1], size[0] / 2, size[1] / 2]).tolist()
        pen.rectangle((x, y, x + w, y + h), tuple(draws.integers(0, 255, 3).tolist()))
    return image


def photos(captions, **more):
    return [Photo.from_image(scene(k), text, **more) for k, text in enumerate(captions)]


def subject(captions=("a dog", "a dog outside", "a dog on grass"), words="<dog1> <dog2>", **more):
    return TrainingSubject(photos(captions), words, "dog", **more)


def found(held, frame=FRAME, reading=ESTIMATE):
    (one,) = inspect([held], frame, reading)
    return [(each.kind, each.photo) for each in one.findings]


def test_good_photos_have_no_findings():
    assert found(subject()) == []


def test_too_few_photos():
    (one,) = inspect([subject(["a dog", "a dog outside"])], FRAME)
    assert one.findings[0].text.startswith("2 photos, where three to five are recommended")


def test_a_copy_and_a_part_are_found():
    whole = scene(3)
    part = whole.crop((20, 10, 180, 170)).resize((300, 300))
    others = [whole, whole.copy(), part, scene(4)]
    held = [Photo.from_image(image, f"a dog {k}") for k, image in enumerate(others)]
    texts = inspect([TrainingSubject(held, "<dog1>", "dog")], FRAME)[0].findings
    assert [(each.kind, each.photo) for each in texts] == [("duplicate", 1), ("duplicate", 2)]
    assert texts[0].text.startswith("The same picture as photo 1")
    assert texts[1].text.startswith("Nearly the same as photo 1")


def test_different_pictures_are_not_alike():
    looks = [looks_of(scene(seed)) for seed in range(12)]
    pairs = [(a, b) for k, a in enumerate(looks) for b in looks[:k]]
    assert not any(are_alike(*pair) for pair in pairs)
    assert min((a.parts[0] != b.parts[0]).sum() for a, b in pairs) > ALIKE


def test_tiny_pictures_are_alike_when_they_are_the_same():
    one, other = (
        looks_of(scene(1, (64, 64))),
        looks_of(scene(1, (64, 64)).convert("L").convert("RGB")),
    )
    assert not are_alike(one, other)
    held = [
        Photo.from_image(scene(seed, (64, 64)), f"a dog {k}") for k, seed in enumerate((1, 2, 1))
    ]
    assert found(TrainingSubject(held, "<dog1>", "dog")) == [("duplicate", 2)]


def test_blur_is_found_where_the_concept_is():
    sharp, soft = scene(1, (400, 400)), scene(1, (400, 400)).filter(ImageFilter.GaussianBlur(4))
    assert sharpness(soft) < BLURRED < sharpness(sharp)
    half = soft.copy()
    half.paste(sharp.crop((200, 0, 400, 400)), (200, 0))
    left = np.zeros((400, 400), np.float32)
    left[:, :170] = 1
    assert sharpness(half, left) < BLURRED < sharpness(half)
    assert sharpness(scene(1, (100, 400))) is None
    pale = Image.blend(sharp, Image.new("RGB", sharp.size, (160,) * 3), 0.8)
    assert sharpness(pale) > BLURRED
    held = [*photos(["a dog", "a dog 2"]), Photo.from_image(soft.rotate(90), "a dog 3")]
    assert found(TrainingSubject(held, "<dog1>", "dog")) == [("blurred", 2)]


@pytest.mark.skipif(not CIFC.is_dir(), reason=f"the CIFC photos are not at {CIFC}")
def test_real_photos_raise_no_alarm():
    images = [Image.open(path).convert("RGB") for path in sorted(CIFC.glob("*/*.jpg"))]
    assert len(images) == 34
    assert min(sharpness(image) for image in images) > 4 * BLURRED
    blurred = [image.filter(ImageFilter.GaussianBlur(2)) for image in images]
    assert max(sharpness(image) for image in blurred) < BLURRED
    looks = [looks_of(image) for image in images]
    assert not any(are_alike(a, b) for k, a in enumerate(looks) for b in looks[:k])


def test_small_and_long_photos():
    held = photos(["a dog", "a dog 2"])
    held += [Photo.from_image(scene(8, (40, 50)), "a dog 3")]
    held += [Photo.from_image(scene(9, (300, 100)), "a dog 4")]
    one = TrainingSubject(held, "<dog1>", "dog")
    assert found(one) == [("small", 2), ("shape", 3)]
    texts = [each.text for each in inspect([one], FRAME)[0].findings]
    assert texts[0].startswith("Enlarged 1.6 times")
    assert texts[1].startswith("A crop leaves 67% of it out.")
    assert found(one, Frame(64, 8, buckets=True)) == [("small", 2)]


def masked(box, size=(200, 200), value=1.0):
    mask = np.zeros(size[::-1], np.float32)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = value
    return mask


@pytest.mark.parametrize(
    ("size", "box", "said"),
    [
        ((200, 200), (50, 50, 150, 150), None),
        ((200, 200), (0, 0, 200, 200), "Its mask is white everywhere"),
        ((200, 200), (0, 0, 5, 5), "The mask of photo 3 leaves 0.062 % of its photo"),
        ((300, 200), (0, 50, 100, 150), "A crop shows 50% of what its mask marks."),
        ((300, 200), (0, 0, 40, 200), "A crop shows 0% of what its mask marks."),
    ],
)
def test_masks(size, box, said):
    held = photos(["a dog", "a dog 2"])
    held += [Photo.from_image(scene(5, size), "a dog 3", masked(box, size))]
    (one,) = inspect([TrainingSubject(held, "<dog1>", "dog")], FRAME)
    texts = [each.text for each in one.findings if each.kind == "mask"]
    assert [text[: len(said or "")] for text in texts] == ([said] if said else [])
    assert [seen.has_mask for seen in one.photos] == [False, False, True]


def test_captions_that_lack_the_concept_are_told_of_once(caplog):
    (one,) = inspect([subject(["a dog", "a dog outside", "An animal"])], FRAME)
    assert [(each.kind, each.photo) for each in one.findings] == [("nameless", 2)]
    assert one.photos[2].bound == "<dog1> <dog2>, an animal"
    assert not caplog.records


def test_what_training_refuses_is_refused_with_its_words():
    wrong = subject(["a cat", "a cat outside", "a cat on grass"])
    with pytest.raises(PhotoError) as training:
        wrong.bound()
    with pytest.raises(PhotoError) as checking:
        inspect([wrong], FRAME)
    assert str(checking.value) == str(training.value)
    # What has no right name yet can be looked at all the same.
    assert [each.kind for each in findings_for(wrong.photos, wrong, FRAME)] == ["nameless"] * 3


def test_long_captions():
    text = "a dog, " + "very " * 80
    assert found(subject(["a dog", "a dog outside", text])) == [("long", 2)]
    reading = Reading(lambda text: len(text.split()), 3)
    assert found(subject(), reading=reading) == [("long", 1), ("long", 2)]
    texts = [
        each.text for each in inspect([subject(["a dog", "a dog 2", text])], FRAME)[0].findings
    ]
    assert texts[0].startswith("The caption has about 10")


def test_one_caption_for_all():
    assert found(subject(["a dog"] * 3)) == [("same", None)]
    assert found(subject([""] * 3)) == []


def test_words_of_appearance_are_told_with_a_suggestion():
    (one,) = inspect([subject(["a brown dog", "a fluffy dog", "a dog"])], FRAME)
    kinds = [(each.kind, each.photo) for each in one.findings]
    assert kinds == [("attributes", 0), ("attributes", 1), ("attributes", None)]
    assert one.findings[0].text == "Says 'brown'. Suggested: a dog"
    assert one.findings[2].text.startswith("2 captions say what the concept looks like.")
    assert [each.suggestion for each in one.photos] == ["a dog", "a dog", None]


def test_replacements_and_modifiers_are_the_subject_s_own():
    held = subject(["a brown cat"] * 3, mapping={"cat": "<dog1> <dog2>"})
    assert inspect([held], FRAME)[0].photos[0].suggestion == "a cat"
    held = subject(modifier=True)
    assert inspect([held], FRAME)[0].photos[0].bound == "a <dog1> <dog2> dog"
    held = TrainingSubject(photos(["a brown dog"] * 3), (), "dog")
    assert inspect([held], FRAME)[0].photos[0].bound == "a brown dog"


def test_what_is_told_is_heard_and_nothing_is_changed():
    log = logging.getLogger("cidm_core")
    before = log.handlers, log.propagate, log.level
    ours = logging.getLogger("cidm_core.training.folders")

    def work():
        ours.warning("one")
        ours.warning("one")
        ours.info("nothing")
        return 5

    assert hearing(work) == (5, ["one"])
    assert (log.handlers, log.propagate, log.level) == before
    with pytest.raises(ZeroDivisionError):
        hearing(lambda: 1 / 0)
    assert (log.handlers, log.propagate, log.level) == before
    (one,) = inspect([subject()], FRAME, told=["no mask for 1.jpg"])
    assert [(each.kind, each.text) for each in one.findings] == [("told", "no mask for 1.jpg")]


def test_pictures_are_those_of_training():
    held = [Photo.from_image(scene(k, (240, 160)), f"a dog {k}") for k in range(3)]
    (one,) = inspect([TrainingSubject(held, "<dog1>", "dog")], FRAME)
    seen = one.photos[0]
    assert (seen.size, seen.learned_at) == ((240, 160), (64, 64))
    assert seen.picture.image.size == (64, 64)
    square = held[0].image.resize((64, 64), Image.Resampling.LANCZOS, box=(40, 0, 200, 160))
    apart = np.asarray(seen.picture.image, float) - np.asarray(square, float)
    assert np.abs(apart).mean() < 1
    (one,) = inspect([TrainingSubject(held, "<dog1>", "dog")], Frame(64, 8, buckets=True))
    assert one.photos[0].learned_at == (80, 48)


def test_sheet_report_and_record():
    ducks = TrainingSubject(photos(["a duck, swimming"] * 61), "<duck1>", "duck", "object")
    held = inspect([subject(["a brown dog", "", "a dog's tail"]), ducks], FRAME)
    page = sheet(held, FRAME)
    assert page.width > 1000
    assert page.height > 13 * 300
    lines = report(held).splitlines()
    assert lines[0] == "<dog1> <dog2>: 3 photos of 'dog'"
    assert "photo 1: a brown <dog1> <dog2>" in lines
    assert "  Says 'brown'. Suggested: a dog" in lines
    assert [seen.picture is None for seen in held[1].photos] == [False] * 60 + [True]
    first, second = record(held)
    assert first["photos"][0]["findings"][0]["kind"] == "attributes"
    assert first["photos"][1]["learned_caption"] == "<dog1> <dog2>"
    assert [each["kind"] for each in second["findings"]] == ["same"]
    assert "Nothing to complain of." in report(inspect([subject()], FRAME))
