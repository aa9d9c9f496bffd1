"""One concept in one file: what is written, and that nothing damaged is ever read."""

import json
import math
import os
import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bank_samples import flip, forge, make_concept, same, sign, split
from safetensors import safe_open

from cidm_core.concept import Subject
from cidm_core.errors import BankError, CidmError, ConceptError
from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.storage import record
from cidm_core.storage.concept_file import concept_from_bytes, concept_to_bytes, read_concept
from cidm_core.storage.record import read_entry
from cidm_core.updates import FullRank, LowRank, ValueResidual


@pytest.fixture
def data():
    return concept_to_bytes(make_concept(index=3, created="2026-01-02T03:04:05+00:00"))


@pytest.fixture
def path(tmp_path, data):
    path = tmp_path / "dog.safetensors"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_concept_comes_back_bit_for_bit(dtype):
    concept = make_concept(dtype=dtype, index=3, created="2026-01-02T03:04:05+00:00")
    found = concept_from_bytes(concept_to_bytes(concept), "dog")
    assert same(concept, found)
    assert found.rows["text_encoder"].dtype == dtype
    assert (found.index, found.created) == (3, "2026-01-02T03:04:05+00:00")
    assert found.config == {"steps": 800, "lr_lora": 1e-4}
    assert found.facts == {"photos": 5, "loss": 0.125}


def test_mixed_types_ranks_and_missing_projections_come_back():
    concept = make_concept()
    updates = dict(concept.updates)
    first, second, *rest = updates
    del updates[rest[0]]
    updates[first] = LowRank(torch.ones(3, 4).half(), torch.ones(4, 3).half(), 0.5)
    updates[second] = LowRank(torch.ones(1, 4).bfloat16(), torch.ones(4, 1).bfloat16(), 7.0)
    concept = make_concept(name="x", paths=concept.layers)
    object.__setattr__(concept, "updates", updates)
    found = concept_from_bytes(concept_to_bytes(concept), "x")
    assert same(concept, found)
    assert found.low_rank[first].alpha == 0.5


def test_every_kind_of_update_row_and_subject_comes_back():
    block = "mid_block.attentions.0.transformer_blocks.0"
    concept = make_concept(family="SDXL")
    updates = {
        f"{block}.attn1.to_q": LowRank(torch.randn(1, 4), torch.randn(6, 1), 2.0),
        f"{block}.attn2.to_k": FullRank(torch.randn(4, 6).half()),
        f"{block}.attn2.to_out.0": FullRank(torch.randn(4, 6), torch.randn(4).half()),
        f"{block}.attn2.to_v": ValueResidual(torch.randn(4)),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": FullRank(torch.randn(3, 3)),
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1": FullRank(torch.randn(3, 3)),
    }
    subjects = (Subject(("<a>", "<b>"), "dog"), Subject((), "Red Barn"), Subject(("<c>",), "cat"))
    rows = {"text_encoder": torch.randn(3, 1, 5), "text_encoder_2": torch.randn(3, 2, 7)}
    concept = replace(concept, subjects=subjects, updates=updates, rows=rows)
    data = concept_to_bytes(concept)
    found = concept_from_bytes(data, "x")
    assert same(concept, found)
    assert found.subjects == subjects
    table, _ = split(data)
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.diff" in table


@pytest.mark.parametrize("path", ["attn2.to_k", "attn2.to_q", "ff.net.2", "text_encoder.out_proj"])
def test_only_the_last_layer_of_attention_has_a_bias_that_can_change(path):
    path = path if path.startswith("text") else f"mid_block.attentions.0.{path}"
    update = FullRank(torch.ones(3, 4), torch.ones(3))
    with pytest.raises(ConceptError, match=rf"changes the bias of {path}; a bias can change in to"):
        replace(make_concept(), updates={path: update})
    with pytest.raises(
        ConceptError, match=r"change of a bias is \(4,\) beside a weight of \(3, 4\)"
    ):
        FullRank(torch.ones(3, 4), torch.ones(4))


def test_the_same_concept_gives_the_same_bytes(data):
    assert concept_to_bytes(make_concept(index=3, created="2026-01-02T03:04:05+00:00")) == data


def test_views_and_graph_tensors_are_stored_by_value():
    concept = make_concept()
    path = next(iter(concept.low_rank))
    down = torch.arange(16.0).reshape(4, 4)[::2]
    up = torch.ones(2, 4, requires_grad=True).T
    object.__setattr__(concept, "updates", {**concept.updates, path: LowRank(down, up, 1.0)})
    found = concept_from_bytes(concept_to_bytes(concept), "x").low_rank[path]
    assert torch.equal(found.down, down)
    assert torch.equal(found.up, up)
    assert not found.up.requires_grad


