"""Training in the real host: shown live, cancelled, resumed, leaving everything as it was."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageChops

from cidm_core.bank import Bank
from cidm_core.methods.cidm import CidmConfig
from cidm_core.pictures.masks import MaskedPhoto, masks_picture

CIFC = Path(__file__).parents[2].parent / "shared" / "data" / "cifc"
QUICK = {"resolution_px": 64, "variants": 1, "save_every": 0, "preview_every": 0}
# Settings that only the method node shows.
METHOD_ONLY = {"batch_size", "lr_lora", "orthogonality", "common_subspace"}
STEPS = 3


@pytest.fixture(scope="module")
def photos(server):
    """The input directory with sub-folders dog and cat: real photos if they are at hand."""
    for name in ("dog", "cat"):
        folder = server.base / "input" / name
        folder.mkdir(exist_ok=True)
        if (CIFC / "images" / name).is_dir():
            for path in sorted((CIFC / "images" / name).glob("*.jpg"))[:3]:
                shutil.copy(path, folder)
                caption = CIFC / "captions" / name / f"{path.stem}.txt"
                (folder / caption.name).write_text(caption.read_text())
            continue
        rng = np.random.default_rng(len(name))
        for i in range(3):
            pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((320, 240)).save(folder / f"{i}.png")
            (folder / f"{i}.txt").write_text(f"a {name} on a wall")
    return server.base / "input"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def training(bank, concept="dog", **more):
    """A prompt that learns from the photo folder; nodes "train" and "method"."""
    settings = {"rank": 4, **QUICK}
    settings = {name: more.pop(name, value) for name, value in settings.items()}
    settings |= {name: more.pop(name) for name in METHOD_ONLY & more.keys()}
    inputs = {
        "model": ["load", 0],
        "clip": ["load", 1],
        "vae": ["load", 2],
        "bank": ["bank", 0],
        "photo_folder": concept,
        "words": f"<{concept}1> <{concept}2>",
        "class_words": concept,
        "kind": "object",
        "preset": "Balanced",
        "steps": STEPS,
        "seed": 3,
        "method": ["method", 0],
        **more,
    }
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name="sd15-random.safetensors"),
        "bank": node("CIDM_LoadConceptBank", bank="(new bank)", new_name=bank),
        "method": node("CIDM_MethodCidm", **settings),
        "train": node("CIDM_TrainConcept", **inputs),
    }


def on_mini(bank, concept="dog", **more):
    """The same with mini-sd, at a quarter of the cost."""
    loader = {"load": node("CIDM_LoadMiniModel")}
    return training(bank, concept, **{"resolution_px": 32, "batch_size": 1, **more}) | loader


def bank_of(server, name):
    return Bank(server.base / "models" / "concept_banks" / name)


def log_of(bank, name):
    return [json.loads(line) for line in (bank.path / ".runs" / name / "log.jsonl").open()]


def same(a, b):
    pairs = [(p.up, b.low_rank[k].up) for k, p in a.low_rank.items()]
    pairs += [(p.down, b.low_rank[k].down) for k, p in a.low_rank.items()]
    pairs += [(rows, b.rows[k]) for k, rows in a.rows.items()]
    return all(torch.equal(x, y) for x, y in pairs)


def message(result):
    """What the user reads: of a rejected prompt or of a node's error."""
    if result.status == "rejected":
        [wrong] = result.error["node_errors"].values()
        errors = wrong["errors"]
        return " ".join(f"{error['message']} {error['details']}" for error in errors)
    assert result.error["node_id"] == "train"
    return result.error["exception_message"]


def texts(result):
    """Progress texts on the node."""
    kind = (3).to_bytes(4, "big")
    frames = [frame for frame in result.previews if frame[:4] == kind]
    return " ".join(frame[4:].decode(errors="ignore") for frame in frames)


@pytest.fixture(scope="module")
def learned(server, photos):
    """A finished training without interruption, with previews and what hangs on its outputs."""
    prompt = training("whole", preview_every=2, batch_size=1)
    prompt["graph"] = node("LossGraphNode", loss=["train", 1], filename_prefix="loss")
    prompt["curve"] = node("PreviewImage", images=["train", 2])
    prompt["save"] = node("SaveLoRA", lora=["train", 3], prefix="loras/x", steps=["train", 4])
    prompt["steps"] = node("PreviewAny", source=["train", 4])
    return prompt, server.run(prompt)


