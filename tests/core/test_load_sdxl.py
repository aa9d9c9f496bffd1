"""SDXL from files: same weights, same model as diffusers makes of them; else a clear error."""

import json
import shutil

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as theirs
from make import random_concept
from safetensors.torch import load_file, save_file
from tools import checkpoint_presets as presets
from tools import make_checkpoint as make
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from cidm_core import Bank
from cidm_core.checkpoints.kinds import is_distilled
from cidm_core.checkpoints.schedule import SCHEDULE
from cidm_core.checkpoints.weights import open_weights
from cidm_core.diffusers_host.build import Target
from cidm_core.diffusers_host.load import base_from_tensors, load_base
from cidm_core.diffusers_host.vae import vae_apart
from cidm_core.errors import CidmError, FamilyError, HostError
from cidm_core.families import FAMILIES
from cidm_core.fingerprints import same_base
from cidm_core.importers.concept_import import import_concept
from cidm_core.importers.settings import ImportConfig

UNET, CLIP_G = "model.diffusion_model.", "conditioner.embedders.1.model."
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def tensors(xl_checkpoint):
    return load_file(xl_checkpoint)


@pytest.fixture(scope="module")
def single(xl_checkpoint):
    """The model of the single file."""
    return cpu(xl_checkpoint)


@pytest.fixture
def write(tmp_path, xl_checkpoint):
    """Writes tensors as a checkpoint with a tokenizer beside it."""

    def save(tensors, name="model.safetensors", header=None):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / name, header)
        shutil.copytree(
            xl_checkpoint.parent / "tokenizer", tmp_path / "tokenizer", dirs_exist_ok=True
        )
        return tmp_path / name

    return save


@pytest.fixture
def folder(tmp_path, xl_folder):
    return shutil.copytree(xl_folder, tmp_path / "model")


def cpu(path, **options):
    return load_base(path, device="cpu", **{"dtype": "fp32", **options})


def modules(base):
    return {"unet": base.unet, "vae": base.vae} | dict(
        zip(PARTS[2:], base.text_encoders, strict=True)
    )


def assert_same_model(a, b):
    for part, module in modules(a).items():
        other = modules(b)[part].state_dict()
        assert module.state_dict().keys() == other.keys()
        for name, value in module.state_dict().items():
            assert torch.equal(value, other[name]), f"{part}: {name}"


def change(path, **facts):
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


# What is loaded


def test_single_file_and_folder_of_the_same_weights_are_the_same_model(xl_base, single):
    assert single.family is xl_base.family is FAMILIES["SDXL"]
    assert single.fingerprint == xl_base.fingerprint
    assert single.layers == xl_base.layers
    assert single.scheduler_config == xl_base.scheduler_config == SCHEDULE
    assert_same_model(single, xl_base)


@pytest.mark.parametrize("part", PARTS)
def test_configurations_read_off_the_file_are_those_of_the_folder(part, xl_base, single):
    ours, theirs_ = modules(single)[part].config, modules(xl_base)[part].config
    for key in presets.PRESETS["sdxl-tiny"][part]:
        found, expected = getattr(ours, key), getattr(theirs_, key)
        if isinstance(expected, list | tuple):
            found, expected = list(found), list(expected)
        if key == "transformer_layers_per_block":
            found, expected = found[1:], expected[1:]  # of the level without attention: no matter
        assert found == expected, key


def test_weights_and_numbers_are_those_of_diffusers_own_pipeline(xl_base, xl_folder):
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder, local_files_only=True)
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(1, 77, 2048, generator=generator)
    added = {
        "text_embeds": torch.randn(1, 1280, generator=generator),
        "time_ids": torch.tensor([[64.0, 48.0, 8.0, 0.0, 64.0, 64.0]]),
    }
    x = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.no_grad():
        ours = xl_base.unet(x, 500, text, added_cond_kwargs=added).sample
        expected = pipeline.unet(x, 500, text, added_cond_kwargs=added).sample
        assert torch.equal(ours, expected)
        assert ours.std() > 0.01
    for part, module in modules(xl_base).items():
        found = getattr(pipeline, part).state_dict()
        assert all(torch.equal(found[k], v) for k, v in module.state_dict().items()), part


def test_compvis_names_agree_with_diffusers_converters(tmp_path, tensors, xl_folder):
    """The converters are semi-private in diffusers; our own names must mean the same."""
    configs = presets.PRESETS["sdxl-tiny"]
    for part, convert in (
        ("unet", theirs.convert_ldm_unet_checkpoint),
        ("vae", theirs.convert_ldm_vae_checkpoint),
    ):
        converted = convert(dict(tensors), configs[part])
        expected = load_file(xl_folder / part / "diffusion_pytorch_model.safetensors")
        assert converted.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(converted[name].reshape(value.shape), value), name


