"""The bank as a folder: order, listing, names, words, fit, and nothing outside of it."""

import builtins
import os
import shutil
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bank_samples import BASE, LAYERS, OTHER_BASE, contents, flip, make_concept, same
from PIL import Image

from cidm_core.bank import Bank, MissingConceptError
from cidm_core.concept import Subject
from cidm_core.errors import BankError, CidmError, ConceptError, FamilyError
from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.storage import names, tensor_file
from cidm_core.storage.compatibility import check_fit
from cidm_core.storage.concept_file import concept_to_bytes
from cidm_core.storage.names import default_name, name_of_subjects
from cidm_core.storage.record import preview_path
from cidm_core.updates import FullRank, LowRank, ValueResidual


@pytest.fixture
def bank(tmp_path):
    return Bank(tmp_path / "pets")


def test_a_missing_folder_is_an_empty_bank_and_stays_missing(bank):
    assert len(bank) == 0
    assert list(bank) == []
    assert bank.entries() == bank.broken() == ()
    assert bank.callers() == {}
    assert "dog" not in bank
    bank.check(model("SD15"))
    assert not bank.path.exists()


def test_a_file_is_no_bank(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(BankError, match="is a file; a bank is a folder"):
        Bank(tmp_path / "x")


def test_add_gives_back_what_a_later_look_finds(bank):
    given = make_concept()
    added = bank.add(given)
    assert same(given, added)
    found = Bank(bank.path)["dog"]
    assert same(added, found)
    assert (added.index, added.created) == (found.index, found.created)
    assert added.low_rank[f"{LAYERS[0]}.to_q"].alpha == found.low_rank[f"{LAYERS[0]}.to_q"].alpha


def test_learning_order_is_kept_whatever_the_names(bank):
    for name in ("zebra", "ant", "Mole"):
        bank.add(make_concept(name))
    fresh = Bank(bank.path)
    assert list(fresh) == ["zebra", "ant", "Mole"]
    assert [entry.index for entry in fresh.entries()] == [0, 1, 2]
    assert fresh.callers()[("<ant-1>", "<ant-2>")] == "ant"
    fresh.remove("ant")
    assert fresh.add(make_concept("bee")).index == 3
    assert list(bank) == ["zebra", "Mole", "bee"]


def test_mapping_speaks_both_languages_of_absence(bank):
    bank.add(make_concept())
    with pytest.raises(KeyError):
        bank["cat"]
    with pytest.raises(
        BankError, match=r"Bank 'pets' has no concept 'cat'; it holds dog. Train"
    ) as e:
        bank["cat"]
    assert isinstance(e.value, MissingConceptError)
    assert bank.get("cat") is None
    assert bank.get("dog").name == "dog"
    assert dict(bank).keys() == {"dog"}
    with pytest.raises(BankError):
        bank["<dog-1>"]


def test_listing_1000_concepts_reads_headers_and_no_tensor(bank, monkeypatch):
    bank.path.mkdir()
    headers = 0
    for n in range(1000):
        concept = make_concept(f"c{n}", layers=1, width=64)
        data = bytearray(concept_to_bytes(replace(concept, index=999 - n, created="2026")))
        length = int.from_bytes(data[:8], "little")
        headers += 8 + length
        data[8 + length :] = b"\xff" * (len(data) - 8 - length)  # any use of a tensor would fail
        (bank.path / f"c{n}.safetensors").write_bytes(data)
    read = []

    def counting(path, mode="r", **rest):
        assert mode == "rb"
        file = builtins.open(path, mode, buffering=0)  # noqa: SIM115 - closed below
        inner = file.read

        class Counted:
            def __enter__(self):
                return self

            def __exit__(self, *why):
                file.close()

            def seek(self, *place):
                return file.seek(*place)

            def read(self, size=-1):
                read.append(size)
                return inner(size)

        return Counted()

    monkeypatch.setattr(tensor_file, "open", counting, raising=False)
    monkeypatch.setattr(tensor_file, "load", lambda data: pytest.fail("a tensor was read"))
    entries = bank.entries()
    assert [entry.name for entry in entries] == [f"c{n}" for n in reversed(range(1000))]
    assert bank.broken() == ()
    assert sum(read) == headers
    read.clear()
    assert len(bank.callers()) == 1000
    assert "c7" in bank
    assert read == []  # unchanged files are not even opened again
    with pytest.raises(BankError, match=r"damaged.*The other 999 concepts can still"):
        bank["c7"]


def test_changes_by_others_are_seen(bank, tmp_path):
    bank.add(make_concept("dog"))
    assert list(bank) == ["dog"]
    other = Bank(bank.path)
    other.add(make_concept("cat"))
    assert list(bank) == ["dog", "cat"]
    os.unlink(bank.path / "dog.safetensors")  # removing a concept is deleting a file
    assert list(bank) == ["cat"]
    shutil.copytree(bank.path, tmp_path / "copy")  # and a bank is copied with cp
    assert same(Bank(tmp_path / "copy")["cat"], bank["cat"])
    os.unlink(bank.path / "cat.safetensors")
    bank.add(make_concept("cat", class_words="tiger"))
    assert other["cat"].class_words == "tiger"


def test_one_broken_file_never_hides_the_others(bank):
    for name in ("dog", "cat", "cow"):
        bank.add(make_concept(name))
    path = bank.path / "cat.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    (bank.path / "text.safetensors").write_text("hello")
    (bank.path / ".hidden.safetensors").write_text("hello")
    (bank.path / "notes.txt").write_text("hello")
    assert list(bank) == ["dog", "cow"]
    assert [p.name for p, _ in bank.broken()] == ["cat.safetensors", "text.safetensors"]
    with pytest.raises(BankError, match=r"cat.safetensors: .*Restore.*other 2 concepts can still"):
        bank["cat"]
    with pytest.raises(BankError, match=r"needs the file 'cat.safetensors'.*remove that file"):
        bank.add(make_concept("cat"))
    assert same(bank["cow"], make_concept("cow"))
    assert bank.add(make_concept("hen")).index == 3
    path.write_bytes(data)  # restored from a copy
    assert list(bank) == ["dog", "cat", "cow", "hen"]
    path.write_bytes(data[:100])
    bank.remove("cat")
    assert not path.exists()


def test_damage_in_the_tensors_is_found_at_the_look_up(bank):
    bank.add(make_concept())
    path = bank.path / "dog.safetensors"
    path.write_bytes(flip(path.read_bytes(), path.stat().st_size * 8 - 1))
    assert list(bank) == ["dog"]
    with pytest.raises(BankError, match="damaged") as caught:
        bank["dog"]
    assert "other" not in str(caught.value)


def test_a_file_copied_beside_itself_is_told(bank):
    bank.add(make_concept("dog"))
    shutil.copy(bank.path / "dog.safetensors", bank.path / "dog copy.safetensors")
    renamed = make_concept("hound", words=("<x>", "<dog-2>"), index=0, created="2999")
    (bank.path / "hound.safetensors").write_bytes(concept_to_bytes(renamed))
    assert list(bank) == ["dog"]
    texts = {path.name: str(error) for path, error in bank.broken()}
    assert texts.keys() == {"dog copy.safetensors", "hound.safetensors"}
    assert "its name 'dog' is also that of 'dog.safetensors'" in texts["dog copy.safetensors"]
    assert "its word '<dog-2>' is also that of 'dog.safetensors'" in texts["hound.safetensors"]
    with pytest.raises(BankError, match="Keep one of the two"):
        bank["hound"]


@pytest.mark.parametrize("name", ["dog", "DOG", "Dog "])
def test_taken_names_are_refused(bank, name):
    bank.add(make_concept("dog"))
    with pytest.raises(BankError, match="already has a concept 'dog', learned 20"):
        bank.add(make_concept(name, words=("<q>",)))
    assert len(bank) == 1


def test_composed_and_decomposed_names_are_one(bank):
    bank.add(make_concept("caf\u00e9", words=("<a>",)))
    with pytest.raises(BankError, match="already has"):
        bank.add(make_concept("cafe\u0301", words=("<b>",)))
    assert list(bank) == ["caf\u00e9"]


def test_names_that_need_the_same_file_are_refused(bank):
    bank.add(make_concept("a/b", words=("<a>",)))
    before = contents(bank.path)
    with pytest.raises(
        BankError, match=r"needs the file 'a_b.safetensors', which is there already"
    ):
        bank.add(make_concept("a:b", words=("<b>",)))
    with pytest.raises(BankError, match="needs the file"):
        bank.add(make_concept("A?B", words=("<c>",)))
    assert contents(bank.path) == before


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (("<dog-1>",), "<dog-1>"),
        (("<DOG-1>", "<x>"), "<dog-1>"),
        (("dog",), "dog"),
        (("big.dog",), "dog"),
    ],
)
def test_overlapping_words_are_refused(bank, words, taken):
    bank.add(make_concept("first", words=("<dog-1>", "dog")))
    with pytest.raises(BankError, match=f"overlap '{taken}' of concept 'first'"):
        bank.add(make_concept("second", words=words))
    assert list(bank) == ["first"]


