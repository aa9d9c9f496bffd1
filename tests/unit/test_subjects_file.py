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


def test_folders_beside_the_file_or_where_the_program_runs(folders, tmp_path, monkeypatch):
    """The published list lies in a folder of its own, and its scripts run one above."""
    theirs = tmp_path / "assets" / "concept_list.json"
    theirs.parent.mkdir()
    rows = [{"instance_prompt": "photo of a <new1> cat", "instance_data_dir": "./cats"}]
    theirs.write_text(json.dumps([rows[0] | {"class_data_dir": "./other dogs"}]))
    monkeypatch.chdir(theirs.parent)
    with pytest.raises(PhotoError, match="cats' cannot be read"):
        read_subjects(theirs)
    monkeypatch.chdir(tmp_path)
    [cat] = read_subjects(theirs)
    assert (len(cat.photos), len(cat.prior)) == (2, 3)


def test_a_class_folder_that_their_scripts_would_make_is_left_to_the_model(folders, caplog):
    row = {"instance_prompt": "photo of a <new1> cat", "instance_data_dir": "cats"}
    [cat] = read_subjects(folders([row | {"class_data_dir": "samples_cat"}]))
    assert cat.prior == ()
    assert "samples_cat' is not there, so the model draws prior pictures" in caplog.text
    with pytest.raises(PhotoError, match="other cats' cannot be read"):
        read_subjects(folders([row | {"prior": "other cats"}]))


def test_a_file_that_cannot_be_read_is_not_called_wrong_json(tmp_path):
    with pytest.raises(PhotoError, match=r"^Subjects file .*gone.json' cannot be read"):
        read_subjects(tmp_path / "gone.json")


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
