"""What the tab *Concepts* asks the server for: banks, concepts, pictures, files and changes."""

from __future__ import annotations

import io
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from bank_samples import flip, make_concept
from PIL import Image
from server import PACK, ROOT

from cidm_core.bank import Bank
from cidm_core.storage.concept_file import concept_to_bytes

BYTES = "application/octet-stream"
ODD = ["colour/style", 'x" onerror="alert(1)', "<b>王</b> 🐕", "..", "a&b=c#d%2e", "con", "🐕" * 40]
HOSTILE = [
    *("../pets", "..", ".", "/etc/passwd", "C:\\Windows", "..\\pets", "pets\0", "%2e%2e%2fpets"),
    *(".trash", ".versions", ".thumbs", "pets/", "pets/dog", "pets" * 2000, ""),
    *("\uff50ets", "\uff0e\uff0e", "pets\n", "$(id)", "~", "NUL", "\u202epets"),
]


def asked(server, route, fields=None, data=None, **headers):
    """Status, headers and body of a request; with data a POST."""
    address = f"{server.url}/api/cidm/{route}"
    if fields:
        address += "?" + urllib.parse.urlencode(fields)
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


class Gallery:
    """A bank of the server as the page sees it."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        self.bank = Bank(server.base / "models" / "concept_banks" / name)

    def look(self, route, **fields):
        status, _, body = asked(self.server, route, {"bank": self.name, **fields})
        return status, json.loads(body)

    def concepts(self):
        status, told = self.look("concepts")
        assert status == 200, told
        return {each["name"]: each for each in told["concepts"]}

    def change(self, route, **fields):
        return self.server.post(f"/api/cidm/{route}", {"bank": self.name, **fields})

    def seen(self, name):
        return {"name": name, "stamp": self.concepts()[name]["stamp"]}

    def send(self, route, data, **fields):
        given = {"bank": self.name, **fields}
        status, _, body = asked(self.server, route, given, data, **{"Content-Type": BYTES})
        return status, json.loads(body)

    def picture(self, **fields):
        status, headers, body = asked(self.server, "picture", {"bank": self.name, **fields})
        return Image.open(io.BytesIO(body)) if status == 200 else (status, headers, body)


def plain(colour, size=(90, 60)):
    return Image.new("RGB", size, colour)


def png(picture):
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def pets(server, tmp_path_factory):
    """A bank with a dog and a cat, and nothing beside it that a name could reach."""
    gallery = Gallery(server, f"pets {tmp_path_factory.mktemp('x').name}")
    gallery.bank.add(make_concept("dog"), plain((200, 0, 0)))
    gallery.bank.add(make_concept("cat"), plain((0, 200, 0)))
    return gallery


def files(server):
    """Everything below the bank folders but what the server itself makes."""
    root = server.base / "models" / "concept_banks"
    found = (path for path in root.rglob("*") if path.is_file())
    kept = (path for path in found if ".thumbs" not in path.parts and ".lock" not in path.suffix)
    return {str(path): path.read_bytes() for path in kept}


def test_banks_and_concepts_are_listed(server, pets):
    assert pets.name in server.get("/cidm/banks")["banks"]
    dog = pets.concepts()["dog"]
    assert list(pets.concepts()) == ["dog", "cat"]
    assert dog["words"] == ["<dog-1> <dog-2>"]
    assert (dog["class_words"], dog["kind"], dog["method"]) == ("dog", "object", "cidm")
    assert (dog["family"], dog["steps"], dog["order"]) == ("SD15", 800, 0)
    assert dog["bytes"] == (pets.bank.path / "dog.safetensors").stat().st_size


def test_a_damaged_file_is_listed_with_its_reason_and_can_be_removed(pets):
    path = pets.bank.path / "duck.safetensors"
    path.write_bytes(b"no concept")
    _, told = pets.look("concepts")
    (duck,) = told["broken"]
    assert duck["name"] == "duck"
    assert "duck.safetensors" in duck["error"]
    assert pets.look("concept", name="duck")[0] == 404
    assert pets.change("remove", name="duck", stamp=duck["stamp"])[0] == 200
    assert not path.exists()
    assert pets.look("concepts")[1]["broken"] == []


def test_one_concept_is_told_with_settings_and_losses(pets):
    losses = [[1, 0.3], [2, 0.2], ["x", 1], [3, float("nan")], [4, 10**400], "odd", [1, 2, 3]]
    pets.bank.add(make_concept("owl", facts={"photos": 4, "steps": 20, "losses": losses}))
    status, owl = pets.look("concept", name="owl")
    assert status == 200
    assert owl["losses"] == [[1, 0.3], [2, 0.2]]
    assert owl["facts"] == {"photos": "4"}
    assert owl["settings"]["lr_lora"] == "0.0001"
    assert (owl["steps"], owl["layers"], owl["rank"], owl["versions"]) == (20, 2, 2, [])


def test_pictures_are_small_and_may_be_kept_by_the_browser(server, pets):
    Image.new("RGB", (900, 600), (0, 0, 200)).save(pets.bank.path / "cat.png")
    assert pets.picture(name="cat").size == (256, 171)
    assert pets.picture(name="cat", large=1).size == (512, 341)
    _, headers, _ = asked(server, "picture", {"bank": pets.name, "name": "dog"})
    assert "immutable" in headers["Cache-Control"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Type"] == "image/png"


def test_a_concept_without_a_picture_or_with_a_damaged_one(pets):
    pets.bank.add(make_concept("owl"))
    assert pets.concepts()["owl"]["picture"] is None
    (pets.bank.path / "cat.png").write_text("<script>alert(1)</script>")
    for name in ("owl", "cat"):
        status, _, body = pets.picture(name=name)
        assert status == 404
        assert f"{name}.png" in json.loads(body)["error"]


def test_thumbnails_are_in_no_list_of_models(server, pets):
    pets.picture(name="dog")
    assert list((pets.bank.path / ".thumbs").iterdir())
    listed = [server.get(f"/models/{kind}") for kind in ("loras", "concept_banks")]
    assert [f"{pets.name}/dog.safetensors" in each for each in listed] == [True, True]
    assert not [name for each in listed for name in each if ".thumbs" in name]


def test_a_concept_goes_out_as_its_file_and_as_a_lora(server, pets):
    from safetensors.torch import load

    fields = {"bank": pets.name, "name": "dog"}
    status, headers, whole = asked(server, "file", fields | {"as": "concept"})
    assert status == 200
    assert headers["Content-Disposition"] == "attachment"
    assert whole == (pets.bank.path / "dog.safetensors").read_bytes()
    status, _, lora = asked(server, "file", fields | {"as": "lora"})
    assert status == 200
    assert not [key for key in load(lora) if "cidm" in key]
    path = pets.bank.path / "dog.safetensors"
    path.write_bytes(flip(whole, 8 * len(whole) - 4))
    status, _, body = asked(server, "file", fields | {"as": "lora"})
    assert status == 400
    assert "dog.safetensors" in json.loads(body)["error"]


def test_a_new_name_and_back(pets):
    status, told = pets.change("rename", **pets.seen("dog"), to=" Rex ")
    assert (status, told) == (200, {"name": "Rex"})
    assert list(pets.concepts()) == ["Rex", "cat"]
    assert pets.picture(name="Rex").getpixel((9, 9)) == (200, 0, 0)
    status, told = pets.change("rename", **pets.seen("Rex"), to="cat")
    assert status == 400
    assert "cat" in told["error"]
    assert list(pets.concepts()) == ["Rex", "cat"]


@pytest.mark.parametrize("name", ODD)
def test_names_of_every_kind_live_in_the_bank(pets, server, name):
    before = set(files(server))
    status, told = pets.change("rename", **pets.seen("dog"), to=name)
    assert status == 200, told
    assert name in pets.concepts()
    assert pets.look("concept", name=name)[1]["name"] == name
    assert pets.picture(name=name).size == (90, 60)
    assert asked(server, "file", {"bank": pets.name, "name": name})[0] == 200
    assert pets.change("remove", **pets.seen(name))[0] == 200
    outside = [path for path in set(files(server)) - before if str(pets.bank.path) not in path]
    assert not outside


def test_what_was_removed_comes_back_with_its_picture(pets):
    before = files(pets.server)
    status, told = pets.change("remove", **pets.seen("dog"))
    assert status == 200
    assert list(pets.concepts()) == ["cat"]
    (removed,) = pets.look("removed")[1]["removed"]
    assert (removed["name"], removed["number"], removed["what"]) == (
        "dog",
        told["removed"],
        "concept",
    )
    assert pets.picture(removed=told["removed"]).getpixel((9, 9)) == (200, 0, 0)
    assert pets.change("restore", number=told["removed"]) == (200, {"name": "dog"})
    assert before.items() <= files(pets.server).items()
    status, told = pets.change("restore", number=told["removed"])
    assert status == 400
    assert "nothing of number" in told["error"]


def test_the_trash_is_emptied(pets):
    pets.change("remove", **pets.seen("dog"))
    assert pets.change("empty") == (200, {"count": 1})
    assert pets.look("removed")[1] == {"removed": []}


def test_a_file_takes_the_place_of_a_concept_and_the_former_one_is_a_version(pets):
    other = concept_to_bytes(make_concept("hound", ("<dog-1>", "<dog-2>"), facts={"steps": 5}))
    status, told = pets.send("replace", other, **pets.seen("dog"))
    assert status == 200, told
    dog = pets.look("concept", name="dog")[1]
    (former,) = dog["versions"]
    assert (dog["steps"], former["steps"], former["number"]) == (5, 800, told["former"])
    assert pets.picture(name="dog", version=told["former"]).getpixel((9, 9)) == (200, 0, 0)
    status, back = pets.change("go_back", **pets.seen("dog"), number=told["former"])
    assert status == 200
    dog = pets.look("concept", name="dog")[1]
    (former,) = dog["versions"]
    assert (dog["steps"], former["steps"], former["number"]) == (800, 5, back["former"])
    status, gone = pets.change("remove_version", **pets.seen("dog"), number=former["number"])
    assert status == 200
    assert pets.look("concept", name="dog")[1]["versions"] == []
    assert pets.change("restore", number=gone["removed"])[0] == 200
    assert len(pets.look("concept", name="dog")[1]["versions"]) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "The chosen file"),
        (b"no concept", "The chosen file"),
        (concept_to_bytes(make_concept("hound", ("<cat-1>", "<cat-2>"))), "<cat-1>"),
    ],
)
def test_a_file_that_cannot_take_the_place_changes_nothing(pets, data, said):
    before = files(pets.server)
    status, told = pets.send("replace", data, **pets.seen("dog"))
    assert status == 400
    assert said in told["error"]
    assert files(pets.server) == before


def test_a_new_picture(pets):
    status, told = pets.send("preview", png(plain((0, 0, 200), (1000, 500))), **pets.seen("dog"))
    assert (status, told) == (200, {})
    assert pets.picture(name="dog", large=1).size == (512, 256)
    before = files(pets.server)
    status, told = pets.send("preview", b"<svg onload='x'>", **pets.seen("dog"))
    assert status == 400
    assert "The picture is no PNG, JPEG or WebP" in told["error"]
    assert files(pets.server) == before


@pytest.mark.parametrize(
    ("route", "more"),
    [
        ("rename", {"to": "rex"}),
        ("remove", {}),
        ("go_back", {"number": 1}),
        ("remove_version", {"number": 1}),
    ],
)
def test_what_another_page_has_changed_stays_as_it_is(pets, route, more):
    old = pets.seen("dog")
    pets.send("preview", png(plain((0, 0, 200))), **pets.seen("dog"))
    before = files(pets.server)
    status, told = pets.change(route, **old, **more)
    assert status == 409
    assert "'dog' was changed meanwhile" in told["error"]
    assert files(pets.server) == before
    for sent in ("preview", "replace"):
        assert pets.send(sent, png(plain((1, 1, 1))), **old)[0] == 409
    assert files(pets.server) == before


def test_every_change_is_told_to_the_pages_that_are_open(pets, server):
    with server.listen("another") as messages:
        assert pets.change("remove", **pets.seen("dog"))[0] == 200
        heard = [json.loads(messages.recv()) for _ in range(3)]
    assert {"bank": pets.name} in [each["data"] for each in heard if "cidm" in each["type"]]


def test_a_folder_that_cannot_be_written_is_told_and_looked_at_all_the_same(pets):
    (pets.bank.path / ".bank.lock").unlink()
    (pets.bank.path / ".bank.lock").mkdir()  # whoever runs this may be allowed everything
    (pets.bank.path / ".thumbs").write_text("in the way")
    before = files(pets.server)
    for route, more in (("remove", {}), ("rename", {"to": "rex"})):
        status, told = pets.change(route, **pets.seen("dog"), **more)
        assert status == 400
        assert "Could not write" in told["error"]
    assert pets.send("preview", png(plain((1, 1, 1))), **pets.seen("dog"))[0] == 400
    assert files(pets.server) == before
    assert pets.picture(name="dog").size == (90, 60)


LOOKS = ("concepts", "concept", "removed", "picture", "file")
CHANGES = ("rename", "remove", "restore", "empty", "go_back", "remove_version")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_bank_leads_anywhere(server, pets, name):
    (server.base / "models" / "dog.safetensors").write_bytes(b"not yours")
    before = files(server)
    given = {"bank": name, "name": "dog", "stamp": "x", "to": "rex", "version": "1"}
    for route in LOOKS:
        status, _, body = asked(server, route, given)
        assert status in (400, 404), (route, body)
        assert json.loads(body)["error"]
    for route in CHANGES:
        status, told = server.post(f"/cidm/{route}", given | {"number": 1})
        assert status in (400, 404), (route, told)
        assert told["error"]
    for route in ("preview", "replace"):
        data = png(plain((1, 1, 1)))
        assert asked(server, route, given, data, **{"Content-Type": BYTES})[0] in (400, 404)
    assert files(server) == before


@pytest.mark.parametrize("name", [*HOSTILE, "../" + "x" * 300, "dog.safetensors", ".bank.lock"])
def test_no_name_of_a_concept_leads_anywhere(server, pets, name):
    pets.change("remove", **pets.seen("cat"))
    before = files(server)
    for fields in ({"name": name}, {"name": "dog", "version": name}, {"removed": name}):
        status, _, body = asked(server, "picture", {"bank": pets.name, **fields})
        if name or "name" not in fields:
            assert status in (400, 404), (fields, body)
    for route in ("concept", "file"):
        assert asked(server, route, {"bank": pets.name, "name": name})[0] in (400, 404)
    stamp = pets.seen("dog")["stamp"]
    for route in ("rename", "remove", "go_back", "remove_version"):
        status, told = pets.change(route, name=name, stamp=stamp, to="rex", number=1)
        assert status in (400, 404, 409), (route, told)
    for route in ("restore", "go_back", "remove_version"):
        status, told = pets.change(route, name="dog", stamp=stamp, number=name)
        assert status == 400, (route, told)
    for route in ("preview", "replace"):
        assert pets.send(route, png(plain((1, 1, 1))), name=name, stamp=stamp)[0] in (400, 404)
    assert files(server) == before


@pytest.mark.parametrize("number", [0, -1, 10**30, 1.5, True, None, "1", [1], {}])
def test_numbers_of_every_kind(pets, number):
    before = files(pets.server)
    for route in ("restore", "go_back", "remove_version"):
        assert pets.change(route, **pets.seen("dog"), number=number)[0] == 400, route
    assert files(pets.server) == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"bank": 3}',
        b'{"bank": ["x"]}',
        pytest.param(b"[" * 9999, id="deep"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=of-none"])
def test_a_request_that_is_none(server, body, kind):
    for route in CHANGES:
        status, _, told = asked(server, route, {}, body, **{"Content-Type": kind})
        assert status == 400, route
        assert json.loads(told)["error"]


def test_looking_changes_nothing_and_changes_are_no_gets(server, pets):
    before = files(server)
    for route in (*CHANGES, "preview", "replace"):
        given = {"bank": pets.name, **pets.seen("dog"), "to": "rex", "number": 1}
        assert asked(server, route, given)[0] in (404, 405), route
    for route in LOOKS:
        given = {"bank": pets.name, "name": "dog"}
        assert asked(server, route, given)[0] == 200
        assert asked(server, route, given, b"{}", **{"Content-Type": "application/json"})[0] == 405
    assert files(server) == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_of_another_site_can_send_is_refused(server, pets, kind):
    before = files(server)
    body = json.dumps({"bank": pets.name, **pets.seen("dog")}).encode()
    for route in (*CHANGES, "preview", "replace"):
        given = {"bank": pets.name, **pets.seen("dog")}
        assert asked(server, route, given, body, **{"Content-Type": kind})[0] == 415, route
    assert files(server) == before


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}]
)
def test_another_site_is_refused_by_the_host(server, pets, headers):
    before = files(server)
    body = json.dumps({"bank": pets.name, **pets.seen("dog")}).encode()
    kind = {"Content-Type": "application/json"}
    assert asked(server, "remove", {}, body, **kind, **headers)[0] == 403
    assert asked(server, "concepts", {"bank": pets.name}, **headers)[0] == 403
    assert files(server) == before


def test_many_pages_remove_one_concept_once(pets):
    given = pets.seen("dog")
    with ThreadPoolExecutor(8) as hands:
        done = list(hands.map(lambda _: pets.change("remove", **given)[0], range(8)))
    assert sorted(done)[0] == 200
    assert set(sorted(done)[1:]) <= {404, 409}
    assert len(pets.look("removed")[1]["removed"]) == 1


def test_both_languages_have_the_same_texts():
    english, chinese = (
        json.loads((ROOT / "web" / "concepts" / f"{name}.json").read_text("utf-8"))
        for name in ("en", "zh")
    )
    assert list(english) == list(chinese) == sorted(english)
    for key, text in english.items():
        assert {*_filled(text)} == {*_filled(chinese[key])}, key
    code = (ROOT / "web" / "concepts.js").read_text("utf-8")
    # Labels of facts are found by the facts' own names.
    used = [key.removeprefix("sort_") for key in english if not key.startswith("fact_")]
    assert not [key for key in used if not re.search(rf"\b{key}\b", code)]


def _filled(text):
    return re.findall(r"\{\w+\}", text)


def test_the_page_is_served_and_holds_nothing_the_scan_flags(server):
    code = server.raw(f"/extensions/{PACK}/concepts.js").decode()
    for banned in ("eval(", "exec(", ".bind(", ".connect(", "innerHTML", "http://", "Function("):
        assert banned not in code.replace("http://www.w3.org/2000/svg", "")
    assert server.raw(f"/extensions/{PACK}/concepts.css")
    assert len(code.splitlines()) <= 600