def test_a_concept_is_learned_and_shown_while_it_is(server, learned):
    _, result = learned
    assert result.status == "success", result.error
    bank = bank_of(server, "whole")
    assert [entry.words for entry in bank.entries()] == [("<dog1>", "<dog2>")]
    assert len(log_of(bank, "dog")) == STEPS
    assert f"Step {STEPS} of {STEPS}" in texts(result)
    assert "steps/s" in texts(result) or "s/step" in texts(result)
    pictures = [frame for frame in result.previews if frame[:4] == (4).to_bytes(4, "big")]
    assert len(pictures) >= 1
    said = result.outputs["train"]["text"][0]
    assert "Learned '<dog1> <dog2>'" in said
    assert "object" in said.splitlines()[-1]  # the bank as it is now
    (curve,) = server.pictures(result, "train")
    assert curve.width > 400
    # The classic canvas keeps the last preview: the same curve, below a sample.
    start = 8 + int.from_bytes(pictures[-1][4:8], "big")
    left = Image.open(io.BytesIO(pictures[-1][start:])).convert("RGB")
    small = curve.convert("RGB").resize((left.width, left.width * curve.height // curve.width))
    below = left.crop((0, left.height - small.height, *left.size))
    assert np.abs(np.asarray(below, float) - np.asarray(small, float)).mean() < 20


def test_its_outputs_feed_the_cores_nodes(server, learned):
    _, result = learned
    assert server.pictures(result, "graph")
    assert server.pictures(result, "curve")
    assert result.outputs["steps"]["text"] == [str(STEPS)]
    assert list((server.base / "output" / "loras").glob(f"x_{STEPS}_steps*.safetensors"))


def test_the_same_graph_again_repeats_nothing(server, learned):
    prompt, _ = learned
    before = bank_of(server, "whole")["dog"].created
    # The bank has changed, so the host runs the node once more; it finds its concept there.
    again = server.run(prompt)
    assert again.status == "success", again.error
    assert "not repeated" in again.outputs["train"]["text"][0]
    assert len(again.outputs["graph"]["images"]) == 1
    # After that everything comes out of the host's cache.
    assert "train" in server.run(prompt).said("execution_cached")[0]["nodes"]
    assert bank_of(server, "whole")["dog"].created == before


def test_the_same_words_again(server, photos):
    """Refused with what differs; replaced in place; gone on from once, and no further."""
    assert server.run(on_mini("again", steps=2)).status == "success"
    bank = bank_of(server, "again")
    said = message(server.run(on_mini("again", steps=3)))
    assert "The words '<dog1> <dog2>' are those of concept 'dog'" in said
    assert "What differs: steps 2, now 3." in said
    assert server.run(on_mini("again", steps=3, again="replace")).status == "success"
    assert [(e.name, e.index, e.facts["steps"]) for e in bank.entries()] == [("dog", 0, 3)]
    further = on_mini("again", steps=2, again="go_on")
    assert server.run(further).status == "success"
    held = bank["dog"]
    assert (held.facts["steps"], held.facts["earlier_steps"]) == (2, 3)
    further["after"] = node("PreviewAny", source=["train", 4])
    result = server.run(further)  # the bank has changed, so the node runs again
    assert result.status == "success"
    assert same(bank["dog"], held)
    assert "not repeated" in texts(result)


def test_cancel_keeps_the_state_and_the_same_graph_goes_on(server, photos):
    """Cancelled twice on the way, the concept is bit for bit that of an uninterrupted run."""
    steps = 20
    given = {"steps": steps}
    prompt = on_mini("broken", **given)

    def cancel_at(step):
        def watch(kind, data):
            if kind == "progress_state":
                found = data["nodes"].get("train", {})
                if found.get("max") == steps and found.get("value", 0) >= step:
                    server.interrupt()
                    server.interrupt()  # an impatient user

        return watch

    bank = bank_of(server, "broken")
    for step in (3, 6):
        result = server.run(prompt, cancel_at(step))
        assert result.status == "interrupted"
        assert "Stopped at step" in texts(result)
        assert "queue the same graph again" in texts(result)
        assert step <= len(log_of(bank, "dog")) < steps
        assert not len(bank)
    result = server.run(prompt)
    assert result.status == "success", result.error
    assert [row["step"] for row in log_of(bank, "dog")] == list(range(1, steps + 1))
    assert server.run(on_mini("smooth", **given)).status == "success"
    assert same(bank["dog"], bank_of(server, "smooth")["dog"])


def test_the_second_concept_sees_the_first(server, photos):
    """Photos and captions as lists from the core's dataset loader, this time."""
    assert server.run(on_mini("pair", steps=1)).status == "success"
    bank = bank_of(server, "pair")
    first = bank["dog"]
    terms = {"orthogonality": "subspace", "common_subspace": "closed_form"}
    lists = {"photo_folder": "", "images": ["data", 0], "captions": ["data", 1]}
    prompt = on_mini("pair", "cat", **lists, **terms)
    prompt["data"] = node("LoadImageTextDataSetFromFolder", folder="cat")
    result = server.run(prompt)
    assert result.status == "success", result.error
    assert list(bank) == ["dog", "cat"]
    assert same(bank["dog"], first)
    alone, after = log_of(bank, "dog")[0], log_of(bank, "cat")[0]
    more = set(after) - set(alone)
    assert more  # the terms of consolidation
    assert all(np.isfinite(after[name]) for name in more)


def test_the_file_loads_in_the_stock_lora_loader(server, learned, stock_prompt):
    name = "whole/dog.safetensors"
    listed = server.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"]
    options = listed[1]["options"] if isinstance(listed[0], str) else listed[0]
    assert name in options
    assert not [each for each in options if ".runs" in each]

    def draw(strength):
        prompt = stock_prompt("a dog", px=64, steps=2)
        prompt["lora"] = node(
            "LoraLoader",
            model=["load", 0],
            clip=["load", 1],
            lora_name=name,
            strength_model=strength,
            strength_clip=1.0,
        )
        prompt["sample"]["inputs"]["model"] = ["lora", 0]
        result = server.run(prompt)
        assert result.status == "success", result.error
        return server.pictures(result, "save")[0].convert("RGB")

    # A few steps hardly move the weights, so their effect is made large.
    assert ImageChops.difference(draw(0.0), draw(20.0)).getbbox()
    assert "lora key not loaded" not in server.log_text()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"words": "  "}, "No concept words"),
        ({"words": "<a> <a>"}, "repeat"),
        ({"class_words": " "}, "class_words is empty"),
        ({"photo_folder": "../models"}, "no folder '../models'"),
        ({"photo_folder": "nowhere"}, "no folder 'nowhere'"),
        ({"name": "a\nb"}, "line break"),
        ({"steps": -5}, "smaller than min"),
        ({"orthogonality": "none at all"}, "not in list"),
        ({"preset": "Fastest"}, "not in list"),
    ],
)
def test_bad_inputs_are_rejected_on_the_node(server, photos, inputs, said):
    prompt = training("rejected", **inputs)
    if not inputs.get("words", "any").strip():
        del prompt["train"]["inputs"]["method"]  # CIDM needs words; another method might not
    result = server.run(prompt)
    assert result.status == "rejected"
    assert message(result).count(said) == 1


