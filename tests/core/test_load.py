"""Base models from files: same weights, same model; everything else is a clear error."""

import json
import pickle
import shutil
import socket
import struct

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from tools import checkpoint_presets as presets
from tools import make_checkpoint as make
from transformers import CLIPTokenizerFast

from cidm_core.checkpoints import compvis
from cidm_core.checkpoints.geometry import layers_of
from cidm_core.diffusers_host import load as module
from cidm_core.diffusers_host.load import load_base
from cidm_core.errors import FamilyError, HostError
from cidm_core.families import FAMILIES
from cidm_core.fingerprints import same_base

MID = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """No test reaches the network or the user's own Hugging Face cache."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"network used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
    return home


@pytest.fixture
def tensors(tiny_checkpoint):
    return load_file(tiny_checkpoint)


@pytest.fixture
def write(tmp_path, tiny_checkpoint):
    """Writes tensors as a checkpoint with a tokenizer beside it."""

    def save(tensors, name="model.safetensors", tokenizer=True):
        path = tmp_path / name
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        if tokenizer:
            shutil.copytree(
                tiny_checkpoint.parent / "tokenizer", tmp_path / "tokenizer", dirs_exist_ok=True
            )
        return path

    return save


@pytest.fixture
def folder(tmp_path, tiny_folder):
    """A copy of the diffusers folder to change."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def cpu(path, **options):
    return load_base(path, device="cpu", **{"dtype": "fp32", **options})