def test_text_encoders_agree_with_diffusers_converters(tensors, xl_folder):
    first = theirs.convert_ldm_clip_checkpoint(dict(tensors))
    expected = load_file(xl_folder / "text_encoder" / "model.safetensors")
    assert first.keys() == expected.keys()
    assert all(torch.equal(first[name], value) for name, value in expected.items())
    config = CLIPTextConfig(**presets.PRESETS["sdxl-tiny"]["text_encoder_2"])
    with init_empty_weights(include_buffers=False):
        module = CLIPTextModelWithProjection(config)
    second = theirs.convert_open_clip_checkpoint(module, dict(tensors), prefix=CLIP_G)
    expected = load_file(xl_folder / "text_encoder_2" / "model.safetensors")
    assert second.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(second[name], value), name
        assert (value != value.flatten()[0]).any(), name  # no names could be mixed up unseen


@pytest.mark.parametrize("preset", ["sdxl-slim", "sdxl-full"])
def test_all_names_of_the_real_geometry_are_told_apart(preset):
    rows = list(make.rows(preset, 0, "compvis"))
    assert len({key for _, key, _, _ in rows}) == len(rows)


def test_the_full_preset_has_the_published_numbers_of_parameters():
    counts = {
        part: sum(p.numel() for p in module.parameters())
        for part, module in make.skeletons("sdxl-full").items()
    }
    assert counts == {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }


def test_slim_preset_has_the_seventy_layers_of_the_real_model(tmp_path):
    make.write_compvis(tmp_path / "slim.safetensors", "sdxl-slim", "fp16")
    base = cpu(tmp_path / "slim.safetensors")
    assert len(base.layers) == 70
    assert [layer.path for layer in base.layers] == [
        layer.path for layer in FAMILIES["SDXL"].layers
    ]


