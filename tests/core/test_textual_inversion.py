"""Textual inversions of SD 1.5 and SDXL become concepts without weights; all others are named."""

import pytest
import torch
from bank_samples import make_concept
from safetensors.torch import save_file

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.errors import BankError
from cidm_core.importers.concept_import import import_concept
from cidm_core.importers.settings import ImportConfig

TWO, ONE = torch.randn(2, 768), torch.randn(768)
FORMS = {
    "a1111": ("my toy.pt", {"string_to_token": {"*": 265}, "string_to_param": {"*": TWO}}),
    "diffusers": ("learned_embeds.bin", {"<toy>": ONE}),
    "half": ("learned_embeds.bin", {"<toy>": ONE.half()}),
    "several words": ("learned_embeds.bin", {"<toy>": ONE, "<cat>": TWO}),
    "parameter": ("toy.pt", {"string_to_param": {"*": torch.nn.Parameter(TWO)}}),
    "first code": (
        "toy.pt",
        {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(TWO)})},
    ),
    "kohya": ("toy.safetensors", {"emb_params": TWO}),
    "diffusers, safe": ("learned_embeds.safetensors", {"<toy>": ONE}),
}
WORDS = {
    "a1111": ("<my_toy-1>", "<my_toy-2>"),
    "several words": ("<toy>", "<cat-1>", "<cat-2>"),
    "parameter": ("<toy-1>", "<toy-2>"),
    "first code": ("<toy-1>", "<toy-2>"),
    "kohya": ("<toy-1>", "<toy-2>"),
}


@pytest.fixture
def save(tmp_path):
    def saving(name, table):
        path = tmp_path / name
        (save_file if path.suffix == ".safetensors" else torch.save)(table, path)
        return path

    return saving


def take(path, bank, model=None, **given):
    return import_concept(path, bank, ImportConfig(**{"class_words": "toy", **given}), model)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_concept_of_rows_alone(save, tiny_base, tmp_path, form):
    bank = Bank(tmp_path / "bank")
    concept, note = take(save(*FORMS[form]), bank, tiny_base)
    vectors = FORMS[form][1]
    vectors = vectors.get("string_to_param", vectors).values()
    expected = torch.cat([torch.atleast_2d(v.detach().float()) for v in vectors])
    assert torch.equal(concept.rows["text_encoder"][:, 0], expected)
    assert concept.rows["text_encoder"].shape[1] == 1
    assert not concept.updates
    assert concept.words == WORDS.get(form, ("<toy>",))
    assert (concept.method, concept.class_words, note) == ("textual_inversion", "toy", "")
    assert take(save(*FORMS[form]), bank)[1] == "It was in the bank already."


def test_its_words_draw_what_its_vectors_mean(save, tiny_base, tmp_path):
    """The embedding of a known word, under another name, draws what the word draws."""
    token = tiny_base.tokenizers[0]("dog", add_special_tokens=False).input_ids
    assert len(token) == 1
    vector = tiny_base.text_encoders[0].get_input_embeddings().weight[token].detach()
    bank = Bank(tmp_path / "bank")
    take(save("x.pt", {"string_to_param": {"*": vector}}), bank, tiny_base)
    config = SampleConfig(steps=3, width_px=64, height_px=64)
    drawn = [
        generate(tiny_base, bank, f"a red {word}", config=config)[0] for word in ("<x>", "dog")
    ]
    assert drawn[0].tobytes() == drawn[1].tobytes()
    other = generate(tiny_base, bank, "a red cat", config=config)[0]
    assert other.tobytes() != drawn[1].tobytes()


def of_sdxl(words=2):
    """As kohya, diffusers and ComfyUI have them."""
    return {"clip_g": torch.randn(words, 1280), "clip_l": torch.randn(words, 768)}


def test_one_of_sdxl_has_vectors_for_both_encoders(save, xl_base, tmp_path):
    table, bank = of_sdxl(), Bank(tmp_path / "bank")
    concept, _ = take(save("my toy.safetensors", table), bank, xl_base)
    assert concept.words == ("<my_toy-1>", "<my_toy-2>")
    assert torch.equal(concept.rows["text_encoder"], table["clip_l"][:, None])
    assert torch.equal(concept.rows["text_encoder_2"], table["clip_g"][:, None])
    size = SampleConfig(steps=1, width_px=64, height_px=64)
    drawn = [
        generate(xl_base, bank, f"a {word}", config=size)[0]
        for word in ("<my_toy-1> <my_toy-2>", "toy")
    ]
    assert drawn[0].tobytes() != drawn[1].tobytes()