def test_a_word_may_begin_another(bank):
    bank.add(make_concept("ten", words=("<v10>", "<dog>")))
    bank.add(make_concept("one", words=("<v1>", "<dogs>")))
    assert bank.callers() == {("<v10>", "<dog>"): "ten", ("<v1>", "<dogs>"): "one"}


def test_another_family_base_or_layers_is_refused(bank):
    bank.add(make_concept("dog"))
    with pytest.raises(
        FamilyError,
        match=r"Concept 'dog' was learned on SD15 \(context 768\), concept 'x' is SDXL \(context 2",
    ):
        bank.add(make_concept("x", family="SDXL"))
    with pytest.raises(
        FamilyError, match=r"another SD15 model, fingerprint 1280x768.* concept 'x' has"
    ):
        bank.add(make_concept("x", base=OTHER_BASE))
    with pytest.raises(FamilyError, match="2 cross-attention layers, concept 'x' has 3"):
        bank.add(make_concept("x", layers=3), allow_other_base=True)
    assert list(bank) == ["dog"]
    bank.add(make_concept("x", base=OTHER_BASE), allow_other_base=True)
    near = BASE.replace(":-16,", ":-17,")  # the same model, stored in half precision
    with pytest.raises(FamilyError):  # now there are two bases, and this is neither's
        bank.add(make_concept("y", base=near))


