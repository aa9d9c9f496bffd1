"""Public .pth files come in safely and exactly; plain LoRAs go out."""

import builtins
import io
import os
import pickle
import random

import pytest
import torch
from bank_samples import BASE, contents, make_concept, same
from safetensors import safe_open

from cidm_core.bank import Bank
from cidm_core.errors import BankError
from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.importers import tables
from cidm_core.importers.cifc_concept import read_pth
from cidm_core.storage.concept_file import read_concept
from cidm_core.storage.stock_lora import write_lora

ASK = {"class_words": "dog", "kind": "object", "family": "SD15", "base": BASE}
DOWN, UP = "lora_down.weight", "lora_up.weight"


def released(family="SD15", rank=2, words=("<dog1>", "<dog2>")):
    """What a public training run saves."""
    row = FAMILIES[family]
    torch.manual_seed(0)
    unet = {}
    for layer in row.layers:
        for projection in PROJECTIONS:
            out, into = layer.shape(projection)
            unet[f"{layer.path}.{projection}.{DOWN}"] = torch.randn(rank, into)
            unet[f"{layer.path}.{projection}.{UP}"] = torch.randn(out, rank)
    rows = {word: torch.randn(len(row.layers), row.context_dim) for word in words}
    return {"params": {"new_concept_embedding": rows, "unet": unet, "lag": {}}}


@pytest.fixture
def save(tmp_path):
    def saving(content, name="edlora_model-latest.pth"):
        path = tmp_path / name
        torch.save(content, path)
        return path

    return saving


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_their_delta_is_our_delta(save, scale):
    theirs = released()
    concept = read_pth(save(theirs), **ASK, scale=scale)
    unet = theirs["params"]["unet"]
    assert len(concept.low_rank) == 64
    for path, pair in concept.low_rank.items():
        expected = scale * (unet[f"{path}.{UP}"] @ unet[f"{path}.{DOWN}"])  # plain alpha
        torch.testing.assert_close(pair.delta, expected, rtol=1e-5, atol=1e-6)


def test_their_tokens_are_ours_layer_by_layer(save):
    theirs = released()
    concept = read_pth(save(theirs), **ASK)
    assert concept.words == ("<dog1>", "<dog2>")
    assert concept.layers == tuple(layer.path for layer in FAMILIES["SD15"].layers)
    tokens = concept.rows["text_encoder"]
    assert tokens.shape == (2, 16, 768)
    for word, rows in zip(concept.words, tokens, strict=True):
        assert torch.equal(rows, theirs["params"]["new_concept_embedding"][word])
    assert concept.facts == {"imported": "edlora_model-latest.pth", "scale": 1.0}


def test_it_lives_in_a_bank(save, tmp_path):
    bank = Bank(tmp_path / "bank")
    concept = read_pth(save(released()), **ASK)
    bank.add(concept)
    assert same(bank["dog"], concept)


def test_words_can_be_chosen_and_ordered(save):
    path = save(released(words=("<a>", "<b>", "<c>")))
    assert read_pth(path, **ASK, words=["<c>", "<a>"]).words == ("<c>", "<a>")
    with pytest.raises(BankError, match=r"holds tokens for <a>, <b>, <c>.*\(<d>\)"):
        read_pth(path, **ASK, words=["<d>"])


def test_without_params_and_in_half_precision(save):
    params = released()["params"]
    del params["lag"]
    params["unet"] = {
        key: torch.nn.Parameter(value.half()) for key, value in params["unet"].items()
    }
    concept = read_pth(save(params), **ASK)
    pair = next(iter(concept.low_rank.values()))
    assert pair.down.dtype == torch.float16
    assert not pair.down.requires_grad


def test_one_token_for_all_layers_is_spread(save):
    theirs = released()
    rows = {"<dog1>": torch.randn(1, 768), "<dog2>": torch.randn(768)}
    theirs["params"]["new_concept_embedding"] = rows
    tokens = read_pth(save(theirs), **ASK).rows["text_encoder"]
    assert torch.equal(tokens[0], rows["<dog1>"].expand(16, -1))
    assert torch.equal(tokens[1, 7], rows["<dog2>"])