def test_layers_are_numbered_in_execution_order(xl_base):
    ran = []
    handles = [
        part.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, part in xl_base.unet.named_modules()
        if path.endswith("attn2")
    ]
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        xl_base.unet(torch.zeros(1, 4, 8, 8), 5, torch.zeros(1, 5, 2048), added_cond_kwargs=added)
    for handle in handles:
        handle.remove()
    assert [layer.path for layer in xl_base.layers] == ran
    for layer in xl_base.layers:
        attention = xl_base.unet.get_submodule(layer.path)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            assert attention.get_submodule(name).weight.shape == layer.shape(name)
        assert attention.heads == max(1, layer.width // 64)


def test_modules_are_frozen_whole_and_in_eval_mode(xl_base):
    for part in modules(xl_base).values():
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(t.is_meta for t in (*part.parameters(), *part.buffers()))


# Forms of the same model


def test_fp16_variant_of_a_folder(tmp_path, xl_base):
    make.write_diffusers(tmp_path / "m", "sdxl-tiny", "fp16", variant=".fp16")
    assert same_base(cpu(tmp_path / "m").fingerprint, xl_base.fingerprint)


def test_sharded_folder(folder, xl_base):
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder_2", "model")):
        whole = folder / part / f"{stem}.safetensors"
        tensors, where = load_file(whole), {}
        for i in range(2):
            piece = dict(list(tensors.items())[i::2])
            name = f"{stem}.fp16-0000{i + 1}-of-00002.safetensors"
            save_file(piece, folder / part / name)
            where |= dict.fromkeys(piece, name)
        whole.unlink()
        index = folder / part / f"{stem}.safetensors.index.fp16.json"
        index.write_text(json.dumps({"weight_map": where}))
    assert_same_model(cpu(folder), xl_base)


def test_ckpt_of_plain_tensors(tensors, write, xl_base):
    path = write(tensors).with_suffix(".ckpt")
    torch.save({"state_dict": tensors}, path)
    assert_same_model(cpu(path), xl_base)


def test_a_projection_that_is_stored_as_a_linear_layer(tensors, write, xl_base):
    """As ComfyUI reads it: `text_projection.weight` is not turned."""
    changed = dict(tensors)
    projection = changed.pop(f"{CLIP_G}text_projection")
    changed[f"{CLIP_G}text_projection.weight"] = projection.T
    assert_same_model(cpu(write(changed)), xl_base)


@pytest.mark.parametrize("drop", [True, False])
def test_first_text_encoder_with_and_without_its_inner_level(drop, tensors, write, xl_base):
    start = "conditioner.embedders.0.transformer."
    if drop:
        tensors = {k.replace(f"{start}text_model.", start): v for k, v in tensors.items()}
    assert_same_model(cpu(write(tensors)), xl_base)


def test_tensors_in_memory_give_the_same_model(xl_checkpoint, xl_base):
    target = Target(torch.device("cpu"), torch.float32)
    weights = open_weights(xl_checkpoint)
    base = base_from_tensors("socket", weights, xl_base.tokenizers, xl_base.vae, target)
    assert_same_model(base, xl_base)


# Tokenizers


@pytest.mark.parametrize("text", ["a photo of a dog", "a dog! a cat!!!", "", "ü <dog1>"])
def test_both_tokenizers_read_the_same_ids_from_file_and_folder(text, xl_base, single):
    """Also "!", which a folder's second tokenizer has as the token to pad with."""
    ids = [t(text).input_ids for base in (single, xl_base) for t in base.tokenizers]
    assert ids == [ids[0]] * 4
    assert [t.model_max_length for t in xl_base.tokenizers] == [77, 77]


def test_a_given_tokenizer_is_for_both(xl_folder, tmp_path):
    make.write_tokenizer(tmp_path / "other", 700)
    base = cpu(xl_folder, tokenizer=tmp_path / "other")
    assert [t.eos_token_id for t in base.tokenizers] == [699, 699]


# VAE


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    """Where the VAE of another seed is, in every form, and its weights."""
    seven = tmp_path_factory.mktemp("seven")
    found = {"checkpoint": seven / "m.safetensors", "folder": seven / "m"}
    make.write_compvis(found["checkpoint"], "sdxl-tiny", "fp32", seed=7)
    make.write_diffusers(found["folder"], "sdxl-tiny", "fp32", seed=7)
    start = "first_stage_model."
    whole = load_file(found["checkpoint"])
    plain = load_file(seven / "m" / "vae" / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    aged = plain
    for ours, other in old.items():
        aged = {k.replace(f".{ours}.", f".{other}."): v for k, v in aged.items()}
    bare = {k.removeprefix(start): v for k, v in whole.items() if start in k}
    for form, tensors in {"bare": bare, "diffusers file": plain, "old": aged}.items():
        found[form] = seven / f"{form}.safetensors"
        save_file(tensors, found[form])
    return found, AutoencoderKL.from_pretrained(seven / "m" / "vae").state_dict()


def assert_same_vae(vae, expected):
    found = vae.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert vae.config.scaling_factor == 0.13025


@pytest.mark.parametrize("source", ["checkpoint", "bare", "diffusers file", "old", "folder"])
def test_a_vae_apart_in_every_form(source, vaes):
    paths, expected = vaes
    target = Target(torch.device("cpu"), torch.float32)
    assert_same_vae(vae_apart(paths[source], FAMILIES["SDXL"], target), expected)


@pytest.mark.parametrize("source", ["bare", "folder"])
def test_a_vae_apart_goes_before_the_models_own(source, vaes, xl_folder, xl_checkpoint):
    paths, expected = vaes
    for model in (xl_folder, xl_checkpoint):
        assert_same_vae(cpu(model, vae=paths[source]).vae, expected)


def test_a_model_without_vae_takes_one_apart(tensors, write, folder, xl_base, xl_checkpoint):
    kept = {k: v for k, v in tensors.items() if not k.startswith("first_stage_model.")}
    path = write(kept)
    with pytest.raises(HostError, match=r"has no VAE .* Give one of its family apart \(--vae"):
        cpu(path)
    assert_same_model(cpu(path, vae=xl_checkpoint), xl_base)
    vae = folder.parent / "vae"
    shutil.move(folder / "vae", vae)
    assert_same_model(cpu(folder, vae=vae), xl_base)


def test_a_vae_of_the_other_family_is_refused(folder, tiny_folder, xl_folder):
    with pytest.raises(HostError, match=r"by 0\.18215, as that of SD15 does; SDXL has 0\.13025"):
        cpu(folder, vae=tiny_folder)
    with pytest.raises(HostError, match=r"by 0\.13025, as that of SDXL does; SD15 has 0\.18215"):
        cpu(tiny_folder, vae=xl_folder / "vae")


def test_a_vae_of_the_other_family_is_refused_where_its_file_tells(
    tensors, tmp_path, tiny_folder, xl_folder, tiny_checkpoint, xl_checkpoint
):
    with pytest.raises(HostError, match=r"holds the VAE of SD15; SDXL scales"):
        cpu(xl_folder, vae=tiny_checkpoint)
    with pytest.raises(HostError, match=r"holds the VAE of SDXL; SD15 scales"):
        cpu(tiny_folder, vae=xl_checkpoint)
    start, path = "first_stage_model.", tmp_path / "vae.safetensors"
    bare = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    save_file(bare, path, {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"})
    with pytest.raises(HostError, match=r"holds the VAE of SDXL; SD15 scales"):
        cpu(tiny_folder, vae=path)
    old = shutil.copytree(tiny_folder / "vae", tmp_path / "old")
    told = json.loads((old / "config.json").read_text())
    del told["scaling_factor"]  # as in folders of before it was written: it is SD 1.5's then
    (old / "config.json").write_text(json.dumps(told))
    with pytest.raises(HostError, match=r"by 0\.18215, as that of SD15 does"):
        cpu(xl_folder, vae=old)


@pytest.mark.parametrize(
    ("name", "family", "told"),
    [
        ("sdxl_vae", "SD15", True),
        ("sdxl-vae-fp16-fix", "SDXL", False),
        ("vae-ft-mse-840000-ema-pruned", "SDXL", True),
        ("vae-ft-mse-840000-ema-pruned", "SD15", False),
        ("clear", "SDXL", False),
    ],
)
def test_a_bare_vae_tells_by_its_name_only(name, family, told, tmp_path, tensors, caplog):
    start, path = "first_stage_model.", tmp_path / f"{name}.safetensors"
    save_file({k.removeprefix(start): v for k, v in tensors.items() if start in k}, path)
    target = Target(torch.device("cpu"), torch.float32)
    vae_apart(path, FAMILIES[family], target)
    assert ("by its name" in caplog.text) == told


@pytest.mark.parametrize("name", ["nowhere", "unet"])
def test_what_is_no_vae(name, xl_folder):
    with pytest.raises(HostError):
        cpu(xl_folder, vae=xl_folder / name)


def test_a_lora_is_no_vae_nor_a_model(xl_base, xl_folder, tmp_path):
    bank, path = Bank(tmp_path / "bank"), tmp_path / "lora.safetensors"
    bank.add(random_concept(xl_base, "<a> <b>", seed=1))
    bank.export("a", path)
    with pytest.raises(HostError, match=r"lora\.safetensors holds no VAE"):
        cpu(xl_folder, vae=path)
    with pytest.raises(HostError, match="is a LoRA or a similar adapter"):
        cpu(path)
    for base in ("SD15", "SDXL"):
        with pytest.raises(CidmError, match="perhaps a plain LoRA"):
            import_concept(path, Bank(tmp_path / base), ImportConfig(class_words="dog"))


def test_a_tokenizer_of_another_size_is_refused(xl_folder, tmp_path):
    make.write_tokenizer(tmp_path / "other", 1000)
    with pytest.raises(HostError, match=r"has token 999, the text encoder ends at 767"):
        cpu(xl_folder, tokenizer=tmp_path / "other")


def test_the_vae_is_wider_than_fp16_unless_it_was_mended(folder, xl_checkpoint):
    for path in (folder, xl_checkpoint):
        base = cpu(path, dtype="fp16")
        assert (base.dtype, base.vae.dtype) == (torch.float16, torch.float32)
        assert cpu(path, dtype="bf16").vae.dtype == torch.bfloat16
    change(folder / "vae" / "config.json", force_upcast=False)
    assert cpu(folder, dtype="fp16").vae.dtype == torch.float16


# Prediction


@pytest.mark.parametrize(
    ("marks", "header", "expected"),
    [
        ((), None, "epsilon"),
        (("v_pred",), None, "v_prediction"),
        (("v_pred", "ztsnr"), None, "v_prediction"),
        ((), {"modelspec.prediction_type": "v"}, "v_prediction"),
        ((), {"modelspec.prediction_type": "epsilon"}, "epsilon"),
    ],
)
def test_what_it_predicts_is_told_by_its_marks(marks, header, expected, tensors, write):
    path = write(tensors | {mark: torch.tensor([]) for mark in marks}, header=header)
    base = cpu(path)
    assert base.prediction_type == expected
    assert ("trained_betas" in base.scheduler_config) == ("ztsnr" in marks)


def test_a_configuration_beside_the_file_goes_before_its_marks(tensors, write):
    path = write(tensors | {"v_pred": torch.tensor([])}, header={"modelspec.prediction_type": "v"})
    path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: eps\n")
    assert cpu(path).prediction_type == "epsilon"


# What is refused


def test_no_second_text_encoder(tensors, write, folder):
    kept = {k: v for k, v in tensors.items() if not k.startswith(CLIP_G)}
    with pytest.raises(HostError, match=r"no second text encoder \(.*embedders.1.model"):
        cpu(write(kept))
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(HostError, match=r"no text_encoder_2/config\.json"):
        cpu(folder)


def test_no_text_encoder_at_all_and_a_half_one(tensors, write):
    kept = {k: v for k, v in tensors.items() if "embedders" not in k}
    with pytest.raises(HostError, match="no first text encoder and no second text encoder"):
        cpu(write(kept))
    lost = f"{CLIP_G}transformer.resblocks.0.attn.in_proj_bias"
    kept = {k: v for k, v in tensors.items() if k != lost}
    with pytest.raises(HostError, match=r"second text encoder needs"):
        cpu(write(kept))
    kept = {k: v for k, v in tensors.items() if "embedders.1.model.transformer" not in k}
    with pytest.raises(HostError, match=r"second text encoder of .* is cut off"):
        cpu(write(kept))


def test_a_refiner(tensors, write, folder):
    start, end = "conditioner.embedders.", ".model."
    kept = {k: v for k, v in tensors.items() if f"{start}0" not in k}
    refiner = {k.replace(f"{start}1{end}", f"{start}0{end}"): v for k, v in kept.items()}
    with pytest.raises(FamilyError, match="is an SDXL refiner, which goes over finished"):
        cpu(write(refiner))
    shutil.rmtree(folder / "text_encoder")
    change(folder / "unet" / "config.json", cross_attention_dim=1280)
    with pytest.raises(FamilyError, match="is an SDXL refiner"):
        cpu(folder)


def test_inpainting_and_edit_models(tensors, write, folder):
    for channels, kind in ((9, "an inpainting model"), (8, "an edit model")):
        first = f"{UNET}input_blocks.0.0.weight"
        with pytest.raises(FamilyError, match=rf"takes {channels} channels \({kind}\)"):
            cpu(write(tensors | {first: torch.zeros(32, channels, 3, 3)}))
        change(folder / "unet" / "config.json", in_channels=channels)
        with pytest.raises(FamilyError, match=rf"takes {channels} channels \({kind}\)"):
            cpu(folder)


def pruned(depths):
    """The UNet's tensors with these depths and without the attention of the middle block."""
    config = presets.sdxl_unet_config((32, 64, 64), depths, 2)
    unet = UNet2DConditionModel.from_config({**config, "mid_block_type": "UNetMidBlock2D"})
    from cidm_core.checkpoints.compvis import unet_name

    return {unet_name(name, config): value for name, value in unet.state_dict().items()}


@pytest.mark.parametrize(
    ("depths", "name"),
    [((0, 2, 4), "SSD-1B"), ((0, 1, 2), "Segmind Vega"), ((0, 2, 3), "a pruned SDXL")],
)
def test_pruned_models(depths, name, tensors, write, folder):
    kept = {k: v for k, v in tensors.items() if not k.startswith(UNET)}
    with pytest.raises(FamilyError, match=rf"is {name}: .* Give the plain SDXL model"):
        cpu(write(kept | pruned(depths)))
    config = presets.sdxl_unet_config((32, 64, 64), depths, 2)
    told = {**config, "mid_block_type": "UNetMidBlock2D"}
    (folder / "unet" / "config.json").write_text(json.dumps(told))
    with pytest.raises(FamilyError, match=rf"is {name}: "):
        cpu(folder)


def test_a_consistency_model_in_a_folder(folder):
    change(folder / "unet" / "config.json", time_cond_proj_dim=256)
    with pytest.raises(FamilyError, match="is an LCM"):
        cpu(folder)


def test_distilled_models_are_loaded_with_a_word_of_advice(tensors, write, caplog):
    cpu(write(tensors, "sd_xl_turbo_1.0.safetensors"))
    assert "looks distilled" in caplog.text


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("DreamShaperXL_Lightning", "", True),
        ("x-Hyper-SDXL", "", True),
        ("model", "SDXL Turbo", True),
        ("hyperrealism", "", False),
        ("flashlightning", "Plain", False),
    ],
)
def test_distilled_models_are_told_by_name_or_title(name, title, expected):
    assert is_distilled(name, {"modelspec.title": title}) == expected