def model(family, base=BASE, layers=None):
    """What of a model decides whether concepts fit it."""
    row = FAMILIES[family]
    shapes = {f"{at.path}.{part}": at.shape(part) for at in row.layers for part in PROJECTIONS}
    shapes |= {path.replace("attn2", "attn1"): (out, out) for path, (out, _) in shapes.items()}
    return SimpleNamespace(
        family=row, layers=layers or row.layers, fingerprint=base, shape_of=shapes.get
    )


def test_check_compares_bank_and_model(bank):
    layers = FAMILIES["MINI"].layers
    bank.add(make_concept("dog", family="MINI", paths=tuple(layer.path for layer in layers)))
    bank.check(model("MINI"))
    bank.check(model("MINI", BASE.replace(":-16,", ":-17,")))
    with pytest.raises(
        FamilyError,
        match=r"Concept 'dog' was .* MINI \(context 128\), the model is SD15 \(context 768\)",
    ):
        bank.check(model("SD15"))
    with pytest.raises(FamilyError, match=rf"on {len(layers)} cross.* the model has 16"):
        bank.check(model("MINI", layers=FAMILIES["SD15"].layers))
    with pytest.raises(FamilyError, match="of other names"):
        bank.check(model("MINI", layers=layers[::-1]))
    with pytest.raises(FamilyError, match="allow another base"):
        bank.check(model("MINI", OTHER_BASE))
    bank.check(model("MINI", OTHER_BASE), allow_other_base=True)


