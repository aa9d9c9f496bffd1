"""What the pack adds to ComfyUI: nodes, their texts, templates, locales, help pages."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from server import PACK, ROOT

# Workflows name these; an id never changes and never goes.
IDS = {
    f"CIDM_{name}"
    for name in (
        "ApplyConceptBank",
        "BakeConcepts",
        "CompressConcept",
        "ConceptInfo",
        "ConceptRegion",
        "ConceptRegions",
        "ConceptStrengths",
        "ConceptVersion",
        "EvaluateConcepts",
        "ExportConcept",
        "ImportConcept",
        "LoadConceptBank",
        "LoadMiniModel",
        "MeasureOverFitting",
        "MergeConcepts",
        "MethodCidm",
        "MethodClif",
        "MethodCustomDiffusion",
        "MethodInfusion",
        "MiniPhotos",
        "MoveConcepts",
        "PhotosAndCaptions",
        "RegionalNoiseGuider",
        "RemoveConcept",
        "ShowConceptWeights",
        "Subject",
        "TrainConcept",
        "TrainingEstimate",
        "WordContrast",
    )
}
LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def described(server):
    """object_info of our nodes."""
    everything = server.get("/object_info")
    return {name: info for name, info in everything.items() if name.startswith("CIDM_")}


@pytest.fixture(scope="module")
def loaded(in_host):
    """What an in-process load of the pack from a folder with an odd name found."""
    return in_host(Path(__file__).parent / "inside" / "load_pack.py", ROOT)


def inputs_of(info):
    """(name, options) of every input, those inside growing and combined inputs too."""
    for kind in ("required", "optional"):
        for name, (_, *options) in info.get(kind, {}).items():
            found = options[0] if options else {}
            yield name, found
            for option in found.get("options") or ():
                if isinstance(option, dict) and "inputs" in option:
                    yield from inputs_of(option["inputs"])
            if "template" in found:
                yield from inputs_of(found["template"]["input"])


def test_the_log_is_silent_about_the_pack(server):
    lines = server.log_text().splitlines()
    bad = [
        line for line in lines if PACK in line and ("WARNING" in line or "IMPORT FAILED" in line)
    ]
    assert not bad


def test_all_nodes_are_there(described):
    assert set(described) == IDS


def test_every_node_says_what_it_is(described):
    for name, info in described.items():
        assert info["category"].startswith("CIDM"), name
        assert info["python_module"] == f"custom_nodes.{PACK}", name
        assert info["description"].strip(), name
        assert info["display_name"].strip(), name
        assert info["search_aliases"], name


@pytest.mark.parametrize(
    "word",
    [
        *("regional lora", "attention couple", "custom diffusion", "likeness", "style"),
        *("character", "photos", "mini", "overfitting", "caption", "dataset"),
    ],
)
def test_what_people_type_finds_a_node(described, word):
    texts = [[info["display_name"], *info["search_aliases"]] for info in described.values()]
    assert any(word in text.lower() for each in texts for text in each)


def test_every_input_and_output_has_a_tooltip(described):
    bare = [
        f"{name}.{field}"
        for name, info in described.items()
        for field, options in inputs_of(info["input"])
        if not (options.get("tooltip") or "").strip()
    ]
    for name, info in described.items():
        tooltips = info.get("output_tooltips") or [None] * len(info["output"])
        outputs = zip(info["output_name"], tooltips, strict=True)
        bare += [f"{name} -> {field}" for field, tooltip in outputs if not (tooltip or "").strip()]
    assert not bare


def test_templates_are_listed_and_served(server):
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert names
    assert set(server.get("/api/workflow_templates")[PACK]) == names
    for name in names:
        address = f"/api/workflow_templates/{PACK}/{quote(name)}"
        assert json.loads(server.raw(f"{address}.json"))["nodes"]
        assert server.raw(f"{address}.jpg")[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("language", LANGUAGES)
def test_locales_name_every_node_and_input(server, described, language):
    texts = server.get("/api/i18n")[language]["nodeDefs"]
    for name, info in described.items():
        assert texts[name]["display_name"], name
        fields = {
            field for kind in ("required", "optional") for field in info["input"].get(kind, {})
        }
        lacking = fields - set(texts[name].get("inputs", {}))
        assert not lacking, f"{language}: {name} lacks {sorted(lacking)}"
        for field, text in texts[name].get("inputs", {}).items():
            assert field in fields, f"{language}: {name} has no input {field}"
            assert text["name"], f"{language}: {name}.{field}"
            assert text["tooltip"], f"{language}: {name}.{field}"


@pytest.mark.parametrize("name", sorted(IDS))
def test_every_node_has_a_help_page(server, name):
    page = server.raw(f"/extensions/{PACK}/docs/{name}.md").decode()
    assert page.startswith("#")
    assert len(page) > 300


def test_bank_folder_is_registered(server, base):
    assert "concept_banks" in [folder["name"] for folder in server.get("/experiment/models")]
    assert (base / "models" / "concept_banks").is_dir()


def test_the_pack_loads_from_a_folder_of_any_name(loaded):
    assert set(loaded["ids"]) == IDS


def test_loading_the_pack_imports_nothing_heavy(loaded):
    assert not loaded["heavy"]
