"""The command line, run in this process on a tiny model; a few runs in a process of their own."""

import argparse
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make import random_concept
from PIL import Image
from safetensors.torch import save_file

import cidm_core
from cidm_core.bank import Bank
from cidm_core.cli import FAILED, INTERRUPTED, OK, build_parser, main
from cidm_core.commands import flags
from cidm_core.commands.console import Console
from cidm_core.commands.flags import own_device
from cidm_core.commands.progress_bar import ProgressBar
from cidm_core.commands.request import read_request
from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import pipeline
from cidm_core.errors import CidmError
from cidm_core.families import FAMILIES
from cidm_core.methods.cidm import CidmConfig
from cidm_core.regions import Region
from cidm_core.training.progress import Progress, details, duration

ROOT = Path(__file__).parents[2]
VERBS = ("demo", "data", "train", "generate", "bank", "evaluate")
TRAIN = ("train", "--bank", "b", "--photos", "p", "--words", "w", "--class-words", "c")
SMALL = ("--steps", "2", "--width", "64", "--height", "64")


@pytest.fixture(scope="module")
def bank(tiny_base, tmp_path_factory):
    """Two concepts of random weights; tests only read it."""
    found = Bank(tmp_path_factory.mktemp("banks") / "bank")
    found.add(random_concept(tiny_base, "<dog1> <dog2>", 1, class_words="dog", name="dog"))
    found.add(random_concept(tiny_base, "<ink1>", 2, class_words="ink", kind="style", name="ink"))
    return found


@pytest.fixture
def photos(tmp_path):
    return photos_in(tmp_path / "photos")