def test_whole_concepts_are_compared_in_width_as_well():
    row = FAMILIES["MINI"]
    layer = row.layers[0]
    paths = tuple(each.path for each in row.layers)
    tiny = make_concept(family="MINI", paths=paths)
    wide = {"text_encoder": torch.ones(2, len(paths), 128)}
    fitting = {
        f"{layer.path}.to_q": LowRank(torch.ones(2, 96), torch.ones(96, 2), 1.0),
        f"{layer.path}.to_k": FullRank(torch.ones(96, 128)),
        f"{layer.path}.to_v": ValueResidual(torch.ones(96)),
        f"{layer.path.replace('attn2', 'attn1')}.to_q": FullRank(torch.ones(96, 96)),
    }
    check_fit([replace(tiny, updates=fitting, rows=wide)], model("MINI"))
    with pytest.raises(FamilyError, match=r"are 4 wide .*the model reads words 128 wide"):
        check_fit([replace(tiny, updates=fitting)], model("MINI"))
    for projection, update, text in (
        ("to_k", FullRank(torch.ones(96, 96)), r"changes 96 x 96 weights in .*has 96 x 128 there"),
        ("to_q", LowRank(torch.ones(1, 96), torch.ones(64, 1), 1.0), "changes 64 x 96"),
        ("to_v", ValueResidual(torch.ones(64)), r"changes 64 weights .* has 96 there"),
    ):
        other = fitting | {f"{layer.path}.{projection}": update}
        with pytest.raises(FamilyError, match=text):
            check_fit([replace(tiny, updates=other, rows=wide)], model("MINI"))


def test_remove_deletes_the_file_and_its_picture_only(bank):
    bank.add(make_concept("dog"), preview=Image.new("RGBA", (2000, 1000), "red"))
    bank.add(make_concept("cat"))
    before = contents(bank.path)
    assert set(before) == {"dog.safetensors", "dog.png", "cat.safetensors"}
    bank.remove("dog")
    assert contents(bank.path) == {"cat.safetensors": before["cat.safetensors"]}
    with pytest.raises(MissingConceptError):
        bank.remove("dog")


def test_the_preview_is_a_small_picture(bank):
    bank.add(make_concept("dog"), preview=Image.new("RGBA", (2000, 1000), "red"))
    with Image.open(bank.entries()[0].preview) as picture:
        assert picture.size == (512, 256)
        assert picture.format == "PNG"
        assert picture.getpixel((5, 5)) == (255, 0, 0)


def test_a_failing_preview_does_not_cost_the_concept(bank):
    bank.path.mkdir()
    (bank.path / "dog.png").mkdir()
    with pytest.warns(UserWarning, match="dog.png"):
        bank.add(make_concept("dog"), preview=Image.new("RGB", (8, 8)))
    assert same(bank["dog"], make_concept("dog"))


def test_values_are_checked_at_the_door(bank):
    concept = make_concept()
    concept.rows["text_encoder"][0, 0, 0] = torch.nan
    with pytest.raises((BankError, ConceptError), match="NaN"):
        bank.add(concept)
    assert contents(bank.path) == {} if bank.path.exists() else True


def test_export_writes_elsewhere_only(bank, tmp_path):
    bank.add(make_concept())
    bank.export("dog", tmp_path / "dog.safetensors")
    assert (tmp_path / "dog.safetensors").exists()
    (tmp_path / "link").symlink_to(bank.path)
    for folder in (bank.path, tmp_path / "link"):
        with pytest.raises(BankError, match="lies in the bank itself"):
            bank.export("dog", folder / "out.safetensors")
    assert len(contents(bank.path)) == 1


