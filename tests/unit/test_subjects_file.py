"""Files of subjects that are learned together."""

import json

import pytest
from PIL import Image

from cidm_core.errors import PhotoError
from cidm_core.importers.subjects_file import read_subjects


@pytest.fixture
def folders(tmp_path):
    for name, count in (("cats", 2), ("dogs", 1), ("other dogs", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cats" / "0.txt").write_text("a cat, asleep")

    def written(rows):
        path = tmp_path / "subjects.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return path

    return written


def test_rows_of_our_own(folders):
    rows = [
        {"photos": "cats", "words": "<new1>", "class_words": "cat"},
        {"photos": "dogs", "class_words": "dog", "kind": "object", "prior": "other dogs"},
    ]
    cat, dog = read_subjects(folders(rows))
    assert (cat.words, cat.class_words, len(cat.photos), cat.prior) == ("<new1>", "cat", 2, ())
    assert cat.photos[0].caption == "a cat, asleep"
    assert (dog.words, len(dog.photos), len(dog.prior)) == ("", 1, 3)
    assert dog.prior[0].caption == "dog"


def test_the_list_of_the_diffusers_scripts(folders):
    rows = [
        {
            "instance_prompt": "photo of a <new1> cat",
            "class_prompt": "cat",
            "instance_data_dir": "cats",
        },
        {
            "instance_prompt": "photo of a <a> <b>",
            "class_prompt": "dog",
            "instance_data_dir": "dogs",
            "class_data_dir": "other dogs",
        },
    ]
    cat, dog = read_subjects(folders(rows))
    assert (cat.words, cat.class_words) == ("<new1>", "cat")
    assert (dog.words, dog.class_words, len(dog.prior)) == ("<a> <b>", "dog", 3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{", "is not JSON"),
        ([], "is no list of subjects"),
        (["cats"], "Subject 1 of .* is 'cats'; it should be an object"),
        ([{"photos": "cats"}], "Subject 1 of .* has no 'class_words'"),
        ([{"class_words": "cat"}], "has no 'photos'"),
        ([{"photos": "cats", "class_words": "cat", "steps": "3"}], "has an unknown 'steps'"),
        ([{"photos": "cats", "class_words": 3}], "'class_words' is 3; give a text"),
        ([{"photos": "cats", "class_words": "cat", "kind": "pet"}], "kind 'pet' is none of"),
        ([{"photos": "cows", "class_words": "cow"}], "cows' cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said(folders, rows, said):
    with pytest.raises(PhotoError, match=said):
        read_subjects(folders(rows))
