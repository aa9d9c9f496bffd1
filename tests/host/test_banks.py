"""Bank nodes in the real host: open, look, remove, bring in and take out."""

from __future__ import annotations

import shutil

import pytest
import torch
from bank_samples import flip, make_concept
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.families import FAMILIES, PROJECTIONS


@pytest.fixture
def pets(server):
    """A bank of three concepts, one of them broken."""
    folder = server.base / "models" / "concept_banks" / "pets"
    bank = Bank(folder)
    picture = Image.new("RGB", (90, 60), (200, 120, 40))
    for name in ("dog", "cat", "duck"):
        if name not in bank and not (folder / f"{name}.safetensors").exists():
            bank.add(make_concept(name), picture)
    (folder / "duck.safetensors").write_bytes(b"no concept")
    yield bank
    shutil.rmtree(folder)


def load(bank="pets", **more):
    return {"class_type": "CIDM_LoadConceptBank", "inputs": {"bank": bank, **more}}


def info(name, bank=("1", 0)):
    return {"class_type": "CIDM_ConceptInfo", "inputs": {"bank": list(bank), "name": name}}


def text(node, slot=1):
    return {"class_type": "PreviewAny", "inputs": {"source": [node, slot]}}


def message(result):
    """What the user reads: of a rejected prompt or of a node's error."""
    if result.status == "rejected":
        errors = [e for node in result.error["node_errors"].values() for e in node["errors"]]
        return " ".join(f"{e['message']} {e['details']}" for e in errors)
    return result.error["exception_message"]


def test_a_half_broken_bank_lists_the_good_and_names_the_bad(server, pets):
    result = server.run({"1": load(), "2": text("1")})
    assert result.status == "success"
    shown = result.outputs["2"]["text"][0]
    assert "<dog-1> <dog-2>" in shown
    assert "<cat-1> <cat-2>" in shown
    assert "Not usable: duck.safetensors" in shown


def test_an_added_or_removed_concept_runs_the_node_again(server, pets):
    prompt = {"1": load(), "2": text("1")}
    server.run(prompt)
    assert server.run(prompt).said("execution_cached")[0]["nodes"]  # nothing changed
    pets.add(make_concept("fish"))
    assert "<fish-1>" in server.run(prompt).outputs["2"]["text"][0]
    pets.remove("fish")
    assert "<fish-1>" not in server.run(prompt).outputs["2"]["text"][0]


def test_the_first_concept_makes_a_new_bank_which_is_found_without_a_restart(server, pets):
    folder = server.base / "models" / "concept_banks" / "brand new"
    result = server.run({"1": load("(new bank)", new_name="brand new"), "2": text("1")})
    assert "no bank 'brand new' yet" in result.outputs["2"]["text"][0]
    assert not folder.exists()
    Bank(folder).add(make_concept("owl"))
    schema = server.get("/object_info/CIDM_LoadConceptBank")["CIDM_LoadConceptBank"]
    assert "brand new" in schema["input"]["required"]["bank"][1]["options"]
    assert server.run({"1": load("brand new"), "2": text("1")}).status == "success"


@pytest.mark.parametrize(
    ("bank", "new_name", "expected"),
    [
        ("(new bank)", "", "Write one into new_name"),
        ("pet", "", "do you mean 'pets'?"),
        ("(new bank)", "../../escaped", "A bank cannot be called"),
        ("(new bank)", "/tmp/escaped", "A bank cannot be called"),
        ("(new bank)", "con", "A bank cannot be called"),
        ("../pets", "", "There is no bank '../pets'"),
        ("pets", "other", "Two banks are named: 'pets' in bank and 'other' in new_name"),
    ],
)
def test_a_bank_that_cannot_be_is_refused_before_running(server, pets, bank, new_name, expected):
    result = server.run({"1": load(bank, new_name=new_name), "2": text("1")})
    assert result.status == "rejected"
    assert message(result).count(expected) == 1


def test_a_misspelt_bank_leaves_no_folder_and_names_the_nearest(server, pets):
    result = server.run({"1": load("(new bank)", new_name="pest"), "2": text("1")})
    assert "do you mean 'pets'?" in result.outputs["2"]["text"][0]
    assert not (pets.path.parent / "pest").exists()