def photos_in(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a photo of a dog on grass")
    return folder


def result(capsys):
    """The JSON object on standard output."""
    return json.loads(capsys.readouterr().out)


def python(code_or_flags, **options):
    return subprocess.run(
        [sys.executable, *code_or_flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


# --- parsing -------------------------------------------------------------------------------------


def test_parsing_and_the_public_names_load_nothing_heavy():
    code = """
import sys, cidm_core
from cidm_core.cli import build_parser
build_parser().format_help()
cidm_core.TrainConfig(steps=3), cidm_core.CidmError
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    done = python(["-c", code])
    assert done.returncode == 0, done.stderr


def test_threads_are_told_not_to_spin_before_torch_is_there():
    code = """
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
from cidm_core.cli import main
try:
    main(["--version"])
except SystemExit:
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "torch" not in sys.modules
"""
    done = python(["-c", code])
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    for name in cidm_core.__all__:
        assert getattr(cidm_core, name).__name__ == name if name != "__version__" else True
    assert set(dir(cidm_core)) == set(cidm_core.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Dank'"):
        cidm_core.Dank  # noqa: B018
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{cidm_core.__version__}"' in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_enough_to_use_it(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"cidm {verb}" in text


@pytest.mark.parametrize(("verb", "settings"), [("train", CidmConfig), ("generate", SampleConfig)])
def test_help_tells_every_setting_its_default_and_limits(verb, settings, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for f in dataclasses.fields(settings):
        assert f"--{f.name.replace('_', '-')}" in text
    shown = "[800; 1 to 100000]" if verb == "train" else "[7.5; 0 to 100]"
    assert shown in text


def test_help_of_train_names_the_values_that_a_family_takes(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    taken = FAMILIES["MINI"].training["cidm"]
    assert f"mini-sd: {', '.join(f'{name} {value}' for name, value in taken.items())}" in text


@pytest.mark.parametrize("settings", [CidmConfig, SampleConfig])
def test_every_setting_can_be_given_and_nothing_else_is(settings):
    parser = argparse.ArgumentParser()
    flags.add_settings(parser, settings)
    assert flags.given(parser.parse_args([])) == {}
    other = {}
    words = []
    for f in dataclasses.fields(settings):
        name, default = f.name, f.default
        flag = f"--{name.removesuffix('_px').replace('_', '-')}"
        if isinstance(default, bool):
            other[name] = not default
            words.append(flag if other[name] else f"--no-{flag[2:]}")
            continue
        choices = f.metadata["choices"]
        text = "str" in str(f.type)
        other[name] = (
            choices[-1] if choices else "euler" if text else 0.25 if "float" in str(f.type) else 64
        )
        words += [flag, str(other[name])]
    found = flags.given(parser.parse_args(words))
    assert found == other
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in other.items()}
    settings.from_dict(found)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["train"],
        ["generate", "--prompt", "x", "--steps", "many"],
        ["generate", "--prompt", "x", "--weights", "loud"],
        ["generate", "--prompt", "x", "--step", "3"],
        ["bank"],
        ["bank", "show", "--bank", "b"],
    ],
)
def test_a_wrong_command_line_is_code_2(words, capsys):
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 2
    assert "usage: cidm" in capsys.readouterr().err


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bank", "list", "--bank", "{tmp}/none"], "There is no bank"),
        (["bank", "show", "cat", "--bank", "{bank}"], "It holds dog, ink"),
        (["bank", "export", "dog", "--bank", "{bank}", "--out", "{tmp}/x.pth"], ".safetensors"),
        (["bank", "import", "{tmp}/none.safetensors", "--bank", "{tmp}/b"], "none.safetensors"),
        (["bank", "import", "{tmp}/x.pth", "--bank", "{tmp}/b"], "Give class_words"),
        (
            ["bank", "import", "{tmp}/x.pth", "--bank", "{tmp}/b", "--class-words", "dog"],
            "x.pth: cannot be read",
        ),
        (["train", "--bank", "{tmp}/b"], "--photos is missing"),
        (["train", "--bank", "{tmp}/b", "--photos", "x", "--words", "<a>"], "--class-words"),
        (
            [*TRAIN, "--steps", "0"],
            "steps is 0",
        ),
        (["generate", "--prompt", "a dog", "--top-k", "0"], "top_k is 0"),
        (["generate", "--prompt", "a dog", "--alpha", "nan"], "alpha is nan"),
        (["generate", "--prompt", "a dog", "--model", "{tmp}/none.safetensors"], "no model at"),
        (["generate", "--prompt", "a dog", "--out", "{tmp}/x.gif"], "picture format"),
        (["generate", "--prompt", "a dog", "--out", "{file}/x.png"], "is a file"),
        (["generate", "--prompt", "a dog", "--region", "0,0,2,1:a"], "outside the picture"),
        (["generate", "--prompt", "a dog", "--region", "0,0,1:a"], "Cannot read the region"),
        (["generate", "--prompt", "a dog", "--region", "0,0,nan,1:a"], "finite"),
        (["generate", "--prompt", "a dog", "--mask", "regions"], "--image"),
        (["generate", "--prompt", "a dog", "--image", "{tmp}/none.png"], "none.png"),
        (["generate", "--prompt", "a dog", "--bank", "{tmp}/none"], "There is no bank"),
        (["evaluate", "--bank", "{tmp}/none", "--clip", "x"], "holds no concept"),
        (["evaluate", "--bank", "{bank}", "--clip", "x", "--photos", "{tmp}"], "NAME=DIR"),
        (["evaluate", "--bank", "{bank}", "--clip", "{tmp}/x"], "CLIP"),
        (["evaluate", "--bank", "{bank}", "--alone", "--prompts", "{file}"], "hold no line"),
        (["evaluate", "--bank", "{bank}", "--prompts", "a=x", "--prompts", "y"], "a name"),
        (["evaluate", "--bank", "{bank}"], "Give a CLIP model with --clip"),
        (["demo", "--out", "{file}"], "is a file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_message(words, says, bank, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    names = {"{tmp}": tmp_path, "{bank}": bank.path, "{file}": file}
    for key, value in names.items():
        words = [word.replace(key, str(value)) for word in words]
    assert main(words) == FAILED
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert re.match(r"[A-Za-z]+Error: ", err)
    assert len(err.strip().splitlines()) == 1


def test_errors_as_json_and_the_traceback_on_demand(tmp_path, capsys):
    words = ["bank", "list", "--bank", str(tmp_path / "none"), "--json"]
    assert main(words) == FAILED
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["error"]["kind"] == "BankError"
    assert told["error"]["message"] in err
    assert told["exit_code"] == 1
    main([*words, "--verbose"])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "--preset low-vram"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "--preset low-vram"),
        (torch.OutOfMemoryError("CUDA out of memory."), "--preset low-vram"),
        (OSError(28, "No space left on device", "x.png"), "disk is full"),
    ],
)
def test_problems_of_the_machine_are_explained(error, says, monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr("cidm_core.bank.Bank.entries", fail)
    assert main(["bank", "list", "--bank", str(tmp_path)]) == FAILED
    assert says in capsys.readouterr().err


def test_mistakes_of_the_program_are_not_hidden(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("cidm_core.bank.Bank.entries", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["bank", "list", "--bank", str(tmp_path)])


# --- bank ----------------------------------------------------------------------------------------


def test_bank_list_and_show(bank, capsys):
    assert main(["bank", "list", "--bank", str(bank.path)]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "words", "class", "words", "kind", "family"]
    assert lines[1].split() == ["dog", "<dog1>", "<dog2>", "dog", "object", "SD15"]
    assert main(["bank", "list", "--bank", str(bank.path), "--json"]) == OK
    listed = result(capsys)["concepts"]
    assert [c["name"] for c in listed] == ["dog", "ink"]
    assert listed[1]["kind"] == "style"
    assert main(["bank", "show", "dog", "--bank", str(bank.path)]) == OK
    text = capsys.readouterr().out
    for part in ("<dog1> <dog2>", "class", "object", "SD15", "learned"):
        assert part in text


def test_a_broken_file_is_named_and_hides_no_other(bank, tmp_path, capsys):
    copy = tmp_path / "bank"
    copy.mkdir()
    for file in bank.path.glob("*.safetensors"):
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "torn.safetensors").write_bytes(b"\x00" * 100)
    assert main(["bank", "list", "--bank", str(copy), "--json"]) == OK
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert len(told["concepts"]) == 2
    assert told["broken"][0]["file"].endswith("torn.safetensors")
    assert "torn.safetensors" in err


def test_export_import_remove(bank, tmp_path, capsys):
    source, target = str(bank.path), str(tmp_path / "other")
    lora = tmp_path / "new folder" / "dog_lora.safetensors"
    assert main(["bank", "export", "dog", "--bank", source, "--out", str(lora)]) == OK
    assert lora.stat().st_size > 1000
    assert main(["bank", "import", str(lora), "--bank", target]) == FAILED
    assert (
        main(["bank", "import", f"{source}/dog.safetensors", "--bank", target, "--name", "rex"])
        == OK
    )
    torch.testing.assert_close(Bank(target)["rex"].rows, bank["dog"].rows, rtol=0, atol=0)
    capsys.readouterr()
    assert main(["bank", "remove", "rex", "--bank", target, "--json", "--yes"]) == OK
    assert result(capsys) == {"removed": "rex", "trash": 1}
    assert list(Bank(target)) == []


def test_remove_asks_on_a_terminal(bank, tmp_path, monkeypatch, capsys):
    target = str(tmp_path / "other")
    main(["bank", "import", str(bank.path / "dog.safetensors"), "--bank", target])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in (("n\n", 1), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin.readline", lambda a=answer: a, raising=False)
        assert main(["bank", "remove", "dog", "--bank", target]) == OK
        assert len(Bank(target)) == left
    out, err = capsys.readouterr()
    assert "into its trash? [y/N]" in err
    assert "To undo: cidm bank trash --bank" in out


@pytest.mark.parametrize("answer", ["n\n", "", "y\n"])
def test_without_a_terminal_nothing_is_removed_unless_yes_is_given(
    bank, tmp_path, answer, monkeypatch, capsys
):
    target = str(tmp_path / "other")
    main(["bank", "import", str(bank.path / "dog.safetensors"), "--bank", target])
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["bank", "remove", "dog", "--bank", target]) == FAILED
    assert "--yes" in capsys.readouterr().err
    assert list(Bank(target)) == ["dog"]


def test_import_of_a_public_pth(tiny_folder, tmp_path, capsys):
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    unet = {
        f"{layer}.lora_down.weight": torch.ones(4, 320),
        f"{layer}.lora_up.weight": torch.ones(320, 4),
    }
    tokens = {"<dog1>": torch.ones(16, 768), "<dog2>": torch.ones(16, 768)}
    file = tmp_path / "edlora_model-latest.pth"
    torch.save({"params": {"new_concept_embedding": tokens, "unet": unet, "lag": {}}}, file)
    words = ["bank", "import", str(file), "--bank", str(tmp_path / "b"), "--class-words", "dog"]
    assert main([*words, "--model", str(tiny_folder), "--scale", "0.8", "--json"]) == OK
    told = result(capsys)
    assert (told["name"], told["words"]) == ("dog", ["<dog1>", "<dog2>"])
    assert told["alpha"] == pytest.approx(3.2)
    assert main([*words, "--model", str(tiny_folder), "--scale", "0.8"]) == OK
    assert "in the bank already" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["tiny", "xl"])
def test_import_needs_no_more_of_a_model_than_two_tensors(
    family, request, tmp_path, monkeypatch, capsys
):
    """And no tokenizer: SDXL would take 14 GB."""
    base = request.getfixturevalue(f"{family}_base")
    monkeypatch.setattr("cidm_core.diffusers_host.load.build", lambda *_: pytest.fail("loaded"))
    vectors = {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}
    save_file(dict(list(vectors.items())[: len(base.family.encoders)]), tmp_path / "x.safetensors")
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.symlink_to(request.getfixturevalue(f"{family}_checkpoint"))
    for model in (checkpoint, request.getfixturevalue(f"{family}_folder")):
        bank = str(tmp_path / model.stem)
        words = ["bank", "import", str(tmp_path / "x.safetensors"), "--bank", bank]
        assert main([*words, "--class-words", "toy", "--model", str(model)]) == OK
        Bank(bank).check(base)
    assert main([*words, "--name", "y", "--class-words", "y", "--model", "mini-sdxl"]) == FAILED
    assert "textual inversion of another kind" in capsys.readouterr().err


# --- generate ------------------------------------------------------------------------------------


def test_generate_writes_pictures_that_tell_how_they_were_made(tiny_folder, bank, tmp_path, capsys):
    out = tmp_path / "new" / "p.png"
    words = ["generate", "--model", str(tiny_folder), "--bank", str(bank.path), *SMALL, "--json"]
    prompt = "a photo of a <dog1> <dog2> in <ink1> ink"
    words += [
        "--prompt",
        prompt,
        "--region",
        "0,0,.5,1:a <dog1> <dog2>",
        "--region",
        ".5,0,1,1:<ink1>",
    ]
    words += ["--out", str(out), "--num-images", "2", "--seed", "5"]
    charts = {name: str(tmp_path / f"{name}.png") for name in ("weights", "layout")}
    words += ["--show-weights", charts["weights"], "--show-layout", charts["layout"]]
    assert main(words) == OK
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["files"] == [str(tmp_path / "new" / f"p-{i}.png") for i in (1, 2)]
    assert told["concepts"] == ["dog", "ink"]
    assert re.search(rf"weights  {prompt}: (dog|ink) 0\.[5-9]\d, (dog|ink) 0\.[5-9]", captured.err)
    rows = {row["prompt"]: row["weights"] for row in told["weights"]}
    assert rows["a <dog1> <dog2>"] == pytest.approx({"dog": 1.0, "ink": 0.0})
    first, second = (Image.open(file) for file in told["files"])
    assert first.size == (64, 64)
    assert np.abs(np.asarray(first, int) - np.asarray(second, int)).max() > 0
    inside = json.loads(second.info["cidm"])
    assert (inside["prompt"], inside["seed"]) == (prompt, 6)
    assert inside["settings"]["steps"] == 2
    assert (inside["settings"]["seed"], inside["settings"]["num_images"]) == (6, 1)
    assert inside["regions"][1]["prompt"] == "<ink1>"
    assert Image.open(charts["weights"]).width == 760
    assert Image.open(charts["layout"]).width > 480

    again = [*words[: words.index("--region")], "--region", "0,0,.5,1:a <dog1> <dog2>"]
    again += ["--region", ".5,0,1,1:<ink1>", "--seed", "6", "--out", str(tmp_path / "q.png")]
    assert main(again) == OK
    difference = np.asarray(Image.open(tmp_path / "q.png"), int) - np.asarray(second, int)
    assert np.abs(difference).max() <= 1, "a numbered picture can be drawn again by its own seed"


def test_generate_plans_once_and_draws_what_the_library_draws(
    tiny_base, tiny_folder, bank, tmp_path, monkeypatch
):
    plans, build = [], pipeline.build_plan
    monkeypatch.setattr(pipeline, "build_plan", lambda *a: plans.append(1) or build(*a))
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 256, (70, 90, 3), np.uint8))
    photo.save(tmp_path / "photo.png")
    prompt, out = "a <dog1> <dog2> on grass", tmp_path / "p.png"
    words = ["generate", "--model", str(tiny_folder), "--bank", str(bank.path), *SMALL, "--quiet"]
    words += ["--prompt", prompt, "--region", "0,0,.5,1:a <ink1>", "--out", str(out)]
    words += ["--image", str(tmp_path / "photo.png"), "--mask", "regions", "--denoise", "0.5"]
    words += ["--show-weights", str(tmp_path / "w.png"), "--show-layout", str(tmp_path / "l.png")]
    assert main(words) == OK
    assert plans == [1]
    config = SampleConfig(steps=2, width_px=64, height_px=64, denoise=0.5)
    regions = [Region("a <ink1>", box=(0, 0, 0.5, 1))]
    (drawn,) = pipeline.generate(tiny_base, bank, prompt, regions, config, photo, "regions")
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(drawn))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--image", "picture.png"],
            "written over 'picture.png' of --image",
        ),
        (
            ["--image=link.png", "--out=./picture.png"],
            "written over 'link.png' of --image",
        ),
        (["--image=p.png", "--mask=picture.png"], "'picture.png' of --mask"),
        (["--image=p-2.png", "--out=p.png", "--num-images=2"], "'p-2.png' of --image"),
        (["--image=p.png", "--show-layout=p.png"], "'p.png' of --image"),
        (["--show-weights=picture.png"], "'picture.png' of --out"),
    ],
)
def test_generate_never_writes_over_what_it_reads(words, says, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("picture.png", "p.png", "p-2.png"):
        Image.new("RGB", (32, 32)).save(name)
    os.link("picture.png", "link.png")
    before = Path("picture.png").read_bytes()
    assert main(["generate", "--prompt", "a dog", *words]) == FAILED
    assert says in capsys.readouterr().err
    assert Path("picture.png").read_bytes() == before


def test_generate_draws_in_the_shape_of_the_start_picture(tiny_folder, tmp_path, capsys):
    Image.effect_noise((192, 64), 90).save(tmp_path / "wide.png")
    words = ["generate", "--model", str(tiny_folder), "--prompt", "a dog", "--steps", "2"]
    words += ["--image", str(tmp_path / "wide.png"), "--height", "64"]
    assert main([*words, "--out", str(tmp_path / "out.png")]) == OK
    assert "picture  192 x 64 px, in the shape of --image" in capsys.readouterr().err
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (192, 64)
        settings = json.loads(drawn.text["cidm"])["settings"]
    assert (settings["width_px"], settings["height_px"], settings["denoise"]) == (192, 64, 0.6)


def test_generate_edits_a_photo_inside_a_mask_only(tiny_folder, bank, photos, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    regions = [
        {"prompt": "a <dog1> <dog2>", "mask": "mask.png", "negative": "ink"},
        {"prompt": "grass", "box": [0, 0, 0.5, 1]},
    ]
    (tmp_path / "regions.json").write_text(json.dumps(regions))
    words = ["generate", "--model", str(tiny_folder), "--bank", str(bank.path), *SMALL, "--quiet"]
    words += ["--prompt", "a <dog1> <dog2>", "--image", str(photos / "0.png")]
    words += ["--regions-json", str(tmp_path / "regions.json")]
    results = []
    for chosen in (str(tmp_path / "mask.png"), "regions"):
        out = tmp_path / "edited.png"
        assert main([*words, "--mask", chosen, "--out", str(out)]) == OK
        results.append(np.asarray(Image.open(out), int))
    photo = Image.open(photos / "0.png").resize((90, 64), Image.Resampling.LANCZOS)
    left = np.asarray(photo.crop((13, 0, 77, 64)), int)[:, :31]
    np.testing.assert_array_equal(results[0][:, :31], left)
    assert np.abs(results[1][:, :31] - left).mean() > 5, "the second region redraws the left half"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("{}", "it has nothing, no box"),
        ("7", "are int"),
        ('[{"box": [0, 0, 1, 1]}]', "Region 1"),
        ('[{"prompt": "a", "boks": []}]', "boks"),
        ('[{"prompt": "a", "box": 3}]', "Region 1"),
        ('[{"prompt": "a", "box": [0, 0, 1, 1]}, {"prompt": "b"}]', "Region 2"),
        ('[{"prompt": "a", "mask": "none.png"}]', "none.png"),
        ('[{"prompt": "a", "box": [0, 0, 1, 1], "negative": 5}]', "its negative is 5; write text"),
        ('[{"prompt": 5, "box": [0, 0, 1, 1]}]', "Region 1 of 1: it has no prompt"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_regions_files_that_cannot_be_used(text, says, tmp_path, capsys):
    file = tmp_path / "regions.json"
    file.write_text(text)
    assert main(["generate", "--prompt", "a dog", "--regions-json", str(file)]) == FAILED
    assert says in capsys.readouterr().err


def test_pictures_as_jpeg_and_without_a_bank(tiny_folder, tmp_path, capsys):
    out = tmp_path / "p.jpg"
    words = [
        "generate",
        "--model",
        str(tiny_folder),
        "--prompt",
        "a dog",
        *SMALL,
        "--out",
        str(out),
    ]
    assert main(words) == OK
    captured = capsys.readouterr()
    assert captured.out.split() == [str(out)]
    assert "the base model draws alone" in captured.err
    described = json.loads(Image.open(out).getexif()[0x010E])
    assert described["prompt"] == "a dog"


@pytest.mark.parametrize("prompt", ["a <dog1> <dog2>", "a house"], ids=["its word", "no word"])
def test_a_forgotten_model_is_said_with_the_one_that_is_meant(bank, tmp_path, capsys, prompt):
    other = Bank(tmp_path / "bank")
    other.add(replace(bank["dog"], facts={"base_name": "dreamy"}))
    words = ["generate", "--bank", str(other.path), "--prompt", prompt]
    assert main([*words, "--out", str(tmp_path / "x.png")]) == FAILED
    said = capsys.readouterr().err
    assert "was learned on SD15 (context 768), the model is MINI (context 128)" in said
    assert "the model it was learned on, 'dreamy' (on the command line --model names it)" in said
    assert not (tmp_path / "x.png").exists()
    assert main(["evaluate", "--bank", str(other.path), "--alone"]) == FAILED
    assert "'dreamy'" in capsys.readouterr().err


# --- train ---------------------------------------------------------------------------------------


def train(tiny_folder, photos, bank, *more):
    words = ["train", "--model", str(tiny_folder), "--bank", str(bank), "--photos", str(photos)]
    words += ["--words", "<rex1> <rex2>", "--class-words", "dog", "--steps", "4", "--variants", "1"]
    return main([*words, "--resolution", "32", "--seed", "3", *more])


def test_train_adds_a_concept_and_says_what_next(tiny_folder, photos, tmp_path, capsys):
    assert train(tiny_folder, photos, tmp_path / "bank", "--rank", "2", "--json") == OK
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["concept"], told["words"]) == ("rex", ["<rex1>", "<rex2>"])
    assert told["facts"]["steps"] == 4
    assert told["config"]["rank"] == 2
    assert Path(told["file"]).exists()
    assert "cidm generate --model" in captured.err
    assert "Learning 4/4" in captured.err
    assert Bank(tmp_path / "bank")["rex"].low_rank
    runs = tmp_path / "bank" / ".runs" / "rex"
    assert len((runs / "log.jsonl").read_text().splitlines()) == 4
    assert Image.open(runs / "loss.png").width == 760
    assert train(tiny_folder, photos, tmp_path / "bank") == FAILED
    assert "What differs: rank 2, now 4." in capsys.readouterr().err


def test_the_same_words_again_are_refused_replaced_or_gone_on_from(
    tiny_folder, photos, tmp_path, capsys
):
    teach = ["train", "--model", str(tiny_folder), "--bank", str(tmp_path / "bank")]
    teach += ["--photos", str(photos), "--words", "<dog1> <dog2>", "--class-words", "dog"]
    teach += ["--resolution", "64", "--variants", "1", "--quiet"]
    assert main([*teach, "--steps", "1"]) == OK
    capsys.readouterr()
    assert main([*teach, "--steps", "2"]) == FAILED
    said = capsys.readouterr().err
    assert "What differs: steps 1, now 2." in said
    assert "on the command line --again" in said
    bank = Bank(tmp_path / "bank")
    assert main([*teach, "--steps", "2", "--again", "replace"]) == OK
    assert bank["dog"].facts["steps"] == 2
    assert main([*teach, "--steps", "3", "--again", "go-on"]) == OK
    assert ", after 2 earlier steps: " in capsys.readouterr().out
    assert (bank["dog"].facts["steps"], bank["dog"].facts["earlier_steps"]) == (3, 2)
    assert list(bank) == ["dog"]


@pytest.fixture(scope="module")
def straight(tiny_folder, tmp_path_factory):
    """What is learned without interruption."""
    folder = tmp_path_factory.mktemp("straight")
    assert train(tiny_folder, photos_in(folder / "photos"), folder / "bank") == OK
    return Bank(folder / "bank")["rex"]


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    how, straight, tiny_folder, photos, tmp_path, monkeypatch, capsys
):
    def interrupt(self, event):
        if event.phase == "learning" and event.step == 2:
            if how == "ctrl-c":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "__call__", interrupt)
        assert train(tiny_folder, photos, tmp_path / "bank", "--json") == INTERRUPTED
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert "state is kept" in err
    assert signal.getsignal(signal.SIGTERM) is handler
    assert len(Bank(tmp_path / "bank")) == 0
    assert train(tiny_folder, photos, tmp_path / "bank") == OK
    assert "Learning 3/4" in capsys.readouterr().err, "goes on at step 3"
    ours = Bank(tmp_path / "bank")["rex"]
    torch.testing.assert_close(ours.rows, straight.rows, rtol=0, atol=0)
    for path, pair in straight.low_rank.items():
        torch.testing.assert_close(ours.low_rank[path].up, pair.up, rtol=0, atol=0)


def wish(*words):
    return read_request(build_parser().parse_args(["train", "--bank", "b", *words]))


def test_flags_go_before_presets_before_options(tmp_path):
    (tmp_path / "shots").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "shots" / "1.png")
    options = tmp_path / "task.yml"
    options.write_text(
        f"""
name: my_task
manual_seed: 7
gradient_accumulation_steps: 1
datasets:
  train:
    data_dir: {tmp_path}/shots
    batch_size_per_gpu: 2
    replace_mapping:
      dog: <dog1> <dog2>
models:
  new_concept_token: <dog1>+<dog2>
  initializer_token: <rand-0.013>+dog
  noise_offset: 0.02
train:
  total_iter: 30
"""
    )
    found = wish("--options", str(options))
    assert (found.words, found.class_words, found.name) == ("<dog1> <dog2>", "dog", "my_task")
    assert found.mapping == {"dog": "<dog1> <dog2>"}
    assert found.settings["steps"] == 30
    assert found.settings["batch_size"] == 2
    found = wish(
        "--options", str(options), "--preset", "low-vram", "--steps", "9", "--kind", "style"
    )
    assert found.settings["batch_size"] == 1
    assert found.settings["gradient_checkpointing"] is True
    assert found.settings["steps"] == 9
    assert found.settings["noise_offset"] == 0.02
    assert found.kind == "style"
    other = wish("--options", str(options), "--words", "<rex>", "--name", "rex")
    assert (other.words, other.name, other.mapping) == ("<rex>", "rex", None)
    with pytest.raises(CidmError, match="--words is missing"):
        wish("--photos", "p", "--class-words", "dog")


def test_each_launched_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device(None) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(None) == "cuda:1"
    assert own_device("cpu") == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert own_device(None) is None


# --- messages ------------------------------------------------------------------------------------


def test_progress_without_a_terminal_is_plain_lines(capsys):
    event = Progress(1, 30, loss=0.25, steps_per_second=4.0, remaining_seconds=70, skipped=2)
    assert details(event) == "loss 0.2500  4.0 steps/s  1:10 left  2 skipped"
    slow = Progress(30, 30, steps_per_second=0.2, remaining_seconds=0)
    assert details(slow) == "5.0 s/step"
    bar = ProgressBar()
    for step in range(1, 31):
        bar(dataclasses.replace(event, step=step))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Learning 1/30  loss 0.2500")
    assert lines[-1].startswith("Learning 30/30")
    assert len(lines) == 2, "one at once, one at the end, others only every ten seconds"
    ProgressBar(enabled=False)(event)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_one_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with ProgressBar() as bar:
        for step in (1, 2, 3):
            bar(Progress(step, 3, loss=0.5, phase="preparing"))
        bar(Progress(1, 2, loss=0.5))
        bar(Progress(2, 2, loss=0.4))
    text = capsys.readouterr().err
    assert "Encoding photos 3/3" in text
    assert "Learning 2/2" in text
    assert "loss 0.4000" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (65, "1:05"), (7384, "2:03:04")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_quiet_and_other_processes_say_nothing(bank, monkeypatch, capsys):
    console = Console(quiet=True)
    console.note("hidden")
    console.say("a result")
    assert capsys.readouterr() == ("a result\n", "")
    monkeypatch.setenv("RANK", "1")
    assert main(["bank", "list", "--bank", str(bank.path), "--json"]) == OK
    assert capsys.readouterr() == ("", "")


def test_json_has_no_nan(capsys):
    Console(as_json=True).result({"a": float("nan"), "b": [float("inf"), 1.5, Path("x"), True]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5, "x", True]}


def test_every_path_may_begin_with_a_tilde(tiny_folder, photos, bank, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copytree(bank.path, tmp_path / "bank")
    shutil.copytree(tiny_folder, tmp_path / "model")
    mask = {"prompt": "a dog", "mask": "photos/0.png"}
    (tmp_path / "regions.json").write_text(json.dumps([mask]))
    (tmp_path / "prompts.txt").write_text("a <TOK>")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    model, small = ["--model=~/model", "--tokenizer=~/model/tokenizer", "--vae=~/model/vae"], SMALL
    draw = ["generate", *model, "--bank=~/bank", "--prompt=a dog", "--out=~/out.png", *small]
    draw += ["--image=~/photos/0.png", "--mask=~/photos/1.png", "--regions-json=~/regions.json"]
    assert main([*draw, "--show-weights=~/weights.png", "--show-layout=~/layout.png"]) == OK
    teach = ["train", *model, "--bank=~/new", "--photos=~/photos", "--captions=~/photos", "--words"]
    teach += ["<x1>", "--class-words=dog", "--steps=1", "--variants=1", "--resolution=64"]
    assert main(teach) == OK
    seen = ["evaluate", *model, "--bank=~/new", "--alone", "--photos=x=~/photos", "--keep=~/kept"]
    assert main([*seen, "--prompts=x=~/prompts.txt", *small]) == OK
    out = ["bank", "export", "x", "--bank=~/new", "--out=~/x.safetensors"]
    assert main(out) == OK
    assert main(["bank", "import", "~/new/x.safetensors", "--bank=~/other"]) == OK
    assert os.listdir(tmp_path / "work") == []
    made = ("out.png", "weights.png", "layout.png", "kept/x", "x.safetensors", "other")
    assert all((tmp_path / name).exists() for name in made)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_word_that_the_output_lacks_ends_nothing(bank, tmp_path, encoding, monkeypatch):
    copy = tmp_path / "bank"
    shutil.copytree(bank.path, copy)
    Bank(copy).add(replace(bank["ink"], name="狗🐕é", subjects=(Subject(("<狗1>",), "dog"),)))

    def told(*more):
        with io.TextIOWrapper(io.BytesIO(), encoding=encoding) as out, monkeypatch.context() as now:
            now.setattr("sys.stdout", out)
            assert main(["bank", "list", "--bank", str(copy), *more]) == OK
            out.flush()
            return out.buffer.getvalue().decode(encoding)

    assert r"<\u72d71>" in told()
    assert json.loads(told("--json"))["concepts"][2]["name"] == "狗🐕é"


def test_as_a_program_without_diffusers_where_it_needs_none(bank):
    """As `python -m cidm_core bank list`; what the public names load is seen on the way."""
    code = """
import runpy, sys, cidm_core
cidm_core.Region("a dog", box=(0, 0, 1, 1)), cidm_core.Bank, cidm_core.Concept, cidm_core.Photo
try:
    runpy.run_module("cidm_core", run_name="__main__", alter_sys=True)
finally:
    assert "diffusers" not in sys.modules
"""
    done = python(["-c", code, "bank", "list", "--bank", str(bank.path), "--json"])
    assert done.returncode == OK, done.stderr
    assert len(json.loads(done.stdout)["concepts"]) == 2
    assert done.stderr.splitlines()[0].split()[0] == "name", "words for people go elsewhere"
