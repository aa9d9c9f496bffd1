"""CLIF in ComfyUI: numbers of the other host, a CLIP of the host's, cancelling, refusals."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "contrast.py"
STAGES = ["contrast"] * 4 + ["words"] * 2 + ["weights"] * 2


@pytest.fixture(scope="module")
def found(in_host, small_checkpoint, tmp_path_factory):
    return in_host(SCRIPT, small_checkpoint, tmp_path_factory.mktemp("contrast"))


def test_two_look_alikes_are_learned_with_all_sockets_open(found):
    mini = found["mini"]
    assert mini["text"].startswith("Learned '<pur1> <pur2> and <tea1> <tea2>' as 'pur and tea'")
    assert mini["stages"] == STAGES
    assert mini["one"].startswith("Learned '<pur1> <pur2>'")


def test_no_steps_on_the_node_are_those_of_the_method(found):
    assert found["mini"]["asked"] == {}


def test_both_hosts_learn_the_same(found):
    # Adam makes whole steps of the smallest gradients too, and the VAE is the host's own.
    assert found["mini"]["apart"] < 2e-3


def test_masks_then_composites_then_the_loss_are_shown(found):
    masks, composites, *losses = found["mini"]["pictures"]
    assert composites[0] > 900  # five composites beside each other
    assert composites != masks
    assert losses
    assert any(text.startswith("Composite ") for text in found["mini"]["said"])
    assert any(" of 8 (weights)" in text for text in found["mini"]["said"])


def test_a_second_run_finds_it_learned_and_an_open_node_changes_nothing(found):
    assert "not repeated" in found["mini"]["again"]
    assert "not repeated" in found["mini"]["open node"]


def test_cancelled_in_the_contrast_it_goes_on_to_the_same_bits(found):
    mini = found["mini"]
    assert mini["ended"].startswith("InterruptProcessingException")
    assert mini["kept"] == 2
    assert mini["went on"]


def test_features_are_those_of_transformers(found):
    features = found["clip"]["features"]
    assert features["texts"] < 1e-5
    assert features["pictures"] < 1e-5
    assert features["scale"] == pytest.approx(100, abs=0.1)
    assert features["name"]  # as the other host calls this CLIP


def test_learned_with_a_clip_that_leaves_the_memory_again(found):
    clip = found["clip"]
    assert clip["learned"].startswith("Learned '<pur1> <pur2> and <tea1> <tea2>'")
    assert clip["stages"] == STAGES
    assert clip["finite"]
    assert clip["eye left"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no clip", "clip is not connected. It needs the text projection"),
        ("no vision", "clip_vision is not connected."),
        ("checkpoint's", "This CLIP has no text projection. It needs"),
        ("two models", "texts have 768 features and pictures 32."),
        ("numbers", "There are 2 things, 2 masks and 1 names."),
        ("masks", "There are 2 things, 0 masks and 2 names."),
        ("blank", "Thing 'stool': Mask in memory is black everywhere."),
        ("whole", "The mask of 'chef' leaves nothing of it, or all."),
        ("nameless", "'2' does not say what it is of."),
        ("both", "Both things (2) and the folder 'things' are given."),
        ("empty folder", "holds no common thing."),
        ("open", "in ComfyUI by Word Contrast"),
        ("no things", "Composites need common things that stand beside the subjects."),
        ("other width", "This CLIP reads texts of width 768"),
        ("bare", "there is no mask of photo 1"),
    ],
)
def test_what_is_wrong_is_said(found, case, said):
    assert said in found["clip"]["wrong"][case]


def test_the_schema_in_a_running_host(server):
    schema = server.get("/object_info/CIDM_WordContrast")["CIDM_WordContrast"]
    assert not schema["input"].get("required")
    assert schema["output"] == ["CIDM_CONTRAST"]
    train = server.get("/object_info/CIDM_TrainConcept")["CIDM_TrainConcept"]
    assert train["input"]["optional"]["contrast"][0] == "CIDM_CONTRAST"