HOSTILE = [
    *(
        "../x",
        "../../etc/passwd",
        "/etc/x",
        "C:\\x",
        "\\\\server\\share",
        "..",
        ".",
        "...",
        "a/../b",
    ),
    *("CON", "con.txt", "nul", "COM1", "lpt9.x", "com\u00b9", "aux .x", ".hidden", "-rf", "~"),
    *("trailing.", "trailing ", "trailing. . ", " leading", "a:b", "a*b?", 'quo"te', "<dog>"),
    *("%2e%2e%2f", "x" * 150, "\u00e9" * 150, "\U0001f436" * 60, "\U0001f436", "\u5b57" * 90),
    *("\u05d0\u05d1", "e\u0301", "\u00e9", "\ufb01sh", "stra\u00dfe", "k\u0131", "\u2126"),
    *("dog.safetensors", ".bank.lock", ".cidm-1-aa.tmp", "&&", ";", "`id`", "'", "\u3000x"),
    *("a|b", "a\u0301" * 100, "~root", "$(id)", "\U0001f469\u200d\U0001f33e"),
]
REFUSED = [
    "",
    " ",
    "\n",
    "a\0b",
    "a\nb",
    "\u202egpj",
    "\x1b[0m",
    "\u200b",
    "\u200d \u200d",
    "x" * 201,
    "\ud800",
]


def test_no_name_leads_out_of_the_bank(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    bank = Bank(outside / "bank")
    stored, clashes = [], []
    for n, name in enumerate(HOSTILE):
        concept = make_concept("x", words=(f"<w{n}>",))
        object.__setattr__(concept, "name", name)
        try:
            stored.append(bank.add(concept).name)
        except BankError as error:
            clashes.append(str(error))
    assert list(bank) == stored
    assert len(stored) > 40
    assert all("already" in clash for clash in clashes)
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["bank"]
    files = [name for name in os.listdir(bank.path) if name != ".bank.lock"]
    assert len(files) == len(stored)
    for file in files:
        stem = file.removesuffix(".safetensors")
        assert not set('<>:"/\\|?*\0') & set(file)
        assert stem == stem.strip() == stem.rstrip(".")
        assert not stem.startswith(".")
        assert len(stem.encode()) <= 100
        assert stem.split(".")[0].strip().lower() not in names._DEVICES
    for name in stored:
        assert bank[name].name == name


@pytest.mark.parametrize("name", REFUSED)
def test_unreadable_names_are_refused(bank, name):
    concept = make_concept("x")
    object.__setattr__(concept, "name", name)
    with pytest.raises(BankError, match="name"):
        bank.add(concept)
    assert not bank.path.exists()


def test_a_link_out_of_the_bank_is_not_written_through(bank, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    bank.path.mkdir()
    (bank.path / "dog.safetensors").symlink_to(victim)
    (bank.path / "cat.png").symlink_to(victim)
    with pytest.raises(BankError, match="needs the file"):
        bank.add(make_concept("dog"))
    bank.add(make_concept("cat"), preview=Image.new("RGB", (8, 8)))
    bank.remove("dog")
    assert victim.read_text() == "precious"
    assert not (bank.path / "cat.png").is_symlink()


def test_a_linked_bank_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "bank").symlink_to(tmp_path / "real")
    bank = Bank(tmp_path / "bank")
    bank.add(make_concept())
    assert (tmp_path / "bank").is_symlink()
    assert list(Bank(tmp_path / "real")) == ["dog"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_umask_is_honoured(bank, mask):
    before = os.umask(mask)
    try:
        bank.add(make_concept("dog"), preview=Image.new("RGB", (8, 8)))
    finally:
        os.umask(before)
    for name in ("dog.safetensors", "dog.png"):
        assert stat.S_IMODE((bank.path / name).stat().st_mode) == 0o666 & ~mask


def test_the_folder_is_made_with_its_parents(tmp_path):
    Bank(tmp_path / "a" / "b" / "c").add(make_concept())
    assert list(Bank(tmp_path / "a/b/c")) == ["dog"]


def test_paths_may_be_text_and_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank = Bank("concepts/")
    bank.add(make_concept())
    assert bank.name == "concepts"
    assert repr(bank) == "Bank('concepts')"
    assert Bank(".").name == tmp_path.name


@pytest.mark.parametrize(
    ("words", "class_words", "expected"),
    [
        ("<dog1> <dog2>", "dog", "dog"),
        ("<dog1> <dog2>", "", "dog"),
        ("<duck_toy_1> <duck_toy_2>", "duck toy", "duck_toy"),
        ("<v1>", "cat", "v"),
        ("<asian> <cat>", "cat", "cat"),
        ("sks dog", "  brown   dog ", "brown dog"),
        ("<a> <b>", "", "a"),
        ("<1> <2>", "dog", "dog"),
        ("<1>", "", "1"),
    ],
)
def test_default_name(words, class_words, expected):
    assert default_name(words, class_words) == expected


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        ([("<pur1> <pur2>", "cat"), ("<tea1> <tea2>", "cat")], "pur and tea"),
        ([("<rex>", "dog"), ("<tom>", "cat")], "rex and tom"),
        ([("<new1>", "dog"), ("<new2>", "cat")], "dog and cat"),
        ([("<new1>", "cat"), ("<new2>", "cat")], "cat"),
        ([("<rex>", "dog"), ("", "cat")], "rex and cat"),
        ([("<a1>", "x"), ("<b1>", "y"), ("<c1>", "z")], "a, b and c"),
        ([(f"<{name}1>", "fox") for name in "abcd"], "a, b and 2 more"),
        ([("<dog1> <dog2>", "puppy")], "dog"),
        ([("", "toy cat")], "toy cat"),
    ],
)
def test_name_of_subjects(subjects, expected):
    held = [Subject(tuple(words.split()), class_words) for words, class_words in subjects]
    assert name_of_subjects(held) == expected


