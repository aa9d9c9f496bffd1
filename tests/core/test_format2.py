"""Files of format 2: subjects and updates of every kind, come back bit for bit or not at all."""

import math
import struct

import pytest
import torch
from bank_samples import BASE, LAYERS, forge
from safetensors import safe_open

from cidm_core.bank import Bank
from cidm_core.concept import Concept, Subject
from cidm_core.errors import BankError
from cidm_core.storage.concept_file import concept_from_bytes, concept_to_bytes
from cidm_core.storage.record import read_entry
from cidm_core.updates import FullRank, LowRank, ValueResidual

FIRST, SECOND, THIRD = LAYERS[:3]
ENCODER = "text_encoder.text_model.encoder.layers.0"
OTHER = "text_encoder_2.text_model.encoder.layers.11"


def draw(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def updates(second=False):
    """Every kind, in every place, of several ranks and types."""
    found = {
        f"{FIRST}.to_q": LowRank(draw(1, 4), draw(4, 1), 0.5),
        f"{FIRST}.to_k": FullRank(draw(4, 6)),
        f"{FIRST}.to_v": ValueResidual(draw(4)),
        f"{SECOND}.to_q": LowRank(draw(3, 4).half(), draw(5, 3).half(), 7.0),
        f"{SECOND}.to_v": FullRank(draw(5, 6, dtype=torch.bfloat16)),
        f"{THIRD}.to_v": ValueResidual(draw(5, dtype=torch.float16)),
        FIRST.replace("attn2", "attn1") + ".to_out.0": LowRank(draw(2, 4), draw(4, 2), 2.0),
        FIRST.replace("attn2", "attn1") + ".to_k": FullRank(draw(4, 4)),
        FIRST.replace("attn2", "ff") + ".net.0.proj": LowRank(draw(2, 4), draw(8, 2), 2.0),
        "down_blocks.0.attentions.0.proj_in": FullRank(draw(4, 4)),
        "mid_block.resnets.1.time_emb_proj": LowRank(draw(2, 9), draw(4, 2), 2.0),
        f"{ENCODER}.self_attn.q_proj": LowRank(draw(2, 7), draw(7, 2), 2.0),
        f"{ENCODER}.self_attn.out_proj": FullRank(draw(7, 7)),
        f"{ENCODER}.mlp.fc1": LowRank(draw(1, 7), draw(9, 1), 1.0),
    }
    return found | ({f"{OTHER}.mlp.fc2": LowRank(draw(2, 9), draw(8, 2), 2.0)} if second else {})


def everything(family="SD15", copies=3, **changes):
    encoders = ["text_encoder", "text_encoder_2"][: 1 + (family == "SDXL")]
    given = {
        "name": "pets",
        "subjects": (
            Subject(("<dog1>", "<dog2>"), "dog"),
            Subject((), "Teddy  Bear", "human"),
            Subject(("<ink>",), "ink drawing", "style"),
        ),
        "family": family,
        "base": BASE,
        "layers": (FIRST, SECOND, THIRD),
        "updates": updates(family == "SDXL"),
        "rows": {name: draw(3, copies, 6) for name in encoders},
        "method": "toy",
        "index": 4,
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Concept(**{**given, **changes})


def identical(a, b):
    assert (a.name, a.subjects, a.family, a.base) == (b.name, b.subjects, b.family, b.base)
    assert (a.layers, a.method, a.index, a.created) == (b.layers, b.method, b.index, b.created)
    assert set(a.updates) == set(b.updates)
    assert set(a.rows) == set(b.rows)
    pairs = [(a.rows[key], b.rows[key]) for key in a.rows]
    for path, update in a.updates.items():
        other = b.updates[path]
        assert type(update) is type(other), path
        assert update.shape == other.shape
        pairs += zip(update.tensors().values(), other.tensors().values(), strict=True)
    for one, two in pairs:
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    return True


@pytest.mark.parametrize("family", ["SD15", "SDXL"])
@pytest.mark.parametrize("copies", [1, 3])
def test_every_kind_in_every_place_comes_back(family, copies):
    concept = everything(family, copies)
    data = concept_to_bytes(concept)
    found = concept_from_bytes(data, "pets")
    assert identical(concept, found)
    assert concept_to_bytes(found) == data


@pytest.mark.parametrize(
    "changes",
    [
        {"subjects": (Subject((), "teddy bear"),), "rows": {}},
        {"updates": {}},
        {"updates": {f"{FIRST}.to_v": ValueResidual(draw(4))}},
        {"rows": {"text_encoder": draw(3, 1, 6).half()}},
    ],
    ids=["no words", "rows alone", "a value alone", "rows of one layer"],
)
def test_a_concept_may_lack_most_of_it(changes):
    concept = everything(**changes)
    assert identical(concept, concept_from_bytes(concept_to_bytes(concept), "pets"))


def test_a_listing_tells_the_subjects(tmp_path):
    bank = Bank(tmp_path)
    bank.add(everything())
    (entry,) = bank.entries()
    assert entry.subjects == everything().subjects
    assert entry.words == ("<dog1>", "<dog2>", "<ink>")
    assert entry.triggers == ("<dog1>", "<dog2>", "teddy bear", "<ink>")
    assert (entry.class_words, entry.kind) == ("dog and Teddy  Bear and ink drawing", "object")
    assert bank.callers() == dict.fromkeys(entry.names, "pets")
    assert read_entry(entry.path).rank == 3
    with pytest.raises(BankError, match="overlap 'teddy bear'"):
        bank.add(everything(name="other", subjects=(Subject((), "big teddy bear"),), rows={}))


def test_full_rank_is_a_diff_and_the_rest_is_passed_over(tmp_path):
    """Names as LoRA loaders know them; what they cannot know is a pair of a module of ours."""
    path = tmp_path / "pets.safetensors"
    path.write_bytes(concept_to_bytes(everything("SDXL")))
    with safe_open(path, "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to"
    assert shapes[f"{key}_k.diff"] == (4, 6)
    assert shapes[f"{key}_q.lora_down.weight"] == (1, 4)
    assert shapes["lora_te1_text_model_encoder_layers_0_self_attn_out_proj.diff"] == (7, 7)
    assert shapes["lora_te2_text_model_encoder_layers_11_mlp_fc2.lora_up.weight"] == (8, 2)
    own = {name: shape for name, shape in shapes.items() if "cidm" in name}
    value = key.replace("lora_unet_", "lora_unet_cidm_values_") + "_v"
    assert own[f"{value}.lora_down.weight"] == (1, 4)
    assert own["lora_unet_cidm_tokens_text_encoder.lora_down.weight"] == (9, 6)
    assert all(name.endswith((".lora_down.weight", ".lora_up.weight")) for name in own)
    assert not any(f"{key}_v" in name for name in shapes if name not in own)


# --- hostile files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    return concept_to_bytes(everything())


KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to"
VALUE = f"{KEY.replace('lora_unet_', 'lora_unet_cidm_values_')}_v"
ROWS = "lora_unet_cidm_tokens_text_encoder"


def put(*keys, shape=(2, 2), value=0.0):
    """Add or replace tensors."""

    def change(table, record, blobs):
        for key in keys:
            table[key] = {"dtype": "F32", "shape": list(shape)}
            blobs[key] = struct.pack("<f", value) * math.prod(shape)

    return change


def pair(key, down=(1, 4), up=(1, 1)):
    def change(*parts):
        put(f"{key}.lora_down.weight", shape=down)(*parts)
        put(f"{key}.lora_up.weight", shape=up)(*parts)

    return change


def low_rank(key):
    def change(*parts):
        pair(key, (1, 4), (4, 1))(*parts)
        put(f"{key}.alpha", shape=(), value=1.0)(*parts)

    return change


def subject(number=0, **values):
    return lambda table, record, blobs: record["subjects"][number].update(values)


def record(**values):
    return lambda table, record, blobs: record.update(values)


FORGED = {
    "diff and pair": (low_rank(f"{KEY}_k"), "belongs to no layer"),
    "diff and alpha": (put(f"{KEY}_k.alpha", shape=(), value=1.0), "belongs to no layer"),
    "value and pair": (low_rank(f"{KEY}_v"), "belongs to no layer"),
    "value and diff": (put(f"{KEY}_v.diff"), "belongs to no layer"),
    "two names of a layer": (
        put("lora_te1_text_model_encoder_layers_0_self_attn_out_proj.diff", shape=(7, 7)),
        "belongs to no layer",
    ),
    "diff no matrix": (put(f"{KEY}_k.diff", shape=(4,)), "must be .out, in."),
    "diff NaN": (put(f"{KEY}_k.diff", shape=(4, 6), value=math.nan), "NaN"),
    "diff huge": (put(f"{KEY}_k.diff", shape=(4, 6), value=2e4), "beyond 10000"),
    "diff nowhere": (put("lora_unet_evil.diff"), "'evil', no linear layer"),
    "diff of the pack's own": (put("lora_unet_cidm_x.diff"), "no linear layer"),
    "diff in no model": (put("lora_te9_text_model.diff"), "no linear layer"),
    "odd path": (put("lora_unet_down_blocks_0..to_k.diff"), "belongs to no layer"),
    "bias no vector": (put(f"{KEY}_k.diff_b"), "it must be .out,"),
    "bias of keys": (put(f"{KEY}_k.diff_b", shape=(4,)), "changes the bias of"),
    "two vectors": (pair(VALUE, down=(2, 4)), "2 value residuals"),
    "no vector": (pair(VALUE, down=(0, 4)), "0 value residuals"),
    "vector alone": (
        lambda table, record, blobs: table.pop(f"{VALUE}.lora_up.weight"),
        "incomplete",
    ),
    "vector NaN": (put(f"{VALUE}.lora_down.weight", shape=(1, 4), value=math.nan), "NaN"),
    "vector for queries": (
        pair(VALUE.replace("blocks_0_attn2_to_v", "blocks_7_attn2_to_q")),
        "sees no tokens",
    ),
    "vector for attn1": (pair(VALUE.replace("attn2", "attn1")), "sees no tokens"),
    "rows flat": (put(f"{ROWS}.lora_down.weight", shape=(9,)), "incomplete"),
    "rows too few": (put(f"{ROWS}.lora_down.weight", shape=(5, 6)), "need 9"),
    "rows NaN": (put(f"{ROWS}.lora_down.weight", shape=(9, 6), value=math.inf), "NaN"),
    "rows of an odd encoder": (pair(f"{ROWS}/../x", down=(9, 6)), "Encoder name"),
    "no subject": (record(subjects=[]), "no subject"),
    "subjects no list": (record(subjects="dog"), "'subjects' is missing"),
    "subject no table": (record(subjects=[7]), "'words' of a subject"),
    "subject of neither": (subject(1, class_words="!?"), "neither words nor class words"),
    "class words no text": (subject(1, class_words=None), "'class_words' of a subject"),
    "one word twice": (subject(2, words=["<dog1>"]), "repeat"),
    "fewer words": (subject(0, words=["<dog1>"]), "where 2 words in 3 layers need 6"),
    "kind of the second": (subject(2, kind="animal"), "Kind 'animal'"),
}


@pytest.mark.parametrize("case", FORGED)
def test_well_signed_nonsense_is_refused(data, case):
    change, text = FORGED[case]
    with pytest.raises(BankError, match=text) as caught:
        concept_from_bytes(forge(data, change), "pets.safetensors")
    assert str(caught.value).startswith("pets.safetensors: ")


def test_rows_without_width_do_not_break_reading(data):
    forged = forge(data, put(f"{ROWS}.lora_down.weight", shape=(9, 0)))
    assert concept_from_bytes(forged, "pets").rows["text_encoder"].shape == (3, 3, 0)