def test_the_node_shows_a_dozen_settings_and_the_method_node_the_rest(server):
    config, main = {f.name for f in dataclasses.fields(CidmConfig)}, {"steps", "seed"}

    def widgets(name):
        listed = server.get(f"/object_info/{name}")[name]["input"]
        inputs = {**listed.get("required", {}), **listed.get("optional", {})}
        plain = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        return {k for k, v in inputs.items() if isinstance(v[0], list) or v[0] in plain}

    assert len(widgets("CIDM_TrainConcept")) <= 12
    assert widgets("CIDM_TrainConcept") & config == main
    assert widgets("CIDM_MethodCidm") == config - main


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"photo_folder": ""}, "no photos to learn from"),
        ({"images": ["picture", 0]}, "Both images"),
        ({"captions": "one\ntwo"}, "3 photos and 2 captions"),
        ({"class_words": "zebra"}, "missing from every caption"),
        ({"photo_folder": "", "images": ["picture", 0], "masks": ["mask", 0]}, "black everywhere"),
        ({"resolution_px": 60}, "multiple of its latent cell of 8 px. Use 56"),
        ({"lr_lora": -0.5}, "lr_lora is -0.5; allowed is 0.0 to 1.0"),
        ({"words": "<dog1> <puppy>", "new": "whole"}, "<dog1>"),
    ],
)
def test_what_only_a_run_can_tell_is_told_on_the_node(server, learned, photos, inputs, said):
    prompt = training(inputs.pop("new", "told"), **inputs)
    prompt["picture"] = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
    prompt["mask"] = node("SolidMask", value=0.0, width=64, height=64)
    result = server.run(prompt)
    assert result.status == "error"
    assert said in message(result)
    assert server.alive


