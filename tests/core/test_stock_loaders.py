"""What stock LoRA loaders make of a concept's file and of an exported LoRA: diffusers.

ComfyUI's is in tests/host/test_kinds.py.
"""

import copy
from dataclasses import replace

import diffusers
import pytest
import torch
from make import random_concept
from safetensors import safe_open
from safetensors.torch import load_file
from test_format2 import ENCODER, FIRST, KEY, draw, everything
from update_kinds import CLIF, concepts

from cidm_core.bank import Bank
from cidm_core.cli import main
from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.errors import BankError
from cidm_core.exporters.export import export_concept
from cidm_core.importers.concept_import import import_concept
from cidm_core.importers.settings import ImportConfig
from cidm_core.storage.concept_file import concept_to_bytes
from cidm_core.storage.stock_lora import write_lora
from cidm_core.updates import FullRank, LowRank, ValueResidual

SAME = {"rtol": 1e-5, "atol": 2e-6}
QUIET = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def pipe(tiny_base):
    """Function -> diffusers' own pipeline on a copy of the tiny model's parts."""

    def make():
        parts = (copy.deepcopy(p) for p in (tiny_base.text_encoders[0], tiny_base.unet))
        encoder, unet = parts
        return diffusers.StableDiffusionPipeline(
            tiny_base.vae,
            encoder,
            copy.deepcopy(tiny_base.tokenizers[0]),
            unet,
            diffusers.DDIMScheduler.from_config(tiny_base.scheduler_config),
            None,
            None,
            requires_safety_checker=False,
        )

    return make


def xl_pipe(base):
    """As `pipe`, of SDXL."""
    parts = (*base.text_encoders, *base.tokenizers, base.unet)
    return diffusers.StableDiffusionXLPipeline(
        base.vae,
        *(copy.deepcopy(part) for part in parts),
        diffusers.DDIMScheduler.from_config(base.scheduler_config),
        add_watermarker=False,
    )


def stock_concept(base, *, alpha=None):
    """Low rank of several ranks everywhere, value residuals, rows."""
    bank = concepts(base, kinds={"around": 1, "encoder": 1, "low": 1, "value": 1})
    found = {k: v for c in bank.values() for k, v in c.low_rank.items()}
    for part in ("k_proj", "v_proj", "out_proj"):
        found[f"{ENCODER}.self_attn.{part}"] = LowRank(draw(2, 768) / 28, draw(768, 2), 3.0)
    if alpha is not None:
        found = {k: replace(u, alpha=alpha) for k, u in found.items()}
    # Value residuals in one layer's place of a low-rank update.
    value = base.layers[1].path + ".to_v"
    return replace(bank["low"], updates=found | {value: bank["value"].updates[value]})


def changes(pipe, paths, path):
    """What diffusers' `load_lora_weights` makes of a file: the changes of the weights."""

    def weights():
        held = {}
        for name in paths:
            part, _, inner = name.partition(".")
            encoder = part.startswith("text_encoder")
            root = getattr(pipe, part) if encoder else pipe.unet
            inner = inner if encoder else name
            if encoder and not hasattr(root, "text_model"):
                inner = inner.removeprefix("text_model.")
            held[name] = root.get_submodule(inner).weight.detach().clone()
        return held

    before = weights()
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = weights()
    return {name: after[name] - before[name] for name in paths}


@QUIET
def test_diffusers_applies_the_low_rank_deltas_of_a_concept_file(tiny_base, pipe, tmp_path):
    """Of other ranks, in attn2, attn1, feed-forward and text encoder; the rest is passed over."""
    concept = stock_concept(tiny_base, alpha=2.0)
    path = tmp_path / "pets.safetensors"
    path.write_bytes(concept_to_bytes(concept))
    found = changes(pipe(), concept.updates, path)
    for name, update in concept.updates.items():
        expected = update.delta if isinstance(update, LowRank) else torch.zeros(1)
        torch.testing.assert_close(found[name], expected.expand_as(found[name]), **SAME)


