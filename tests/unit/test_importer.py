"""Options files of the public repositories in our terms."""

from pathlib import Path

import pytest
from PIL import Image

from cidm_core.errors import CidmError
from cidm_core.importers.cifc_options import read_options
from cidm_core.methods.cidm import CidmConfig

OPTIONS = """
name: duck_run
manual_seed: 7
mixed_precision: fp16
gradient_accumulation_steps: 1
datasets:
  train:
    name: LoraDataset
    data_dir: ./data/images/duck_toy
    caption_dir: ./data/captions/duck_toy
    use_caption: true
    use_mask: false
    instance_transform:
      - { type: HumanResizeCropFinalV3, size: 256, crop_p: 0.25 }
      - { type: ToTensor }
      - { type: Normalize, mean: [ 0.5 ], std: [ 0.5 ] }
      - { type: ShuffleCaption, keep_token_num: 1 }
      - { type: EnhanceText, enhance_type: object }
    replace_mapping:
      duck toy: <duck1> <duck2> <duck3>
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 250
  val_vis:
    prompts: ./prompts.txt
    replace_mapping:
      duck toy: <duck1> <duck2> <duck3>
models:
  pretrained_path: SD1.5
  enable_edlora: true
  finetune_cfg:
    text_embedding: { enable_tuning: true, lr: !!float 2e-3 }
    text_encoder:
      enable_tuning: true
      lora_cfg: { rank: 4, alpha: 1.0, where: CLIPAttention }
      lr: !!float 1e-5
    unet:
      enable_tuning: true
      lora_cfg: { rank: 8, alpha: 0.5, where: Attention }
      lr: 1.5e-4
  new_concept_token: <duck1>+<duck2>+<duck3>
  initializer_token: <rand-0.012>+duck+toy
  noise_offset: 0.02
  attn_reg_weight: 0.03
  reg_full_identity: true
  use_mask_loss: false
  gradient_checkpoint: true
  enable_xformers: true
path: { experiments_root: ./output }
train:
  optim_g: { type: AdamW, lr: !!float 0.0, weight_decay: 0.02, betas: [ 0.9, 0.999 ] }
  unet_kv_drop_rate: 0
  scheduler: linear
  emb_norm_threshold: !!float 4.5e-1
logger: { print_freq: 10 }
"""

MIX_OF_SHOW = """
name: EDLoRA_potter
model_type: EDLoraModel
num_gpu: 2
datasets:
  train:
    concept_list: data_cfgs/potter.json
    use_caption: true
    use_mask: true
    instance_transform:
      - { type: Resize, size: 512 }
      - { type: HumanResizeCropFinal, size: 512, crop_p: 0.5 }
      - { type: EnhanceText, enhance_type: human }
    replace_mapping:
      <TOK>: <potter1> <potter2>
    batch_size_per_gpu: 2
network_g:
  type: EDLoRA
  finetune_cfg:
    unet:
      lora_cfg: { rank: 4, alpha: 1.0, where: CrossAttention }
  new_concept_token: <potter1>+<potter2>
  initializer_token: <rand-0.013>+man
train:
  scheduler: { type: LinearLR, num_epochs: 1000 }
  unet_kv_drop_rate: 0.3
  total_iter: 1000
  surprise: 5
"""

CONCEPTS = """[{"instance_prompt": "<TOK>", "instance_data_dir": "data/Potter/image",
"caption_dir": "data/Potter/caption", "mask_dir": "data/Potter/mask"}]"""


def save(tmp_path, text, name="options/run.yml"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def photos(folder, count):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (16, 16)).save(folder / f"{i}.png")