def outputs(base):
    """Text states, eps, latent mean and picture of fixed inputs."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([base.tokenizers[0]("a photo of a dog", padding="max_length").input_ids])
    x = torch.randn(1, 4, 8, 8, generator=generator).to(base.dtype)
    picture = torch.randn(1, 3, 64, 64, generator=generator).to(base.dtype)
    with torch.no_grad():
        states = base.text_encoders[0](ids).last_hidden_state
        eps = base.unet(x, 500, states).sample
        latent = base.vae.encode(picture).latent_dist.mean
        return states, eps, latent, base.vae.decode(latent).sample


def assert_same_model(a, b):
    for left, right in zip(outputs(a), outputs(b), strict=True):
        assert torch.equal(left, right)
        assert left.isfinite().all()
        assert left.std() > 0.01


# What is loaded


def test_single_file_and_folder_of_the_same_weights_are_the_same_model(tiny_base, tiny_checkpoint):
    base = cpu(tiny_checkpoint)
    assert base.fingerprint == tiny_base.fingerprint
    assert base.layers == tiny_base.layers
    assert base.family is FAMILIES["SD15"]
    assert (base.name, tiny_base.name) == ("tiny", "tiny-sd15")
    assert base.scheduler_config == tiny_base.scheduler_config
    assert base.prediction_type == "epsilon"
    assert_same_model(base, tiny_base)


def test_modules_are_frozen_whole_and_in_eval_mode(tiny_base):
    for part in (tiny_base.unet, tiny_base.vae, *tiny_base.text_encoders):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(t.is_meta for t in (*part.parameters(), *part.buffers()))
        assert {p.dtype for p in part.parameters()} == {torch.float32}


def test_weights_are_those_of_diffusers_own_loaders(tiny_base, tiny_folder):
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        expected = kind.from_pretrained(tiny_folder / part, local_files_only=True).state_dict()
        found = getattr(tiny_base, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("preset", ["tiny", "slim"])
def test_compvis_names_agree_with_diffusers_converters(preset, tmp_path):
    """The converters are semi-private in diffusers; our own names must mean the same."""
    make.write_compvis(tmp_path / "m.safetensors", preset, "fp16")
    make.write_diffusers(tmp_path / "m", preset, "fp16")
    flat, configs = load_file(tmp_path / "m.safetensors"), make.PRESETS[preset]
    for part, convert in (
        ("unet", theirs.convert_ldm_unet_checkpoint),
        ("vae", theirs.convert_ldm_vae_checkpoint),
    ):
        config = {**configs[part], "up_block_types": configs[part]["up_block_types"]}
        converted = convert(dict(flat), config)
        expected = load_file(tmp_path / "m" / part / "diffusion_pytorch_model.safetensors")
        assert converted.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(converted[name].reshape(value.shape), value), name


def test_slim_preset_has_the_layers_of_the_real_model(tmp_path):
    make.write_compvis(tmp_path / "slim.safetensors", "slim", "fp16")
    base = cpu(tmp_path / "slim.safetensors")
    assert [layer.path for layer in base.layers] == [
        layer.path for layer in FAMILIES["SD15"].layers
    ]
    eps = outputs(base)[1]
    assert eps.isfinite().all()


@pytest.mark.parametrize("preset", ["tiny", "slim"])
def test_layers_are_numbered_in_execution_order(preset):
    config = {**make.PRESETS[preset]["unet"], "cross_attention_dim": 48}
    unet = UNet2DConditionModel.from_config(config)
    ran = []
    for path, part in unet.named_modules():
        if path.endswith("attn2"):
            part.register_forward_hook(lambda *_, path=path: ran.append(path))
    with torch.no_grad():
        unet(torch.zeros(1, 4, 16, 16), 10, torch.zeros(1, 5, 48))
    layers = layers_of("x", unet.config)
    assert [layer.path for layer in layers] == ran
    for layer in layers:
        attention = unet.get_submodule(layer.path)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            assert attention.get_submodule(name).weight.shape == layer.shape(name)


def test_depths_and_a_level_without_attention_are_read_off_the_file():
    """SDXL-like arrangement: no attention outside, two blocks inside, three in the middle."""
    config = presets.unet_config((32, 64), (0, 2), 1)
    config["transformer_layers_per_block"] = [1, 2]
    unet = UNet2DConditionModel.from_config(config)
    shapes = {
        compvis.unet_name(name, config): tuple(p.shape) for name, p in unet.named_parameters()
    }
    found = UNet2DConditionModel.from_config(compvis.unet_config("x", shapes))
    assert {n: p.shape for n, p in found.named_parameters()} == {
        n: p.shape for n, p in unet.named_parameters()
    }
    assert layers_of("x", found.config) == layers_of("x", unet.config)


# Precision and device


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("fp16", "fp32"), ("fp16", "bf16"), ("bf16", "fp16"), ("bf16", torch.bfloat16)],
)
def test_precision_changes_neither_base_nor_meaning(stored, dtype, tiny_base, tmp_path):
    make.write_compvis(tmp_path / "m.safetensors", "tiny", stored)
    base = cpu(tmp_path / "m.safetensors", dtype=dtype)
    assert {p.dtype for p in base.unet.parameters()} == {base.dtype}
    assert {p.dtype for p in base.vae.parameters()} == {base.dtype}
    assert same_base(base.fingerprint, tiny_base.fingerprint)
    for found, expected in zip(outputs(base), outputs(tiny_base), strict=True):
        # bf16 keeps 8 bits; a few dozen roundings in a row stay within some per cent
        assert (found.float() - expected).norm() < 0.1 * expected.norm()


def test_another_seed_is_another_base(tiny_base, tmp_path):
    make.write_compvis(tmp_path / "m.safetensors", "tiny", "fp16", seed=1)
    base = cpu(tmp_path / "m.safetensors")
    assert not same_base(base.fingerprint, tiny_base.fingerprint)


def test_default_precision_on_the_cpu_is_fp32(tiny_folder):
    assert load_base(tiny_folder, device="cpu").dtype == torch.float32


@pytest.mark.parametrize("dtype", ["fp8", "float32", torch.int8])
def test_unknown_precision(dtype, tiny_folder):
    with pytest.raises(HostError, match="Use one of fp32, bf16, fp16"):
        load_base(tiny_folder, device="cpu", dtype=dtype)


def test_unknown_and_absent_devices(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HostError, match="Use cpu, cuda, cuda:0 or mps"):
        load_base(tiny_folder, device="gpu7x")
    with pytest.raises(HostError, match=r"'?cuda'? was asked for; this machine .* have cpu"):
        load_base(tiny_folder, device="cuda")


def test_the_file_may_change_once_it_is_loaded(tiny_checkpoint, tmp_path):
    path = tmp_path / "m.safetensors"
    shutil.copy(tiny_checkpoint, path)
    shutil.copytree(tiny_checkpoint.parent / "tokenizer", tmp_path / "tokenizer")
    base = cpu(path)
    before = outputs(base)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 10)
        file.write(b"\0" * (path.stat().st_size // 2))
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(base), strict=True))


# Forms of the same model


def test_fp16_variant_of_a_folder(tmp_path, tiny_base):
    make.write_diffusers(tmp_path / "m", "tiny", "fp16", variant=".fp16")
    assert same_base(cpu(tmp_path / "m").fingerprint, tiny_base.fingerprint)


def test_sharded_folder(folder, tiny_base):
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors, where = load_file(whole), {}
    for i in range(2):
        piece = dict(list(tensors.items())[i::2])
        name = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file(piece, folder / "unet" / name)
        where |= dict.fromkeys(piece, name)
    whole.unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert_same_model(cpu(folder), tiny_base)


def test_bin_weights_are_read_weights_only(folder, tiny_base):
    whole = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(whole), folder / "vae" / "diffusion_pytorch_model.bin")
    whole.unlink()
    assert_same_model(cpu(folder), tiny_base)


def test_old_names_of_the_vae_attention(folder, tiny_base):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for ours, theirs_ in old.items():
        tensors = {k.replace(f".{ours}.", f".{theirs_}."): v for k, v in tensors.items()}
    assert any(".query." in key for key in tensors)
    save_file(tensors, path)
    assert_same_model(cpu(folder), tiny_base)


@pytest.mark.parametrize("drop", [True, False])
def test_text_encoder_with_and_without_its_inner_level(drop, folder, tensors, write, tiny_base):
    """transformers 4 wrote `text_model.`, transformers 5 may not; both are read."""
    path = folder / "text_encoder" / "model.safetensors"
    if drop:
        save_file({k.removeprefix("text_model."): v for k, v in load_file(path).items()}, path)
        tensors = {k.replace(".text_model.", "."): v for k, v in tensors.items()}
    else:
        assert any(k.startswith("text_model.") for k in load_file(path))
    assert_same_model(cpu(folder), tiny_base)
    assert_same_model(cpu(write(tensors)), tiny_base)


@pytest.mark.parametrize(("zipped", "nested"), [(True, True), (False, False)])
def test_ckpt_of_plain_tensors(zipped, nested, tensors, write, tiny_base):
    path = write(tensors).with_suffix(".ckpt")
    found = {"state_dict": tensors, "global_step": 7} if nested else tensors
    torch.save(found, path, _use_new_zipfile_serialization=zipped)
    assert_same_model(cpu(path), tiny_base)


def test_ema_weights_beside_the_model_are_ignored(tensors, write, tiny_base):
    extra = {f"model_ema.x{i}": torch.ones(1) for i in range(200)}
    assert_same_model(cpu(write({**tensors, **extra})), tiny_base)


def test_schedule_of_a_folder_is_kept(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "X", "prediction_type": "v_prediction"}))
    base = cpu(folder)
    assert base.scheduler_config == {"prediction_type": "v_prediction"}
    assert base.prediction_type == "v_prediction"


def test_folder_without_schedule_has_that_of_the_family(folder):
    shutil.rmtree(folder / "scheduler")
    assert cpu(folder).scheduler_config["beta_end"] == 0.012


def test_model_by_its_name_in_the_local_cache(cache, tiny_folder, tiny_base):
    home = cache / "models--some--model"
    shutil.copytree(tiny_folder, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert cpu("some/model").fingerprint == tiny_base.fingerprint


# Tokenizers


def test_tokenizer_limit_is_the_family_s_whatever_the_folder_says(tiny_base, tiny_folder):
    claimed = json.loads((tiny_folder / "tokenizer" / "tokenizer_config.json").read_text())
    assert claimed["model_max_length"] == 8192
    assert tiny_base.tokenizers[0].model_max_length == 77


def test_tokenizer_is_found_given_or_in_the_cache(tensors, write, tmp_path, tiny_folder, cache):
    path = write(tensors, tokenizer=False)
    source = tiny_folder / "tokenizer"
    expected = cpu(tiny_folder).tokenizers[0]("a dog, <dog1> ü").input_ids
    with pytest.raises(HostError, match="No tokenizer found"):
        cpu(path)
    given = cpu(path, tokenizer=source)
    assert given.tokenizers[0]("a dog, <dog1> ü").input_ids == expected
    home = cache / "models--openai--clip-vit-large-patch14"
    shutil.copytree(source, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert cpu(path).tokenizers[0]("a dog, <dog1> ü").input_ids == expected


def test_a_given_tokenizer_wins_over_the_one_in_the_folder(tiny_folder, tmp_path):
    make.write_tokenizer(tmp_path / "other", 700)
    assert cpu(tiny_folder, tokenizer=tmp_path / "other").tokenizers[0].eos_token_id == 699
    with pytest.raises(HostError, match=r"No tokenizer found in .*nowhere"):
        cpu(tiny_folder, tokenizer=tmp_path / "nowhere")


def test_tokenizer_json_alone_is_enough(tiny_base, tiny_folder, tmp_path):
    fast = CLIPTokenizerFast.from_pretrained(tiny_folder / "tokenizer", local_files_only=True)
    fast.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    for given in (tmp_path, tmp_path / "tokenizer.json"):
        found = cpu(tiny_folder, tokenizer=given).tokenizers[0]
        text = "a photo of a dog"
        assert found(text).input_ids == tiny_base.tokenizers[0](text).input_ids
        assert found.model_max_length == 77
        assert found.pad_token_id == tiny_base.tokenizers[0].pad_token_id


def test_missing_tokenizer_says_what_to_do(tensors, write):
    with pytest.raises(HostError, match=r"vocab.json and merges.txt") as caught:
        cpu(write(tensors, tokenizer=False))
    for hint in ("beside the checkpoint", "--tokenizer", "comfy/sd1_tokenizer", "hf download"):
        assert hint in str(caught.value)


def test_tokenizer_with_more_tokens_than_the_encoder(tiny_folder, tmp_path):
    make.write_tokenizer(tmp_path / "big", 1000)
    with pytest.raises(HostError, match="has token 999, the text encoder ends at 767"):
        cpu(tiny_folder, tokenizer=tmp_path / "big")


def test_damaged_tokenizer(tiny_folder, tmp_path):
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(HostError, match="cannot be read"):
        cpu(tiny_folder, tokenizer=tmp_path)


# Models of another kind


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (1024, r"SD 2 model \(text width 1024\)"),
        (2048, r"text 2048 wide as SDXL does, but lacks label_emb"),
        (1280, r"an SDXL refiner \(text width 1280\)"),
        (640, r"of an unknown kind \(text width 640\); SD15 has 768"),
    ],
)
def test_family_is_told_by_the_text_width(width, message, tensors, write):
    tensors = {
        k: torch.zeros(v.shape[0], width) if "attn2.to_k" in k or "attn2.to_v" in k else v
        for k, v in tensors.items()
    }
    with pytest.raises(FamilyError, match=message):
        cpu(write(tensors))


def test_family_of_a_folder_is_told_too(folder):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cross_attention_dim": 2048}))
    with pytest.raises(FamilyError, match=r"text 2048 wide as SDXL does"):
        cpu(folder)


def test_inpainting_model(tensors, write):
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    with pytest.raises(FamilyError, match=r"takes 9 channels \(an inpainting model\)"):
        cpu(write(tensors))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x", "SD 3"),
        ("conditioner.embedders.0.model.x", "SDXL refiner"),
        ("model.diffusion_model.time_embed.cond_proj.weight", "LCM"),
        ("edm_mean", "Playground model"),
        ("edm_vpred.sigma_max", "CosXL model"),
        ("cond_stage_model.model.ln_final.bias", "SD 2"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
    ],
)
def test_other_models_are_named(key, kind, write):
    with pytest.raises(FamilyError, match=f"is an? {kind}"):
        cpu(write({key: torch.zeros(1)}))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_unet_down_blocks_0_x.lora_down.weight", "is a LoRA"),
        ("unet.down_blocks.0.attn2.to_q.lora_A.weight", "is a LoRA"),
        ("down_blocks.0.resnets.0.conv1.weight", "only a UNet"),
        ("decoder.conv_in.weight", "only a VAE"),
        ("text_model.embeddings.position_ids", "only a text encoder"),
        ("emb_params", "textual inversion"),
        ("something", r"1 tensors of an unknown kind \(something\)"),
    ],
)
def test_files_that_are_no_model(key, what, write):
    with pytest.raises(HostError, match=what):
        cpu(write({key: torch.zeros(1)}))


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("first_stage_model.", "no VAE"),
        ("cond_stage_model.", "no text encoder"),
        ("model.diffusion_model.", "no UNet"),
    ],
)
def test_missing_parts_are_named(prefix, part, tensors, write):
    kept = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
    with pytest.raises(HostError, match=rf"has {part} .*{prefix}"):
        cpu(write(kept))


# Damage


def test_empty_file(tmp_path):
    (tmp_path / "m.safetensors").touch()
    with pytest.raises(HostError, match="is empty"):
        cpu(tmp_path / "m.safetensors")


@pytest.mark.parametrize("share", [0.00001, 0.5, 0.999])
def test_truncated_file(share, tiny_checkpoint, tmp_path):
    whole = tiny_checkpoint.read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(HostError, match=r"no whole safetensors file.*Get the file again"):
        cpu(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!doctype html><title>Not found</title>", "web page"),
        (b"PK\x03\x04 and more", "PyTorch pickle"),
        (struct.pack("<Q", 2**62), "Get the file again"),
        (b"\xff" * 4096, "Get the file again"),
    ],
)
def test_a_file_under_a_false_name(content, hint, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(HostError, match=hint):
        cpu(tmp_path / "m.safetensors")


def test_a_lost_tensor_is_named(tensors, write):
    del tensors[MID]
    with pytest.raises(HostError, match=r"cut off|has no tensor"):
        cpu(write(tensors))


def test_a_tensor_of_another_shape_is_named(tensors, write):
    name = MID.replace("to_k", "to_q")
    tensors[name] = torch.zeros(64, 63)
    with pytest.raises(HostError, match=r"is \(64, 63\); this UNet needs \(64, 64\)") as caught:
        cpu(write(tensors))
    assert name in str(caught.value)


def test_a_level_lost_from_the_unet(tensors, write):
    kept = {k: v for k, v in tensors.items() if ".input_blocks.3." not in k}
    with pytest.raises(HostError):
        cpu(write(kept))


def test_weights_that_are_not_numbers(tensors, write):
    tensors[MID] = torch.full_like(tensors[MID], torch.nan)
    with pytest.raises(FamilyError, match="not finite"):
        cpu(write(tensors))


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True], ids=["one scale", "one a row"])
def test_scaled_8_bit_weights_are_what_their_scales_make_of_them(
    tensors, write, tiny_base, ending, rows
):
    scaled = dict(tensors) | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for key in [key for key, value in tensors.items() if "attn" in key and value.ndim == 2]:
        size = tensors[key].abs().amax(1) if rows else tensors[key].abs().max()
        scale = (size / 448).float()
        scaled[key] = (tensors[key] / (scale[:, None] if rows else scale)).to(torch.float8_e4m3fn)
        scaled[f"{key.removesuffix('.weight')}.{ending}"] = scale
    for found, ours in zip(outputs(cpu(write(scaled))), outputs(tiny_base), strict=True):
        assert (found - ours).std() < 0.1 * ours.std()


@pytest.mark.parametrize(
    ("value", "scale"),
    [
        (torch.int8, torch.tensor(0.1)),
        (torch.uint8, torch.ones(4).to(torch.float8_e4m3fn)),
        (torch.float8_e4m3fn, torch.ones(64, 8)),
        (torch.float8_e4m3fn, torch.ones(()).to(torch.uint8)),
        (torch.int8, None),
    ],
)
def test_other_quantised_weights_are_refused_as_such(tensors, write, value, scale):
    tensors[MID] = tensors[MID].to(value)
    if scale is not None:
        tensors[f"{MID.removesuffix('.weight')}.weight_scale"] = scale
    with pytest.raises(HostError, match=rf"model.safetensors is quantised \('{MID}'"):
        cpu(write(tensors))


def test_decoder_of_another_width(tensors, write):
    name = "first_stage_model.decoder.up.0.block.0.conv1.weight"
    tensors[name] = torch.zeros(64, 32, 3, 3)
    with pytest.raises(HostError, match=r"encoder widths \[32, 32, 32, 32\], decoder \[64"):
        cpu(write(tensors))


def test_no_such_file_ending_or_folder(tmp_path):
    with pytest.raises(HostError, match=r"no model at .*missing.safetensors"):
        cpu(tmp_path / "missing.safetensors")
    with pytest.raises(HostError, match="no model at"):
        cpu("models/missing.safetensors")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(HostError, match=r"ends in \.gguf"):
        cpu(tmp_path / "m.gguf")


def test_hub_name_that_is_not_local():
    with pytest.raises(HostError, match="hf download runwayml/stable-diffusion-v1-5"):
        cpu("runwayml/stable-diffusion-v1-5")


def test_folder_of_something_else(tmp_path):
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(HostError, match=r"no unet/config.json, .* It holds a.safetensors"):
        cpu(tmp_path)


def test_folder_without_weights(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(HostError, match=r"vae has no weights"):
        cpu(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"in_channels": "four"}', "\udcff"])
def test_folder_with_a_damaged_configuration(text, folder):
    (folder / "vae" / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(HostError):
        cpu(folder)


def test_text_encoder_of_another_width(folder):
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 384}))
    with pytest.raises(HostError, match=r"is \(768, 768\)|is \(\d+, 768\)"):
        cpu(folder)


def test_vae_of_another_cell_size(folder):
    config = presets.vae_config((32, 32), 1)
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(HostError):
        cpu(folder)


# Pickles


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_hostile_pickle_is_refused_and_never_runs(tmp_path, tensors):
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Canary(proof)))
    assert proof.exists()  # the canary sings
    proof.unlink()
    for name, zipped in (("new.ckpt", True), ("old.ckpt", False)):
        found = {"state_dict": {MID: tensors[MID]}, "x": Canary(proof)}
        torch.save(found, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(HostError, match="can run programs"):
            cpu(tmp_path / name)
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(Canary(proof)))
    with pytest.raises(HostError, match="can run programs"):
        cpu(tmp_path / "raw.ckpt")
    assert not proof.exists()


def test_old_torch_opens_no_pickle(tmp_path, tensors, monkeypatch):
    torch.save(tensors, tmp_path / "m.ckpt")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(HostError, match=r"m\.ckpt.*Update to torch 2\.6"):
        cpu(tmp_path / "m.ckpt")


def test_truncated_pickle(tmp_path, tensors):
    torch.save(tensors, tmp_path / "m.ckpt")
    whole = (tmp_path / "m.ckpt").read_bytes()
    (tmp_path / "m.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HostError, match="damaged"):
        cpu(tmp_path / "m.ckpt")


# mini-sd


def test_mini_sd_missing_from_the_installation(monkeypatch, tmp_path):
    monkeypatch.setitem(module._MINI_FOLDERS, "mini-sd", tmp_path / "gone")
    with pytest.raises(HostError, match="Install the package again"):
        cpu("mini-sd")


def test_mini_sd_by_its_name(monkeypatch, tmp_path):
    """A narrow model of the MINI family stands in for the trained one."""
    monkeypatch.setitem(module._MINI_FOLDERS, "mini-sd", tmp_path)
    make.write_diffusers(tmp_path, "mini", "fp16")
    base = cpu("mini-sd")
    assert base.family is FAMILIES["MINI"]
    assert base.name == "mini-sd"
    assert base.tokenizers[0].model_max_length == 48


def test_the_embedded_mini_sd_is_the_family_s_standard_member():
    base = cpu("mini-sd")
    assert base.layers == FAMILIES["MINI"].layers
    assert base.scheduler_config["timestep_spacing"] == "trailing"
    with torch.no_grad():
        ids = torch.tensor([base.tokenizers[0]("a red dog", padding="max_length").input_ids])
        states = base.text_encoders[0](ids).last_hidden_state
        eps = base.unet(torch.zeros(1, 8, 8, 8), 500, states).sample
    assert states.shape == (1, 48, 128)
    assert eps.isfinite().all()