@QUIET
@pytest.mark.parametrize("exported", [False, True], ids=["concept file", "exported"])
def test_diffusers_applies_those_of_sdxl(xl_base, tmp_path, exported):
    """In attn2, attn1 and both text encoders."""
    inner = "text_model.encoder.layers.1"
    paths = [f"{layer.path}.{p}" for layer in xl_base.layers for p in ("to_k", "to_out.0")]
    paths += [f"{xl_base.layers[1].path.replace('attn2', 'attn1')}.{p}" for p in ("to_q", "to_v")]
    # diffusers reads a text encoder's attention where all four of its layers are there.
    parts = ("mlp.fc1", *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")))
    paths += [f"{e}.{inner}.{part}" for e in ("text_encoder", "text_encoder_2") for part in parts]
    updates = {}
    for path in paths:
        out, into = xl_base.module(path).weight.shape
        updates[path] = LowRank(draw(2, into) / into**0.5, draw(out, 2) / 2, 2.0)
    concept = replace(random_concept(xl_base, "<a> <b>", seed=1), updates=updates)
    path = tmp_path / "pets.safetensors"
    if exported:
        write_lora(concept, path)
    else:
        path.write_bytes(concept_to_bytes(concept))
    for name, change in changes(xl_pipe(xl_base), updates, path).items():
        torch.testing.assert_close(change, updates[name].delta, **SAME, msg=name)


@QUIET
def test_diffusers_refuses_full_rank_and_reads_it_exported(tiny_base, pipe, tmp_path):
    """`.diff` is a name diffusers knows not; and of attention's alphas it takes the commonest."""
    mixed = stock_concept(tiny_base)
    full = {
        f"{tiny_base.layers[0].path}.to_k": FullRank(draw(32, 768)),
        f"{tiny_base.layers[2].path}.to_q": FullRank(draw(64, 64)),
        f"{ENCODER}.mlp.fc2": FullRank(draw(768, 64)),
    }
    concept = replace(mixed, updates={**mixed.updates, **full})
    path = tmp_path / "pets.safetensors"
    path.write_bytes(concept_to_bytes(concept))
    with pytest.raises(ValueError, match=r"not been correctly renamed(?s:.*)attn2_to_k.diff"):
        pipe().load_lora_weights(str(tmp_path), weight_name=path.name)
    lora = tmp_path / "plain.safetensors"
    write_lora(concept, lora)
    found = changes(pipe(), concept.updates, lora)
    for name, update in concept.updates.items():
        value = isinstance(update, ValueResidual)
        expected = torch.zeros_like(found[name]) if value else update.delta
        torch.testing.assert_close(found[name], expected, **SAME)


def test_an_exported_lora_has_one_alpha_and_the_same_deltas(tmp_path):
    concept = everything("SDXL")
    path = tmp_path / "plain.safetensors"
    write_lora(concept, path)
    with safe_open(path, "pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        texts = file.metadata()
    alphas = {float(tensor) for key, tensor in held.items() if key.endswith(".alpha")}
    assert alphas == {2.0}
    assert texts["ss_network_alpha"] == "2.0"
    assert not any(key.endswith(".diff") or "cidm" in key for key in held)
    key = f"{KEY}_k"
    down, up = held[f"{key}.lora_down.weight"], held[f"{key}.lora_up.weight"]
    delta = concept.updates[f"{FIRST}.to_k"].delta
    torch.testing.assert_close(2.0 / len(down) * up @ down, delta)
    down, up = held[f"{KEY}_q.lora_down.weight"], held[f"{KEY}_q.lora_up.weight"]
    torch.testing.assert_close(2.0 / len(down) * up @ down, concept.updates[f"{FIRST}.to_q"].delta)


SMALL = {"height": 64, "width": 64}
WEIGHTS = "pytorch_custom_diffusion_weights.safetensors"


@QUIET
@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_diffusers_own_custom_diffusion_loader_draws_what_we_draw(
    tiny_base, xl_base, pipe, tmp_path, family
):
    """All of cross-attention in one layer with its bias, keys and values in the others."""
    base = tiny_base if family == "SD15" else xl_base
    bank, theirs = Bank(tmp_path / "bank"), pipe() if family == "SD15" else xl_pipe(xl_base)
    bank.add(concepts(base, kinds={"full": 1})["full"])
    folder = tmp_path / "out"
    files = export_concept(bank, "full", folder, "diffusers-custom-diffusion", base)
    assert [path.name for path in files] == [WEIGHTS, "k2.safetensors"]
    held = load_file(files[0])
    theirs.unet.load_attn_procs(held)  # without its private argument it does nothing
    assert not any("Custom" in type(p).__name__ for p in theirs.unet.attn_processors.values())
    bare = {key: value for key, value in held.items() if value.numel()}  # as its script saves them
    with pytest.raises(ValueError, match="number of processors"):
        theirs.unet.load_attn_procs(bare, _pipeline=theirs)
    theirs.unet.load_attn_procs(folder, weight_name=WEIGHTS, _pipeline=theirs)
    assert all("CustomDiffusion" in type(p).__name__ for p in theirs.unet.attn_processors.values())
    if family == "SD15":
        theirs.load_textual_inversion(folder, weight_name="k2.safetensors")
    else:
        theirs.tokenizer_2.pad_token = "!"  # as SDXL's own folder says
        rows = load_file(files[1])
        for clip, number in (("clip_l", ""), ("clip_g", "_2")):
            parts = {k: getattr(theirs, k + number) for k in ("text_encoder", "tokenizer")}
            theirs.load_textual_inversion(rows[clip], token="<k2>", **parts)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", **SMALL}
    given |= {"negative_prompt": ""}  # which SDXL's pipeline reads as zeros where it is not given
    expected = theirs("a <k2> vase", latents=noise.clone(), **given).images
    settings = SampleConfig(
        steps=3, guidance_scale=4.0, scheduler="ddim", height_px=64, width_px=64
    )
    plan = make_plan(base, bank, "a <k2> vase", config=settings)
    assert [concept.name for concept in plan.concepts] == ["full"]
    found = sampler.sample(base, plan, noise, settings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))
    plain = sampler.sample(base, make_plan(base, {}, "a vase", config=settings), noise, settings)
    assert (plain - expected).abs().max() > 0.1


@QUIET
@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_diffusers_draws_several_subjects_of_clif_as_we_draw_them(
    tiny_base, xl_base, pipe, tmp_path, family
):
    """LoRA of self- and cross-attention, and a file of words for each subject."""
    base = tiny_base if family == "SD15" else xl_base
    bank, theirs = Bank(tmp_path / "bank"), pipe() if family == "SD15" else xl_pipe(xl_base)
    made = bank.add(concepts(base, kinds=CLIF)["clif"])
    lora, *words = export_concept(bank, "clif", tmp_path / "out", "pivotal-tuning")
    assert [path.name for path in words] == ["pur_emb.safetensors", "tea_emb.safetensors"]
    assert lora == tmp_path / "out" / "loras" / "clif.safetensors"
    theirs.load_lora_weights(str(lora.parent), weight_name=lora.name)
    parts = [("clip_l", theirs.text_encoder, theirs.tokenizer)]
    if family == "SDXL":
        theirs.tokenizer_2.pad_token = "!"  # as SDXL's own folder says
        parts.append(("clip_g", theirs.text_encoder_2, theirs.tokenizer_2))
    for path, subject in zip(words, made.subjects, strict=True):
        rows = load_file(path)
        assert set(rows) == {clip for clip, *_ in parts}
        for clip, encoder, tokenizer in parts:
            theirs.load_textual_inversion(
                rows[clip], token=list(subject.words), text_encoder=encoder, tokenizer=tokenizer
            )
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", **SMALL}
    prompt = "a <pur1> <pur2> and a <tea1> <tea2> vase"
    expected = theirs(prompt, negative_prompt="", latents=noise.clone(), **given).images
    settings = SampleConfig(
        steps=3, guidance_scale=4.0, scheduler="ddim", height_px=64, width_px=64
    )
    found = sampler.sample(base, make_plan(base, bank, prompt, config=settings), noise, settings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5 * float(expected.std()))
    plain = sampler.sample(base, make_plan(base, {}, "a vase", config=settings), noise, settings)
    assert (plain - expected).abs().max() > 0.1


def test_words_of_clif_come_in_as_textual_inversions(xl_base, tmp_path):
    bank = Bank(tmp_path / "bank")
    made = bank.add(concepts(xl_base, kinds=CLIF)["clif"])
    _, *words = export_concept(bank, "clif", tmp_path / "out", "pivotal-tuning")
    for k, (path, subject) in enumerate(zip(words, made.subjects, strict=True)):
        told = ImportConfig(class_words="cat", words=" ".join(subject.words))
        back, _ = import_concept(path, Bank(tmp_path / "words"), told, xl_base)
        for encoder, rows in back.rows.items():
            assert torch.equal(rows, made.rows[encoder][2 * k : 2 * k + 2])


def test_subjects_whose_words_would_have_one_file_are_refused(xl_base, tmp_path):
    bank = Bank(tmp_path / "bank")
    made = concepts(xl_base, kinds=CLIF)["clif"]
    subjects = tuple(Subject((f"<a{k}>", f"<a{k + 1}>"), "cat") for k in (1, 3))
    bank.add(replace(made, subjects=subjects))
    with pytest.raises(BankError, match="would have one file"):
        export_concept(bank, "clif", tmp_path / "out", "pivotal-tuning")


def test_the_command_line_reads_the_models_files_only(tiny_base, tiny_folder, tmp_path, capsys):
    """Out and in again: what changes is what came, to a rounding of the learned matrices."""
    bank, delta = Bank(tmp_path / "bank"), tmp_path / "delta.ckpt"
    made = bank.add(concepts(tiny_base, kinds={"full": 1})["full"])
    model = ["--model", str(tiny_folder)]
    export = ["bank", "export", "full", "--bank", str(bank.path), "--as", "compvis-delta"]
    assert main([*export, "--out", str(delta)]) != 0
    assert "Give the model it was learned on" in capsys.readouterr().err
    assert main([*export, "--out", str(delta), *model]) == 0
    other = ["--bank", str(tmp_path / "other"), "--class-words", "vase", "--name", "back"]
    words = ["--words", "<k2>", "--allow-other-base"]
    assert main(["bank", "import", str(delta), *other, *words, *model]) == 0
    back = Bank(tmp_path / "other")["back"]
    assert torch.equal(back.rows["text_encoder"], made.rows["text_encoder"])
    for path, update in made.updates.items():
        torch.testing.assert_close(back.updates[path].delta, update.delta, rtol=0, atol=5e-7)
    assert set(made.updates) <= set(back.updates)