def test_an_options_file_of_the_public_repository(tmp_path):
    photos(tmp_path / "data/images/duck_toy", 4)
    found = read_options(save(tmp_path, OPTIONS), processes=2)
    assert found.name == "duck_run"
    assert found.words == ("<duck1>", "<duck2>", "<duck3>")
    assert found.class_words == "duck toy"
    assert found.kind == "object"
    assert found.mapping == {"duck toy": "<duck1> <duck2> <duck3>"}
    assert found.photos_dir == tmp_path / "data/images/duck_toy"  # found above the options file
    assert found.captions_dir == Path("data/captions/duck_toy")  # is nowhere: as it stands
    assert found.masks_dir is None
    assert found.settings == {
        "token_init_std": 0.012,
        "resolution_px": 256,
        "crop_probability": 0.25,
        "noise_offset": 0.02,
        "attention_weight": 0.03,
        "weight_decay": 0.02,
        "token_norm_limit": 0.45,
        "seed": 7,
        "use_concept_masks": False,
        "gradient_checkpointing": True,
        "precision": "fp16",
        "lr_tokens": 2e-3,
        "lr_lora": 1.5e-4,
        "rank": 8,
        "alpha": 4.0,  # a plain factor of 0.5 there, alpha / rank here
        "batch_size": 4,
        "accumulation": 1,
        "steps": 250,  # 250 x 4 photos / (2 x 2 processes)
    }
    config = CidmConfig.from_dict(found.settings)
    assert (config.steps, config.batch_size, config.rank) == (250, 4, 8)


def test_notes_say_what_was_left_out_and_nothing_unknown_is_dropped(tmp_path):
    notes = " ".join(read_options(save(tmp_path, OPTIONS)).notes)
    assert "alpha 4 of rank 8" in notes
    assert "250 x photos / 2" in notes
    assert "models.finetune_cfg.text_encoder" in notes
    assert "datasets.val_vis" in notes
    assert "Unknown" not in notes


def test_an_older_file_with_a_list_of_concepts(tmp_path):
    save(tmp_path, CONCEPTS, "data_cfgs/potter.json")
    found = read_options(save(tmp_path, MIX_OF_SHOW), root=tmp_path)
    assert (found.kind, found.class_words) == ("human", "man")
    assert found.mapping == {"<TOK>": "<potter1> <potter2>"}
    assert found.photos_dir == Path("data/Potter/image")
    assert found.captions_dir == Path("data/Potter/caption")
    assert found.masks_dir == Path("data/Potter/mask")
    assert found.settings["steps"] == 1000
    assert found.settings["batch_size"] == 4
    assert found.settings["alpha"] == 4.0
    notes = " ".join(found.notes)
    for word in (
        "Resize",
        "unet_kv_drop_rate is 0.3",
        "Unknown, left out: train.surprise",
    ):
        assert word in notes
    assert "LinearLR" not in notes  # means what "linear" does
    CidmConfig.from_dict(found.settings)


def test_the_folders_of_the_file_follow_its_switches(tmp_path):
    text = OPTIONS.replace("use_caption: true", "use_caption: false")
    assert read_options(save(tmp_path, text)).captions_dir is None


@pytest.mark.parametrize(("kind", "expected"), [("style", "style"), ("objects", "object")])
def test_kinds(tmp_path, kind, expected):
    text = OPTIONS.replace("enhance_type: object", f"enhance_type: {kind}")
    assert read_options(save(tmp_path, text)).kind == expected