def test_convolutions_of_one_pixel_are_linear_layers(save):
    theirs = released()
    unet = theirs["params"]["unet"]
    unet.update({key: value[..., None, None] for key, value in list(unet.items())[:2]})
    assert len(read_pth(save(theirs), **ASK).low_rank) == 64


def test_what_is_left_out_is_named(save):
    theirs = released()
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    theirs["params"]["unet"] |= {
        f"{block}.ff.net.0.proj.{DOWN}": torch.ones(2, 320),
        f"{block}.ff.net.0.proj.{UP}": torch.ones(2560, 2),
    }
    theirs["params"]["text_encoder"] = {"layers.0.q_proj.lora_down.weight": torch.ones(2, 768)}
    theirs["params"]["other"] = {"a": 1}
    concept = read_pth(save(theirs), **ASK)
    assert concept.facts["left_out"] == {"other": 1, "text_encoder": 1, "unet ff": 2}
    assert len(concept.updates) == 64


def test_self_attention_and_text_encoder_come_along(save, tmp_path):
    theirs = released()
    attn1 = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    text = "text_model.encoder.layers.0.self_attn.q_proj"
    for part, path, width in (("unet", attn1, 320), ("text_encoder", text, 768)):
        rows = theirs["params"].setdefault(part, {})
        rows |= {f"{path}.{DOWN}": torch.randn(2, width), f"{path}.{UP}": torch.randn(width, 2)}
    concept = read_pth(save(theirs), **ASK)
    assert set(concept.updates) - set(read_pth(save(released()), **ASK).updates) == {
        attn1,
        f"text_encoder.{text}",
    }
    assert "left_out" not in concept.facts
    bank = Bank(tmp_path / "bank")
    bank.add(concept)
    assert same(bank["dog"], concept)
    theirs["params"]["text_encoder"][f"{text}.{UP}"] = torch.ones(640, 2)
    with pytest.raises(BankError, match="SD15 has 768 x 768 there"):
        read_pth(save(theirs), **ASK)


def test_it_is_called_after_its_words(save):
    assert read_pth(save(released(words=("<bun1>", "<bun2>"))), **ASK).name == "bun"


def change(edit):
    content = released()
    edit(content["params"])
    return content


def set_first(ending, value):
    def edit(params):
        key = next(key for key in params["unet"] if key.endswith(ending))
        params["unet"][key] = value

    return edit


WRONG = {
    "missing up": (
        lambda p: p["unet"].pop(next(k for k in p["unet"] if k.endswith(UP))),
        "lacks its down or up",
    ),
    "no cross-attention": (lambda p: p.update(unet={}), "no cross-attention weights"),
    "no words": (lambda p: p.update(new_concept_embedding={}), "holds tokens for no word"),
    "wrong width": (set_first(DOWN, torch.ones(2, 640)), "SD15 has 320 x 320 there"),
    "wrong rank": (set_first(DOWN, torch.ones(3, 320)), "SD15 has 320 x 320 there"),
    "NaN": (set_first(DOWN, torch.full((2, 320), torch.nan)), "NaN"),
    "integers": (set_first(DOWN, torch.ones(2, 320, dtype=torch.int64)), "no plain numbers"),
    "a string": (set_first(DOWN, "hello"), "is no tensor"),
    "a list of words": (
        lambda p: p.update(new_concept_embedding=["<a>"]),
        "is no tensor|holds tokens",
    ),
    "other layers": (
        lambda p: p.update(new_concept_embedding={"<a>": torch.ones(70, 768)}),
        r"tokens of '<a>' are \(70, 768\); SD15 has \(16, 768\)",
    ),
    "empty word": (lambda p: p.update(new_concept_embedding={"": torch.ones(16, 768)}), "word"),
    "sparse": (set_first(DOWN, torch.ones(2, 320).to_sparse()), "no plain numbers|not opened"),
}