def test_free_name(bank):
    assert bank.free_name("dog") == "dog"
    for name in ("dog", "dog-2"):
        bank.add(make_concept(name, words=(f"<{name}>",)))
    assert bank.free_name("dog") == "dog-3"
    assert bank.free_name("cat") == "cat"
    assert bank.free_name("Dog") == "Dog-3"


def test_a_name_is_free_only_if_its_file_is(bank):
    bank.path.mkdir(exist_ok=True)
    (bank.path / "Dog.safetensors").write_bytes(b"a plain LoRA")
    (bank.path / "cat.safetensors").mkdir()
    bank.add(make_concept("a_b"))
    assert bank.free_name("dog") == "dog-2"
    assert bank.free_name("cat") == "cat-2"
    assert bank.free_name("a/b") == "a/b-2"
    for name, taken in (("dog", "Dog"), ("a/b", "a_b")):
        with pytest.raises(BankError, match=f"needs the file '{taken}.safetensors'"):
            bank.file_for(name)


def test_a_bank_of_no_folder_yet_has_every_name(tmp_path):
    assert Bank(tmp_path / "new").file_for("dog") == tmp_path / "new" / "dog.safetensors"


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    bank = Bank("~/mine")
    assert bank.path == tmp_path / "mine"
    bank.add(make_concept("dog"))
    bank.export("dog", "~/dog.safetensors")
    assert (tmp_path / "dog.safetensors").is_file()
    with pytest.raises(CidmError, match=r"'~nobody-here' is nobody's home folder"):
        Bank("~nobody-here/mine")


def test_an_export_never_goes_over_a_concept(bank, tmp_path):
    bank.add(make_concept("dog"))
    other = Bank(tmp_path / "other")
    other.add(make_concept("cat"))
    before = contents(other.path)
    with pytest.raises(BankError, match=r"is the concept 'cat'"):
        bank.export("dog", other.path / "cat.safetensors")
    assert contents(other.path) == before


def test_preview_stands_beside(tmp_path):
    assert preview_path(tmp_path / "a.b.safetensors").name == "a.b.png"