def test_entry_tells_what_the_header_tells(path):
    entry = read_entry(path)
    assert (entry.name, entry.words, entry.kind) == ("dog", ("<dog-1>", "<dog-2>"), "object")
    assert (entry.family, entry.rank, entry.alpha, entry.index) == ("SD15", 2, 3.2, 3)
    assert entry.trigger == "<dog-1> <dog-2>"
    assert entry.layers == read_concept(path).layers
    assert entry.facts == {"photos": 5, "loss": 0.125}
    assert entry.preview.name == "dog.png"


def test_keys_are_those_of_stock_loaders(path):
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    with safe_open(path, "pt") as file:
        assert {f"{key}.lora_down.weight", f"{key}.lora_up.weight", f"{key}.alpha"} <= set(
            file.keys()
        )
        assert file.get_tensor(f"{key}.alpha").shape == ()
        texts = file.metadata()
        tokens = file.get_tensor("lora_unet_cidm_tokens_text_encoder.lora_down.weight")
    assert tokens.shape == (4, 4)
    assert texts["format"] == "pt"
    assert texts["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert texts["modelspec.trigger_phrase"] == "<dog-1> <dog-2>"
    assert texts["ss_base_model_version"] == "sd_v1"
    assert (texts["ss_network_dim"], texts["ss_network_alpha"]) == ("2", "3.2")
    assert json.loads(texts["ss_tag_frequency"]) == {"dog": {"<dog-1> <dog-2>": 5}}


def real_shapes(family):
    layers = FAMILIES[family].layers
    updates = {}
    for layer in layers:
        for projection in PROJECTIONS:
            out, into = layer.shape(projection)
            pair = LowRank(torch.randn(2, into), torch.randn(out, 2), 1.0)
            updates[f"{layer.path}.{projection}"] = pair
    concept = make_concept(paths=tuple(layer.path for layer in layers), family=family)
    object.__setattr__(concept, "updates", updates)
    return concept


def test_diffusers_converts_every_key(tmp_path):
    lora = pytest.importorskip("diffusers.loaders").StableDiffusionLoraLoaderMixin
    path = tmp_path / "dog.safetensors"
    concept = make_concept(layers=16)
    path.write_bytes(concept_to_bytes(concept))
    state, alphas = lora.lora_state_dict(str(tmp_path), weight_name=path.name)
    mine = {key for key in state if "cidm" not in key}
    stem = "unet.{}.attn2.processor.{}_lora.{}.weight"
    assert mine == {
        stem.format(layer.removesuffix(".attn2"), projection.removesuffix(".0"), side)
        for layer in concept.layers
        for projection in PROJECTIONS
        for side in ("down", "up")
    }
    assert set(alphas.values()) == {torch.tensor(3.2).item()}
    assert len(alphas) == 64


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
def test_diffusers_applies_the_very_deltas(tmp_path):
    """The whole stock path, tokens included, on a UNet with the mini family's layers."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=8,
        out_channels=8,
        block_out_channels=(96, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=8,
    )
    concept = real_shapes("MINI")
    expected = {
        path: unet.get_submodule(path).weight + pair.delta
        for path, pair in concept.low_rank.items()
    }
    (tmp_path / "dog.safetensors").write_bytes(concept_to_bytes(concept))
    mixin = diffusers.loaders.StableDiffusionLoraLoaderMixin
    state, alphas = mixin.lora_state_dict(str(tmp_path), weight_name="dog.safetensors")
    mixin.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    unet.fuse_lora()
    for path, weight in expected.items():
        found = unet.get_submodule(path).base_layer.weight
        torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-5)


def test_every_flipped_bit_is_found(data, path):
    rng = random.Random(0)
    (length,) = struct.unpack("<Q", data[:8])
    bits = [rng.randrange(len(data) * 8) for _ in range(400)]
    bits += [at * 8 + rng.randrange(8) for at in range(0, 8 + length, 7)]
    bits += range(300 * 8)  # length, opening and both digests: every single bit
    for bit in bits:
        with pytest.raises(BankError, match=r"dog: .*copy"):
            concept_from_bytes(flip(data, bit), "dog")


def test_header_flips_are_found_without_reading_tensors(data, path):
    (length,) = struct.unpack("<Q", data[:8])
    rng = random.Random(1)
    opening = len(b'{"__metadata__":{"cidm.sha256":"') + 8
    with open(path, "r+b", buffering=0) as file:
        for at in range(0, 8 + length, 5):
            if opening <= at < opening + 64:
                continue  # the whole file's digest: only a full read can tell
            os.pwrite(file.fileno(), bytes([data[at] ^ 1 << rng.randrange(8)]), at)
            with pytest.raises(BankError):
                read_entry(path)
            os.pwrite(file.fileno(), data[at : at + 1], at)
    read_entry(path)


def test_files_of_format_1_are_verified_as_well():
    """They carry one more digest per tensor."""
    path = Path(__file__).parents[1] / "data" / "format1" / "bank" / "harbour.safetensors"
    data, rng = path.read_bytes(), random.Random(4)
    assert (read_concept(path).name, read_entry(path).name) == ("harbour", "harbour")
    for bit in [rng.randrange(len(data) * 8) for _ in range(200)]:
        with pytest.raises(BankError, match=r"harbour: .*copy"):
            concept_from_bytes(flip(data, bit), "harbour")


def test_every_truncation_and_addition_is_found(data, path):
    rng = random.Random(2)
    sizes = {0, 1, 7, 8, 9, 100, len(data) - 1, *(rng.randrange(len(data)) for _ in range(100))}
    for wrong in [data[:size] for size in sizes] + [data + b"\0", data + data]:
        with pytest.raises(BankError):
            concept_from_bytes(wrong, "dog")
        path.write_bytes(wrong)
        with pytest.raises(BankError):
            read_entry(path)


def first(table, ending):
    return next(key for key in table if key.endswith(ending) and "cidm" not in key)


def retype(dtype, size):
    def change(table, record, blobs):
        key = first(table, "lora_up.weight")
        table[key]["dtype"] = dtype
        blobs[key] = bytes(math.prod(table[key]["shape"]) * size)

    return change


def edit_value(value, ending="lora_up.weight"):
    def change(table, record, blobs):
        key = first(table, ending)
        blobs[key] = struct.pack("<f", value) + blobs[key][4:]

    return change


def drop(ending):
    def change(table, record, blobs):
        del table[first(table, ending)]

    return change


def extra(key, shape=(2, 2)):
    def change(table, record, blobs):
        table[key] = {"dtype": "F32", "shape": list(shape)}
        blobs[key] = bytes(4 * math.prod(shape))

    return change


def reshape(ending, shape):
    def change(table, record, blobs):
        table[first(table, ending)]["shape"] = shape

    return change


def rank_zero(table, record, blobs):
    down, up = first(table, "lora_down.weight"), first(table, "lora_up.weight")
    table[down]["shape"], table[up]["shape"] = [0, 4], [4, 0]
    blobs[down] = blobs[up] = b""


def whole_lora(*stems):
    """Complete and sound updates under some names."""

    def change(table, record, blobs):
        for stem in stems:
            for ending in ("lora_down.weight", "lora_up.weight"):
                extra(f"{stem}.{ending}", (1, 1))(table, record, blobs)
            extra(f"{stem}.alpha", ())(table, record, blobs)
            blobs[f"{stem}.alpha"] = struct.pack("<f", 1.0)

    return change


def beside(table, record, blobs):
    """One layer, changed in two ways."""
    whole_lora("lora_unet_mid_block_attentions_0_proj_in")(table, record, blobs)
    extra("lora_unet_mid_block_attentions_0_proj_in.diff", (1, 1))(table, record, blobs)


def set_record(**values):
    return lambda table, record, blobs: record.update(values)


def set_subject(**values):
    return lambda table, record, blobs: record["subjects"][0].update(values)


def many(table, record, blobs):
    for n in range(20_001):
        extra(f"t{n}", (0,))(table, record, blobs)


FORGED = {
    "double type": (retype("F64", 8), "float64"),
    "integer type": (retype("I32", 4), "int32"),
    "missing up": (drop("lora_up.weight"), "lacks its down, up or alpha"),
    "missing down": (drop("lora_down.weight"), "lacks its down, up or alpha"),
    "missing alpha": (drop(".alpha"), "lacks its down, up or alpha"),
    "extra key": (extra("lora_unet_down_blocks_9.lora_up.weight"), "lacks its down"),
    "text encoder key": (extra("lora_te_text_model.lora_up.weight"), "lacks its down"),
    "name for two encoders": (
        whole_lora("lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        "belongs to no layer",
    ),
    "two names of a layer": (
        whole_lora(*(f"lora_te{n}_text_model_encoder_layers_0_mlp_fc1" for n in ("", "1"))),
        "belongs to no layer",
    ),
    "two changes of a layer": (beside, "belongs to no layer"),
    "half tokens": (extra("lora_unet_cidm_tokens_b.lora_down.weight", (4, 4)), "incomplete"),
    "lost tokens": (
        lambda t, r, b: [t.pop(key) for key in list(t) if "cidm" in key and "up" in key],
        "incomplete",
    ),
    "rank zero": (rank_zero, "rank"),
    "rank mismatch": (reshape("lora_down.weight", [4, 2]), "Rank mismatch"),
    "vector": (reshape("lora_down.weight", [8]), "Rank mismatch"),
    "negative alpha": (edit_value(-1.0, ".alpha"), "alpha"),
    "zero alpha": (edit_value(0.0, ".alpha"), "alpha"),
    "NaN alpha": (edit_value(math.nan, ".alpha"), "NaN"),
    "NaN": (edit_value(math.nan), "NaN"),
    "infinity": (edit_value(-math.inf), "NaN"),
    "huge value": (edit_value(2e4), "beyond 10000"),
    "too many tensors": (many, "more than 20000 tensors"),
    "more words": (set_subject(words=["<a>", "<b>", "<c>"]), "need 6"),
    "more layers": (set_record(layers=["a.attn2", "b.attn2", "c.attn2"]), "need 6"),
    "repeated layer": (set_record(layers=["a.attn2", "a.attn2"]), "repeats"),
    "odd layer": (set_record(layers=["../a", "b"]), "malformed"),
    "no subject": (set_record(subjects=[]), "has no subject"),
    "subject no table": (set_record(subjects=["dog"]), "of a subject is missing"),
    "no words": (set_subject(words=[]), "tokens for text_encoder"),
    "no words at all": (set_subject(words=[], class_words=" "), "neither words nor class words"),
    "word no text": (set_subject(words=[1, 2]), "words are malformed"),
    "upper-case word": (set_subject(words=["<A>", "<b>"]), "words are malformed"),
    "unknown kind": (set_subject(kind="animal"), "ind 'animal'"),
    "newer format": (set_record(version=3), "Update the package"),
    "no format": (set_record(version=None), "holds no concept"),
    "name no text": (set_record(name=7), "'name' is missing"),
    "empty name": (set_record(name=""), "has no name"),
    "open name": (set_record(name=" dog"), "name is malformed"),
    "hostile name": (set_record(name="a\u202eb"), "direction"),
    "index no number": (set_record(index="1"), "'index' is missing"),
    "index below zero": (set_record(index=-2), "below zero"),
    "config no table": (set_record(config=[]), "'config' is missing"),
}


@pytest.mark.parametrize("case", FORGED)
def test_well_signed_nonsense_is_refused(data, case):
    change, text = FORGED[case]
    forged = forge(data, change)
    with pytest.raises(BankError, match=text) as caught:
        concept_from_bytes(forged, "dog.safetensors")
    assert str(caught.value).startswith("dog.safetensors: ")


def test_forge_itself_is_sound(data):
    concept_from_bytes(forge(data, lambda table, record, blobs: None), "dog")


def raw(edit):
    """A change of the header's text itself, signed again."""

    def build(data):
        (length,) = struct.unpack("<Q", data[:8])
        header, body = edit(data[8 : 8 + length], data[8 + length :])
        return sign(header, body)

    return build


def shift(header, body):
    table = json.loads(header)
    key = first(table, "lora_up.weight")
    begin, end = table[key]["data_offsets"]
    table[key]["data_offsets"] = [begin - 4, end - 4]
    return json.dumps(table, separators=(",", ":")).encode(), body


def row(value):
    def edit(header, body):
        table = json.loads(header)
        table[first(table, "lora_up.weight")] = value
        return json.dumps(table, separators=(",", ":")).encode(), body

    return edit


def twice(header, body):
    """The last tensor's row once more: safetensors itself takes it."""
    *_, key = table = json.loads(header)
    again = f"{json.dumps(key)}:{json.dumps(table[key])}}}"
    return header.rstrip()[:-1] + b"," + again.encode(), body


RAW = {
    "duplicate tensor": (twice, "twice"),
    "duplicate text": (
        lambda h, b: (h.replace(b'"format":"pt"', b'"format":"pt","format":"pt"'), b),
        "twice",
    ),
    "not UTF-8": (lambda h, b: (h.replace(b'"format":"pt"', b'"format":"\xff\xfe"'), b), "refuses"),
    "NaN in header": (lambda h, b: (h.rstrip()[:-1] + b',"a":NaN}', b), "refuses"),
    "no JSON": (lambda h, b: (h.rstrip()[:-1], b), "refuses"),
    "number as text": (
        lambda h, b: (h.replace(b'"format":"pt"', b'"format":1'), b),
        "refuses",
    ),
    "deep nesting": (
        lambda h, b: (h.rstrip()[:-1] + b',"a":' + b"[" * 100_000 + b"}", b),
        "refuses",
    ),
    "overlap": (shift, "refuses"),
    "hole": (lambda h, b: (h, b + b"\0\0\0\0"), "refuses"),
    "row no table": (row(3), "refuses"),
    "row incomplete": (row({"dtype": "F32"}), "refuses"),
    "negative shape": (row({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}), "refuses"),
    "float offsets": (row({"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4]}), "refuses"),
    "odd type": (row({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}), "refuses"),
}


@pytest.mark.parametrize("case", RAW)
def test_malformed_headers_are_refused(data, case):
    edit, text = RAW[case]
    with pytest.raises(BankError, match=text):
        concept_from_bytes(raw(edit)(data), "dog")


def test_absurd_headers_are_refused_unread(tmp_path, data):
    table, body = split(data)
    table["__metadata__"]["notes"] = "x" * (8 * 2**20)
    path = tmp_path / "dog.safetensors"
    path.write_bytes(sign(json.dumps(table, separators=(",", ":")).encode(), body))
    for length in (None, 2**63, 2**64 - 1):
        if length is not None:
            path.write_bytes(struct.pack("<Q", length) + data[8:])
        for reading in (read_concept, read_entry):
            with pytest.raises(BankError, match="header of"):
                reading(path)
    path.write_bytes(forge(data, many))
    for reading in (read_concept, read_entry):
        with pytest.raises(BankError, match="more than 20000 tensors"):
            reading(path)


def test_a_plain_lora_is_told_apart(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.alpha": torch.tensor(1.0)}, path)
    for reading in (read_concept, read_entry):
        with pytest.raises(BankError, match="not a concept file"):
            reading(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_odd_files_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    for name, text in (("pipe", "regular"), ("folder", "regular"), ("nowhere", "cannot be read")):
        for reading in (read_concept, read_entry):
            with pytest.raises(BankError, match=text):
                reading(tmp_path / f"{name}.safetensors")


def test_what_cannot_be_stored_is_refused_before_writing():
    concept = make_concept()
    path = next(iter(concept.low_rank))

    def with_factor(down, up, alpha=1.0):
        changed = make_concept()
        pair = LowRank(down, up, alpha)
        object.__setattr__(changed, "updates", {**changed.updates, path: pair})
        return changed

    bad = torch.ones(2, 4)
    changed = with_factor(bad, torch.ones(4, 2))
    bad[0, 0] = math.nan  # after the concept's own check
    for broken, text in (
        (changed, "NaN"),
        (with_factor(torch.ones(2, 4), torch.full((4, 2), 1e5)), "beyond"),
        (with_factor(torch.ones(2, 4).double(), torch.ones(4, 2).double()), "float64"),
        (with_factor(torch.ones(2, 4), torch.ones(4, 2), -1.0), "alpha"),
        (with_factor(torch.ones(2, 4), torch.ones(4, 2), math.nan), "alpha"),
        (with_factor(torch.ones(0, 4), torch.ones(4, 0)), "rank"),
        (make_concept(facts={"notes": "x" * (9 * 2**20)}), "limits"),
    ):
        with pytest.raises(BankError, match=text):
            concept_to_bytes(broken)


def test_odd_provenance_never_costs_the_concept():
    facts = {
        "loss": math.nan,
        "path": os.path,
        "pair": (1, 2.5),
        "tensor": torch.tensor(1.0),
        "nested": {1: {"a": math.inf}},
        "lone": "\ud800",
    }
    found = concept_from_bytes(concept_to_bytes(make_concept(facts=facts)), "dog").facts
    assert found["loss"] is None
    assert found["pair"] == [1, 2.5]
    assert found["nested"] == {"1": {"a": None}}
    assert isinstance(found["path"], str)


def test_random_headers_raise_nothing_but_our_error(data):
    """Structure-aware fuzzing: the record's values replaced by anything JSON can hold."""
    rng = random.Random(3)
    values = [None, True, -1, 0, 2**70, 1e308, "", "x" * 300, "../x", [], [[]], [1], {}, {"a": 1}]
    keys = [*record._FIELDS, "version"]
    for _ in range(300):
        choice = {rng.choice(keys): rng.choice(values) for _ in range(rng.randint(1, 4))}
        forged = forge(data, set_record(**choice))
        try:
            concept_from_bytes(forged, "dog")
        except CidmError:
            continue