@pytest.mark.parametrize(
    "table",
    [
        {"emb_params": TWO},
        {"clip_l": TWO},
        {"clip_l": TWO, "clip_g": torch.ones(2, 1024)},
        {**of_sdxl(), "t5xxl": torch.ones(2, 4096)},
    ],
)
def test_those_that_sdxl_does_not_read(save, xl_base, tmp_path, table):
    with pytest.raises(BankError, match=r"SDXL reads words 768 and 1280 wide"):
        take(save("x.safetensors", table), Bank(tmp_path / "bank"), xl_base)


def test_one_that_is_uneven(save, xl_base, tmp_path):
    path = save("x.safetensors", {"clip_l": TWO, "clip_g": torch.ones(3, 1280)})
    with pytest.raises(BankError, match="has 2 and 3 vectors for the text encoders"):
        take(path, Bank(tmp_path / "bank"), xl_base)


def test_words_alone_are_no_lora(save, xl_base, tmp_path):
    bank = Bank(tmp_path / "bank")
    concept, _ = take(save("x.safetensors", of_sdxl()), bank, xl_base)
    with pytest.raises(BankError, match="no weights that a LoRA can hold"):
        bank.export(concept.name, tmp_path / "lora.safetensors")
    assert not (tmp_path / "lora.safetensors").exists()


def test_a_bank_tells_the_model_and_the_user_the_words(save, tmp_path):
    bank = Bank(tmp_path / "bank")
    bank.add(make_concept("dog"))
    concept, _ = take(
        save("toy.pt", {"string_to_param": {"*": TWO}}), bank, words="<a> <b>", name="z"
    )
    assert (concept.words, concept.name, concept.layers) == (
        ("<a>", "<b>"),
        "z",
        bank["dog"].layers,
    )


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("x.pt", {"string_to_param": {"*": torch.ones(1, 1024)}}, r"\(SD 2: '\*' is 1024 wide\)"),
        ("x.safetensors", {"emb_params": torch.ones(2, 1024)}, "reads words 768 wide"),
        (
            "x.safetensors",
            {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
            r"\(SDXL: 'clip_[lg]' is",
        ),
        (
            "x.safetensors",
            {"clip_l": TWO, "clip_g": torch.ones(2, 1280), "t5xxl": torch.ones(2, 4096)},
            r"model \('clip_",  # SD 3's
        ),
    ],
)
def test_those_of_other_models_are_named(save, tiny_base, tmp_path, name, table, said):
    with pytest.raises(BankError, match="textual inversion of another kind of model") as caught:
        take(save(name, table), Bank(tmp_path / "bank"), tiny_base)
    assert caught.match(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"words": "<a>"}, "of 2 vectors, and 1 words were given"),
        ({"words": "<a> <a>"}, "repeat"),
        ({"words": "my toy"}, "in angle brackets: '<my> <toy>'"),
        ({"class_words": ""}, "Give class_words"),
        ({"model": None}, "x.safetensors is a textual inversion; it does not tell its base model"),
    ],
)
def test_what_is_missing_is_said(save, tiny_base, tmp_path, given, said):
    path = save("x.safetensors", {"emb_params": TWO})
    with pytest.raises(BankError, match=said):
        take(path, Bank(tmp_path / "bank"), **{"model": tiny_base, **given})


def test_files_of_like_words_have_names_of_their_own(save, tiny_base, tmp_path):
    bank = Bank(tmp_path / "bank")
    paths = [save(f"toy{n}.safetensors", {"emb_params": ONE[None]}) for n in (1, 2)]
    assert [take(path, bank, tiny_base)[0].name for path in paths] == ["toy", "toy-2"]
    concept, note = take(paths[1], bank, tiny_base)
    assert (concept.name, note) == ("toy-2", "It was in the bank already.")
    with pytest.raises(BankError, match="already has a concept 'toy'"):
        take(save("other.pt", {"emb_params": TWO}), bank, tiny_base, name="toy")


def test_other_small_files_are_not_taken_for_one(save, tiny_base, tmp_path):
    lora = {"a.lora_down.weight": torch.ones(2, 768), "a.lora_up.weight": torch.ones(768, 2)}
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(BankError) as caught:
            take(save(name, lora), Bank(tmp_path / "bank"), tiny_base)
        assert "inversion" not in str(caught.value)
    with pytest.raises(BankError, match=r"ends in none of \.pth \.pt \.bin \.ckpt \.safetensors"):
        take(tmp_path / "x.png", Bank(tmp_path / "bank"), tiny_base)
