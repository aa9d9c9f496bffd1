"""IA, TA and presence of finished pictures, with an encoder that sees colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.errors import CidmError
from cidm_core.evaluation.judge import judge
from cidm_core.evaluation.presence import crop, present, similarities
from cidm_core.pictures.card import concept_card
from cidm_core.pictures.scores import presence_picture, scores_picture
from cidm_core.regions import Region

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


class Colours:
    """A picture is its mean colour; a text the colour it names."""

    def images(self, pictures):
        rows = [np.asarray(p.convert("RGB"), dtype=np.float32).mean((0, 1)) for p in pictures]
        return torch.from_numpy(np.stack(rows))

    def texts(self, texts):
        return torch.tensor([[float(v) for v in COLOURS[text]] for text in texts])


def plain(colour, size=(20, 10)):
    return Image.new("RGB", size, colour)


def halves(left, right):
    picture = plain(left)
    picture.paste(plain(right, (10, 10)), (10, 0))
    return picture


LEFT = Region("red left", box=(0, 0, 0.5, 1))
RIGHT = Region("green right", box=(0.5, 0, 1, 1))
PHOTOS = {"red": [plain(RED)], "green": [plain(GREEN)]}


def test_whole_pictures_against_each_concept():
    found = judge(Colours(), [plain(RED), plain(BLUE)], PHOTOS)
    assert found.scores == (("red", pytest.approx(0.5)), ("green", pytest.approx(0.0)))
    assert found.image_alignment == pytest.approx(0.25)
    assert (found.presence, found.text_alignment) == (None, None)
    assert "red" in found.table()


def test_each_region_is_judged_by_its_own_part():
    right = judge(Colours(), [halves(RED, GREEN)], PHOTOS, [LEFT, RIGHT])
    swapped = judge(Colours(), [halves(GREEN, RED)], PHOTOS, [LEFT, RIGHT])
    assert right.image_alignment == pytest.approx(1.0)
    assert right.presence == 1.0
    assert swapped.image_alignment == pytest.approx(0.0)
    assert swapped.presence == 0.0
    assert [place.concept for place in right.places] == ["red", "green"]
    both = judge(Colours(), [halves(RED, GREEN), halves(RED, RED)], PHOTOS, [LEFT, RIGHT])
    assert [place.share for place in both.places] == [1.0, 0.5]
    assert "50.000" in both.table()


def test_text_alignment_and_its_warning():
    ta = judge(Colours(), [plain(RED), plain(BLUE)], PHOTOS, texts=["red", "green"])
    assert ta.text_alignment == pytest.approx(1.25)
    assert ta.warning == ""
    strangers = judge(Colours(), [plain(RED)], PHOTOS, texts=["blue"])
    assert "nothing in common" in strangers.table()
    with_regions = judge(Colours(), [halves(RED, GREEN)], PHOTOS, [LEFT], ["red"])
    assert with_regions.text_alignment is not None


class Narrow(Colours):
    def texts(self, texts):
        return torch.ones(len(texts), 2)


@pytest.mark.parametrize(
    ("encoder", "pictures", "photos", "regions", "texts", "message"),
    [
        (Colours(), [], PHOTOS, (), (), "at least one"),
        (Colours(), [plain(RED)], {"red": []}, (), (), "at least one"),
        (Colours(), [plain(RED)], {"red": [plain(RED)]}, (LEFT, RIGHT), (), "more regions"),
        (Colours(), [plain(RED)], PHOTOS, (), ("red", "red"), "Texts .2. and pictures"),
        (Narrow(), [plain(RED)], PHOTOS, (), ("red",), "not of one CLIP"),
    ],
)
def test_what_cannot_be_judged_is_refused(encoder, pictures, photos, regions, texts, message):
    with pytest.raises(CidmError, match=message):
        judge(encoder, pictures, photos, regions, texts)


def test_a_crop_holds_the_box_or_what_is_painted():
    picture = halves(RED, GREEN)
    assert crop(picture, RIGHT).size == (10, 10)
    mask = torch.zeros(4, 4)
    mask[1:3, 2:] = 0.2
    part = crop(picture, Region("a", mask=mask))
    assert part.size == (10, 6)  # rows 2.5 to 7.5: every pixel it touches
    assert part.getpixel((0, 0)) == GREEN
    assert crop(picture, Region("a", box=(0.99, 0.99, 1, 1))).size == (1, 1)


def test_presence_wants_the_own_concept_nearest():
    eye = torch.eye(3)
    cosines = similarities([eye[:1], eye[1:2]], [eye[:1], eye[1:2], eye[2:]])
    assert cosines.shape == (1, 2, 3)
    assert present(cosines).tolist() == [[True, True]]
    assert present(torch.tensor([[[0.9, 0.9, 0.1]]])).tolist() == [[True]]  # a tie
    stranger = similarities([eye[2:]], [eye[:1], eye[2:]])
    assert present(stranger).tolist() == [[False]]


@pytest.mark.parametrize("count", [0, 1, 12])
def test_score_pictures_hold_any_number_of_rows(count):
    names = [f"a rather long name of number {k}" for k in range(count)]
    scores_picture([(name, 0.3 * k - 0.3) for k, name in enumerate(names)])
    table = [[0.1 * (i == j) for j in range(count)] for i in range(count)]
    presence_picture(names, names, table, [0.5] * count)


def test_a_card_shows_its_picture_and_grows_with_its_facts():
    facts = {"name": "dog", "class": "dog", **{f"fact {k}": "long " * 40 for k in range(12)}}
    card = concept_card("dog", "<dog1> <dog2>", facts, plain((200, 120, 40), (40, 20)))
    assert card.getpixel((144, 144)) == pytest.approx((200, 120, 40), abs=3)
    assert card.height > concept_card("dog", "<dog1>", {}).height


def test_how_far_pictures_are_from_those_of_the_class():
    reds = [plain((200 + 5 * k, 10 * k, 0)) for k in range(5)]
    blues = [plain((0, 10 * k, 200 + 5 * k)) for k in range(6)]
    far = judge(Colours(), reds, PHOTOS, plain=blues)
    assert far.from_class.distance.value == pytest.approx(2**0.5, abs=0.1)
    assert far.from_class.counts == (5, 6)
    assert "W2 1." in far.table()
    assert "by chance 0." in far.table()
    near = judge(Colours(), reds, PHOTOS, [LEFT], plain=reds[::-1])
    assert near.from_class.distance.value < 1e-6
    assert near.scores == judge(Colours(), reds, PHOTOS, [LEFT]).scores
    assert judge(Colours(), reds, PHOTOS, plain=blues[:3]).from_class.chance is None
    with pytest.raises(CidmError, match="have no spread"):
        judge(Colours(), reds[:1], PHOTOS, plain=blues)