def test_task_numbers_come_from_the_file_name(tmp_path):
    """Two of the public files call themselves task_8."""
    text = OPTIONS.replace("name: duck_run", "name: task_8")
    assert read_options(save(tmp_path, text, "task_9.yml")).name == "task_9"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("  new_concept_token: <duck1>+<duck2>+<duck3>\n", "", "new_concept_token is missing"),
        ("  initializer_token: <rand-0.012>+duck+toy\n", "", "initializer_token is missing"),
        ("<rand-0.012>+duck+toy", "<rand-0.012>", "class words in it"),
        ("<rand-0.012>+duck+toy", "<rand-1e5e>+toy", "a number in <rand"),
        ("    data_dir: ./data/images/duck_toy\n", "", "data_dir is missing"),
        ("noise_offset: 0.02", "noise_offset: much", "noise_offset is 'much'; expected a number"),
        ("noise_offset: 0.02", "noise_offset: true", "noise_offset is True; expected a number"),
        ("noise_offset: 0.02", "noise_offset: .nan", "noise_offset is nan"),
        ("noise_offset: 0.02", "noise_offset: 7", "noise_offset is 7.0; allowed is 0.0 to 1.0"),
        ("manual_seed: 7", "manual_seed: 7.5", "expected a whole number"),
        ("manual_seed: 7", "manual_seed: .inf", "expected a whole number"),
        (
            "use_caption: true",
            "use_caption: maybe",
            "use_caption is 'maybe'; expected true or false",
        ),
        ("mixed_precision: fp16", "mixed_precision: fp4", "one of no, fp32, fp16, bf16"),
        (
            "replace_mapping:\n      duck toy: <duck1> <duck2> <duck3>\n    batch",
            "replace_mapping: [a]\n    batch",
            "replace_mapping is",
        ),
        ("<duck1> <duck2> <duck3>\n    batch", "5\n    batch", "texts to replace by"),
        ("size: 256", "size: large", "size is 'large'"),
        ("rank: 8", "rank: 5000", "rank is 5000; allowed is 1 to 128"),
    ],
)
def test_entries_that_cannot_be_used(tmp_path, before, after, words):
    assert before in OPTIONS
    with pytest.raises(CidmError, match=words) as caught:
        read_options(save(tmp_path, OPTIONS.replace(before, after, 1)))
    assert "run.yml" in str(caught.value)


@pytest.mark.parametrize(
    ("concepts", "words"),
    [
        (None, "a JSON file that is there"),
        ("[", "a JSON file that is there"),
        ("[]", "list of 0"),
        ("[{}, {}]", "list of 2.*split the file"),
        ("{}", "list of 0"),
    ],
)
def test_lists_of_concepts_that_cannot_be_used(tmp_path, concepts, words):
    if concepts is not None:
        save(tmp_path, concepts, "data_cfgs/potter.json")
    with pytest.raises(CidmError, match=words):
        read_options(save(tmp_path, MIX_OF_SHOW))


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch pwned']",
        "name: !!python/name:os.system",
        "name: !!python/object/new:os.system [x]",
        "!!python/object:cidm_core.config.TrainConfig {}",
        "a: &a [x, x]\nb: [*a, *a]",
        "a: &a {x: 1}\nb: {<<: *a}",
        "[" * 5000,
        "{a: " * 500,
        "a: [1, 2",
        "a: 1\n---\nb: 2",
        "seed: " + "9" * 10_000,
        "date: 2001-99-99",
        "? [a]\n: b",
        "- 1\n- 2",
        "",
        "just text",
        b"\xff\xfe\x00",
        b"a: \x00\x01",
        b"\x80\x81",
        "a: " + "x" * 300_000,
    ],
)
def test_hostile_and_broken_files_get_one_kind_of_error(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CidmError, match=r"run\.yml"):
        read_options(save(tmp_path, text))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("more: &a [x]\nyet: *a\n", "an alias"),
        ("more: &a {x: 1}\nyet: {<<: *a}\n", "an alias"),
        ("more: " + "[" * 30 + "]" * 30, "over 20 levels"),
        ("more: !!python/tuple [1]\n", "no plain YAML"),
        ("more: !!python/name:os.system\n", "no plain YAML"),
    ],
)
def test_tricks_are_refused_in_files_that_are_whole_otherwise(tmp_path, extra, words):
    with pytest.raises(CidmError, match=words):
        read_options(save(tmp_path, OPTIONS + extra))


def test_missing_file(tmp_path):
    with pytest.raises(CidmError, match=r"gone\.yml' cannot be read"):
        read_options(tmp_path / "gone.yml")