def test_masks_are_shown_before_learning(server, photos):
    given = {"photo_folder": "", "images": ["picture", 0], "masks": ["mask", 0], "steps": 1}
    prompt = on_mini("masked", **given)
    prompt["picture"] = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
    prompt["mask"] = node("SolidMask", value=0.5, width=64, height=64)
    prompt["look"] = node("PreviewImage", images=["train", 5])
    result = server.run(prompt)
    assert result.status == "success", result.error
    first = next(frame for frame in result.previews if frame[:4] == (4).to_bytes(4, "big"))
    start = 8 + int.from_bytes(first[4:8], "big")
    shown = Image.open(io.BytesIO(first[start:]))
    sheet = masks_picture([MaskedPhoto("", Image.new("RGB", (64, 64)), None)])
    assert shown.height / shown.width == pytest.approx(sheet.height / sheet.width, abs=0.02)
    assert [each.size for each in server.pictures(result, "look")] == [sheet.size]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a <dgo1> <dog2>", "In 'Beach': No concept has the word '<dgo1>'"),
        ("a <dog1> <dog2>, a <cat1> <cat2>, (3 < 4:1.2)", None),  # also the next training's words
    ],
)
def test_a_misspelt_prompt_is_found_before_learning(server, photos, prompt, said):
    graph = training("spelling", resolution_px=32) | {
        "load": node("CIDM_LoadMiniModel"),
        "apply": node(
            "CIDM_ApplyConceptBank", model=["load", 0], clip=["load", 1], bank=["train", 0]
        ),
        "text": node("CLIPTextEncode", clip=["apply", 1], text=prompt),
        "look": node("PreviewAny", source=["text", 0]),
    }
    graph["text"]["_meta"] = {"title": "Beach"}
    if "<cat1>" in prompt:
        graph["second"] = training("spelling", "cat")["train"]
        graph["second"]["inputs"]["bank"] = ["train", 0]
        graph["apply"]["inputs"]["bank"] = ["second", 0]
    result = server.run(graph)
    if said is None:
        assert result.status == "success", result.error
        return
    assert said in message(result)
    assert result.error["exception_type"] == "cidm_core.errors.PromptError"
    assert "Step" not in texts(result)
    assert not len(bank_of(server, "spelling"))


def test_two_trainings_of_one_concept_at_once(server, photos):
    """The other one is this process, which holds the lock of the run."""
    folder = server.base / "models" / "concept_banks" / "busy" / ".runs" / "dog"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        result = server.run(on_mini("busy"))
    assert result.status == "error"
    assert "Another program is learning 'dog' in this bank just now. Wait" in message(result)
    assert server.run(on_mini("busy")).status == "success"


@pytest.fixture(scope="module")
def found(in_host, small_checkpoint):
    """What `inside/training.py` saw."""
    return in_host(Path(__file__).parent / "inside" / "training.py", small_checkpoint)


def test_words_that_only_an_imported_file_knows_are_not_called_wrong(found):
    unread, known = found["ahead"]
    assert unread is None
    assert "<fox>" in known


def test_afterwards_the_host_is_as_before(found):
    assert found["same_weights"]
    assert found["patches"] == 0
    assert found["bytes_after"] == found["bytes_before"]
    assert found["rss_mb"][1] - found["rss_mb"][0] < 40
    assert found["models_after"] == 0
    assert found["modes"] == [True, False]  # inference mode as before, no gradients
    assert found["same_generator"]


def test_a_lora_on_the_sockets_is_left_out(found):
    assert found["lora_left_out"]


def test_a_run_that_ends_early_leaves_no_memory_taken_and_the_bank_whole(found):
    assert found["ended"] == ["TrainingError", "InterruptProcessingException", "BankError"]
    assert found["flag_cleared"]
    assert "full" in found["disk"]
    assert found["bytes_after_failing"] < 2**20
    assert found["concepts"] == 0
    assert found["concepts_in_the_end"] == ["dog"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("scales", "quantised, with scales"),
        ("integers", "quantised (a.weight: torch.int8)"),
        ("inpainting", "an inpainting model"),
        ("no VAE", "HostError: There is no VAE: the checkpoint has none. Load one with Load VAE"),
        ("no CLIP", "HostError: There is no CLIP: this checkpoint has no text encoder."),
        ("v taken for noise", "marked.safetensors says that its model predicts v"),
    ],
)
def test_what_cannot_be_learned_on_is_named(found, kind, said):
    assert said in found["refused"][kind]


def test_a_model_that_predicts_v_is_learned_on_as_such(found):
    assert found["v"] == ["v_prediction", "trailing", "marked"]
    assert found["expected"]


def test_other_vaes_and_mini_sd_are_learned_on(found):
    assert found["plain_8_bits"] == "accepted"
    assert found["taesd"] == [[1, 4, 8, 8], [1, 3, 64, 64]]
    assert max(found["mini"]) < 1e-5
    assert found["mini_same"] == [True, "MINI", True]


def test_photos_without_masks_are_told_of_on_the_node(found):
    assert "2 of 2 photos have no mask: all that is in them is learned" in found["unmasked"]