def test_a_concept_shows_its_words_facts_and_picture(server, pets):
    result = server.run({"1": load(), "2": info("CAT"), "3": text("2", 1)})
    assert result.status == "success"
    assert result.outputs["3"]["text"][0] == "<cat-1> <cat-2>"
    assert "photos: 5" in result.outputs["2"]["text"][0]
    (card,) = server.pictures(result, "2")
    assert card.getpixel((144, 144)) == pytest.approx((200, 120, 40), abs=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dgo", "Do you mean 'dog'?"),
        ("<cat-3>", "Do you mean 'cat'?"),
        ("zebra", "It holds dog, cat."),
        ("duck", "duck.safetensors"),
    ],
)
def test_a_concept_that_is_not_there_is_told_with_a_hint(server, pets, name, expected):
    result = server.run({"1": load(), "2": info(name)})
    assert result.status == "error"
    assert expected in message(result)
    assert server.run({"1": load(), "2": info("dog")}).status == "success"


def test_an_empty_bank_says_what_to_do(server):
    result = server.run({"1": load("(new bank)", new_name="nothing"), "2": info("dog")})
    assert "holds no concept yet. Train or import one first" in message(result)


def remove(name, confirm):
    inputs = {"bank": ["1", 0], "name": name, "confirm": confirm}
    return {"1": load(), "2": {"class_type": "CIDM_RemoveConcept", "inputs": inputs}}


def test_nothing_is_removed_without_the_name_typed_twice(server, pets):
    result = server.run(remove("dog", "yes"))
    assert result.status == "rejected"
    assert message(result).count("Write the same name into confirm") == 1
    assert "dog" in pets


def test_a_concept_and_a_damaged_file_are_removed(server, pets):
    assert server.run(remove("dog", "dog")).status == "success"
    assert server.run(remove("duck", "duck")).status == "success"
    assert list(pets) == ["cat"]
    assert pets.broken() == ()
    again = server.run(remove("dog", "dog"))
    assert "no concept 'dog'" in message(again)


def bring(**inputs):
    given = {"bank": ["1", 0], "file": "(none)", **inputs}
    return {"1": load(), "2": {"class_type": "CIDM_ImportConcept", "inputs": given}}


def export(**inputs):
    given = {"bank": ["1", 0], "name": "dog", **inputs}
    return {"1": load(), "2": {"class_type": "CIDM_ExportConcept", "inputs": given}}


def version(name, number):
    inputs = {"bank": ["1", 0], "name": name, "number": number}
    return {"1": load(), "2": {"class_type": "CIDM_ConceptVersion", "inputs": inputs}}


def test_what_was_replaced_or_removed_is_kept_and_listed_nowhere_as_a_model(server, pets):
    pets.add(make_concept("dog", class_words="wolf"), replaces=pets.entries()[0])
    pets.remove("cat")
    result = server.run(version("dog", 1) | {"3": text("2")})
    assert result.status == "success"
    assert [row.split()[0] for row in result.outputs["3"]["text"][0].splitlines()] == [
        *("dog", "version", "1", "now")
    ]
    assert "no version 7. There are 1." in message(server.run(version("dog", 7) | {"3": text("2")}))
    for node, field in (("LoraLoader", "lora_name"), ("CIDM_ImportConcept", "file")):
        listed = server.get(f"/object_info/{node}")[node]["input"]["required"][field]
        listed = listed[1].get("options", listed[0]) if len(listed) > 1 else listed[0]
        assert [name for name in listed if "kept" in name or "/." in name] == []
        assert any(name.endswith("dog.safetensors") for name in listed)


def move(**inputs):
    given = {"bank": ["1", 0], "into": "house", "names": "", "copy": True, **inputs}
    given = {"on_conflict": "stop and tell", **given}
    return {"1": load(), "2": {"class_type": "CIDM_MoveConcepts", "inputs": given}, "3": text("2")}


def test_concepts_go_into_another_bank(server, pets):
    house = Bank(server.base / "models" / "concept_banks" / "house")
    house.add(make_concept("cat", class_words="tiger"))
    try:
        assert "1 of 2 concepts have names or words" in message(server.run(move()))
        assert list(house) == ["cat"]
        result = server.run(move(on_conflict="rename"))
        assert result.outputs["3"]["text"][0].splitlines()[1] == (
            "cat: there as 'cat-2', called by <cat-1-2> <cat-2-2>"
        )
        assert list(house) == ["cat", "dog", "cat-2"]
        assert server.run(move(names="dog", copy=False)).status == "success"
        assert list(pets) == ["cat"]
        assert "Which bank should they go into" in message(server.run(move(into=" ")))
        assert "is the bank itself" in message(server.run(move(into="pets")))
    finally:
        shutil.rmtree(house.path)