@pytest.mark.parametrize("case", WRONG)
def test_unfit_contents_are_named(save, case):
    edit, text = WRONG[case]
    with pytest.raises(BankError, match=text) as caught:
        read_pth(save(change(edit)), **ASK)
    assert "edlora_model-latest.pth" in str(caught.value)


LAYOUTS = {
    "textual inversion": ({"string_to_param": {"*": torch.ones(1, 768)}}, "textual inversion"),
    "checkpoint": ({"state_dict": {"a": torch.ones(1)}}, "a whole checkpoint"),
    "plain LoRA": ({"lora_unet_x.lora_up.weight": torch.ones(1)}, "a plain LoRA"),
    "diffusers LoRA": (
        {"a.attn1.processor.to_q_lora.up.weight": torch.ones(1)},
        "a diffusers LoRA",
    ),
    "peft LoRA": ({"a.lora_A.weight": torch.ones(1)}, "a peft LoRA"),
    "tensor": (torch.ones(3), "is Tensor"),
    "list": ([1, 2], "is list"),
    "other table": ({"hello": 1}, "a table with 'hello'"),
    "number keys": ({1: 2}, "a table with '1'"),
    "empty": ({}, "is dict"),
    "params no table": ({"params": 3}, "is dict"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_other_layouts_are_recognised(save, case):
    content, text = LAYOUTS[case]
    with pytest.raises(BankError, match=text) as caught:
        read_pth(save(content), **ASK)
    assert "expected a CIFC or Mix-of-Show file" in str(caught.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_odd_scales_are_refused(save, scale):
    with pytest.raises(BankError, match="The scale is"):
        read_pth(save(released()), **ASK, scale=scale)


@pytest.mark.parametrize("family", ["SDXL", "SD9"])
def test_families_without_such_files_are_refused(save, family):
    with pytest.raises(BankError, match="such files exist for SD15"):
        read_pth(save(released()), **(ASK | {"family": family}))


class Payload:
    """Runs `function(*args)` in whoever unpickles it without care."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(canary):
    command = f"open({str(canary)!r}, 'w').close()"
    return {
        "system": Payload(os.system, f"touch {canary}"),
        "exec": Payload(builtins.exec, command),
        "eval": Payload(builtins.eval, command),
        "open": Payload(builtins.open, str(canary), "w"),
        "mkdir": Payload(os.mkdir, str(canary)),
        "getattr": Payload(builtins.getattr, Payload(os.system, f"touch {canary}"), "x"),
        "import": Payload(builtins.__import__, "antigravity"),
        "torch.load": Payload(torch.load, str(canary)),
        "torch.save": Payload(torch.save, torch.ones(1), str(canary)),
        "map": Payload(builtins.map, builtins.print, ["x"]),
    }


@pytest.mark.parametrize("case", payloads("x"))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "raw", "hidden"])
def test_hostile_files_are_refused_and_run_nothing(tmp_path, case, form):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    payload = payloads(canary)[case]
    if form == "raw":
        path.write_bytes(pickle.dumps(payload))
    elif form == "hidden":
        content = released(rank=1)
        content["params"]["lag"] = payload
        torch.save(content, path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(BankError, match=r"more than plain tensors.* was not opened"):
        read_pth(path, **ASK)
    assert not canary.exists()


def test_a_training_program_s_checkpoint_is_refused_with_the_way_through(tmp_path):
    """Lightning pickles classes beside the tensors."""
    path = tmp_path / "delta.ckpt"
    torch.save({"state_dict": {}, "callbacks": {random.Random: 1}}, path)
    with pytest.raises(BankError, match=r"more than plain tensors \(random.Random\).*python -c"):
        read_pth(path, **ASK)


def test_damaged_files_raise_nothing_but_our_error(save, tmp_path):
    content = {"params": {"new_concept_embedding": {"<a>": torch.ones(16, 768)}, "unet": {}}}
    good = save(content).read_bytes()
    path = tmp_path / "x.pth"
    rng = random.Random(0)
    cases = [b"", b"\0" * 100, b"<html>not found</html>", b"PK\x03\x04", b"\x80\x02."]
    cases += [good[: rng.randrange(len(good))] for _ in range(40)]
    for _ in range(150):
        changed = bytearray(good)
        changed[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        cases.append(bytes(changed))
    for case in cases:  # a flip may hit the tokens' values, but there are no weights either way
        path.write_bytes(case)
        with pytest.raises(BankError, match=r"x\.pth"):
            read_pth(path, **ASK)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(BankError, match=r"gone.pth: cannot be read .*Check the path"):
        read_pth(tmp_path / "gone.pth", **ASK)
    with pytest.raises(BankError, match="cannot be read"):
        read_pth(tmp_path, **ASK)


def test_huge_files_and_old_torch_are_refused_unopened(save, monkeypatch):
    path = save(released())
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    monkeypatch.setattr(tables, "MAX_BYTES", 1000)
    with pytest.raises(BankError, match="larger than 1000"):
        read_pth(path, **ASK)
    monkeypatch.setattr(tables, "MAX_BYTES", 2**30)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(BankError, match=r"Update to torch 2\.6"):
        read_pth(path, **ASK)


def test_loading_is_weights_only_on_the_cpu(save, monkeypatch):
    path, real, asked = save(released()), torch.load, []

    def loading(*args, **rest):
        asked.append(rest)
        return real(*args, **rest)

    monkeypatch.setattr(torch, "load", loading)
    read_pth(path, **ASK)
    assert asked == [{"map_location": "cpu", "weights_only": True, "mmap": False}]


def test_a_plain_lora_goes_out_without_tokens(tmp_path):
    concept = make_concept(layers=3, created="2026-01-02T03:04:05+00:00")
    path = tmp_path / "out.safetensors"
    write_lora(concept, path)
    with safe_open(path, "pt") as file:
        keys, texts = set(file.keys()), file.metadata()
        key = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_v"
        pair = concept.low_rank["down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v"]
        assert torch.equal(file.get_tensor(f"{key}.lora_up.weight"), pair.up)
        assert torch.equal(file.get_tensor(f"{key}.lora_down.weight"), pair.down)
        assert file.get_tensor(f"{key}.alpha") == torch.tensor(3.2)
    assert len(keys) == 3 * 4 * 3
    assert not any("token" in key for key in keys)
    assert "cidm" not in texts
    assert texts["modelspec.trigger_phrase"] == "<dog-1> <dog-2>"
    assert texts["modelspec.date"] == "2026-01-02T03:04:05+00:00"


def test_lora_files_need_their_ending(tmp_path):
    with pytest.raises(BankError, match=r"should end in .safetensors"):
        write_lora(make_concept(), tmp_path / "out.pt")
    assert os.listdir(tmp_path) == []


def test_our_own_files_come_from_anywhere(tmp_path):
    bank, other = Bank(tmp_path / "a"), Bank(tmp_path / "b")
    for name in ("cat", "dog"):
        bank.add(make_concept(name))
    concept = read_concept(bank.path / "dog.safetensors")
    assert other.add(concept).index == 0
    assert same(other["dog"], bank["dog"])
    before = contents(other.path)
    lora = tmp_path / "lora.safetensors"
    bank.export("cat", lora)
    with pytest.raises(
        BankError, match=r"lora.safetensors: holds no concept, perhaps a plain LoRA"
    ):
        read_concept(lora)
    assert contents(other.path) == before


def test_a_legacy_file_of_plain_weights_is_welcome(tmp_path):
    path = tmp_path / "old.pth"
    buffer = io.BytesIO()
    torch.save(released(), buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue())
    assert len(read_pth(path, **ASK).low_rank) == 64