def test_a_concept_goes_out_as_a_lora_and_no_file_is_overwritten_by_accident(server, pets):
    result = server.run(export(file_name="good dog"))
    assert result.status == "success"
    written = server.base / "models" / "loras" / "good dog.safetensors"
    assert written.is_file()
    loras = server.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"]
    assert "good dog.safetensors" in str(loras)
    before = written.read_bytes()
    refused = server.run(export(file_name="good dog", name="cat"))
    assert "is there already" in message(refused)
    assert written.read_bytes() == before
    assert server.run(export(file_name="good dog", name="cat", overwrite=True)).status == "success"
    assert written.read_bytes() != before


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../b"])
def test_an_export_stays_in_its_folder(server, pets, name):
    result = server.run(export(file_name=name))
    assert result.status in ("rejected", "error")
    assert "Use letters, digits" in message(result)


def test_our_own_file_is_brought_in_under_another_name(server, pets):
    other = Bank(server.base / "input" / "from-elsewhere")
    if "owl" not in other:
        other.add(make_concept("owl"))
    result = server.run(bring(file="from-elsewhere/owl.safetensors", name="night owl"))
    assert result.status == "success"
    assert pets["night owl"].words == ("<owl-1>", "<owl-2>")


@pytest.fixture(scope="module")
def public_file(server):
    """A file as CIFC writes it, for a model of SD 1.5."""
    row, rand = FAMILIES["SD15"], torch.Generator().manual_seed(0)
    unet = {}
    for layer in row.layers:
        for projection in PROJECTIONS:
            out, into = layer.shape(projection)
            key = f"{layer.path}.{projection}.lora_"
            unet[f"{key}down.weight"] = torch.randn(2, into, generator=rand)
            unet[f"{key}up.weight"] = torch.randn(out, 2, generator=rand)
    rows = {word: torch.randn(16, 768, generator=rand) for word in ("<ann1>", "<ann2>")}
    path = server.base / "input" / "edlora_model-latest.pth"
    torch.save({"params": {"new_concept_embedding": rows, "unet": unet}}, path)
    return path


def test_a_cifc_file_is_brought_in(server, pets, public_file):
    for name in list(pets):
        pets.remove(name)
    model = {"class_type": "CheckpointLoaderSimple"}
    model["inputs"] = {"ckpt_name": "sd15-random.safetensors"}
    prompt = bring(file=public_file.name, class_words="dog", model=["3", 0]) | {"3": model}
    result = server.run(prompt)
    assert result.status == "success", result.error
    assert list(pets) == ["ann"]
    assert pets["ann"].class_words == "dog"
    assert server.run(prompt).status == "success"  # a second time changes nothing


def test_an_embedding_becomes_a_concept_without_weights(server, pets):
    for name in list(pets):
        pets.remove(name)
    folder = server.base / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}}, folder / "toy.pt")
    model = {"class_type": "CheckpointLoaderSimple"}
    model["inputs"] = {"ckpt_name": "sd15-random.safetensors"}
    result = server.run(bring(file="toy.pt", class_words="toy"))
    assert "toy.pt is a textual inversion; it does not tell its base model" in message(result)
    result = server.run(bring(file="toy.pt", class_words="toy", model=["3", 0]) | {"3": model})
    assert result.status == "success", result.error
    assert (pets["toy"].words, pets["toy"].updates) == (("<toy-1>", "<toy-2>"), {})


def test_an_unreadable_import_is_refused(server, pets):
    (server.base / "input" / "bad.pth").write_bytes(flip(b"PK" + bytes(100), 40))
    bad = {"file": "bad.pth", "class_words": "dog"}
    assert "bad.pth is damaged" in message(server.run(bring(**bad)))
    for path in ("../../secret.pth", "/etc/passwd", "no-such.pth"):
        assert "There is no file" in message(server.run(bring(file=path, class_words="dog")))
    assert "class_words" in message(server.run(bring(file="bad.pth")))
    assert server.alive
