"""What CLIF's script writes, in its layout by our own hand, comes in to the bit."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from update_kinds import CLIF, concepts

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, OK, main
from cidm_core.errors import BankError, CidmError, FamilyError
from cidm_core.importers.concept_import import import_concept
from cidm_core.importers.settings import ImportConfig

ADDED = ("<pur1>", "<pur2>", "<tea1>", "<tea2>")
TABLE = "text_model.embeddings.token_embedding.weight"


@pytest.fixture
def made(xl_base):
    """A concept whose alphas are its ranks, as theirs are."""
    found = concepts(xl_base, kinds=CLIF)["clif"]
    updates = {path: replace(u, alpha=float(u.rank)) for path, u in found.updates.items()}
    return replace(found, updates=updates)


def write_lora(folder, concept, **more):
    tensors = {
        f"unet.{path.rpartition('.to_')[0]}.processor.to_{part}_lora.{side}.weight": tensor
        for path, update in concept.updates.items()
        for part in [path.rpartition(".to_")[2].removesuffix(".0")]
        for side, tensor in (("down", update.down), ("up", update.up))
    }
    folder.mkdir(exist_ok=True)
    save_file({**tensors, **more}, folder / "pytorch_lora_weights.safetensors")


def write_encoders(folder, concept, added=ADDED, vocabulary=49408, table=TABLE, pickled=False):
    """Tokenizers and text encoders; of the latter the embeddings alone."""
    for name, rows in concept.rows.items():
        tokenizer = folder / name.replace("text_encoder", "tokenizer")
        tokenizer.mkdir(parents=True)
        (folder / name).mkdir()
        numbers = {word: vocabulary + k for k, word in enumerate(added)}
        (tokenizer / "added_tokens.json").write_text(json.dumps(numbers))
        if vocabulary != 49408:
            known = {str(k): k for k in range(vocabulary)}
            (tokenizer / "vocab.json").write_text(json.dumps(known))
        old = torch.zeros(vocabulary, rows.shape[2])
        extra = torch.ones(len(added) - len(rows), rows.shape[2])
        whole = {table: torch.cat([old, rows[:, 0], extra])}
        if pickled:
            torch.save(whole, folder / name / "pytorch_model.bin")
        else:
            save_file(whole, folder / name / "model.safetensors")


def take(path, bank, model=None, class_words="cat", **given):
    return import_concept(path, bank, ImportConfig(class_words=class_words, **given), model)


def same(concept, made):
    assert concept.subjects == made.subjects
    assert concept.method == "clif"
    assert concept.updates.keys() == made.updates.keys()
    for path, update in made.updates.items():
        found = concept.updates[path]
        assert torch.equal(found.down, update.down)
        assert torch.equal(found.up, update.up)
        assert found.alpha == update.alpha
    for encoder, rows in made.rows.items():
        assert torch.equal(concept.rows[encoder], rows)


@pytest.mark.parametrize("given", ["exp", "exp_full_model", "exp/pytorch_lora_weights.safetensors"])
def test_lora_and_words_come_in_from_either_place(tmp_path, xl_base, made, given):
    write_lora(tmp_path / "exp", made)
    write_encoders(tmp_path / "exp_full_model", made)
    bank = Bank(tmp_path / "bank")
    concept, note = take(tmp_path / given, bank, xl_base)
    same(concept, made)
    assert (concept.name, note) == ("pur and tea", "")
    assert take(tmp_path / given, bank)[1] == "It was in the bank already."


@pytest.mark.parametrize("pickled", [False, True])
def test_earlier_stages_are_words_alone(tmp_path, xl_base, made, pickled):
    table = TABLE.removeprefix("text_model.") if pickled else TABLE
    write_encoders(tmp_path / "ti", made, vocabulary=1000, table=table, pickled=pickled)
    concept, _ = take(tmp_path / "ti", Bank(tmp_path / "bank"), xl_base)
    same(concept, replace(made, updates={}))


@pytest.mark.parametrize(
    ("class_words", "words", "expected"),
    [
        ("cat", "", [("<pur1> <pur2>", "cat"), ("<tea1> <tea2>", "cat")]),
        ("cat+toy cat", "", [("<pur1> <pur2>", "cat"), ("<tea1> <tea2>", "toy cat")]),
        ("cat", "<tea1> <tea2>", [("<tea1> <tea2>", "cat")]),
        ("cat", "<a1> <a2> <b1> <b2>", [("<a1> <a2>", "cat"), ("<b1> <b2>", "cat")]),
        ("cat+dog", "<one> <cat> <two> <dog>", [("<one> <cat>", "cat"), ("<two> <dog>", "dog")]),
        ("cat", "<pur1> <tea2>", [("<pur1> <tea2>", "cat")]),
    ],
)
def test_words_are_taken_by_their_stems(tmp_path, xl_base, made, class_words, words, expected):
    write_encoders(tmp_path / "ti", made, vocabulary=1000)
    concept, _ = take(tmp_path / "ti", Bank(tmp_path / "b"), xl_base, class_words, words=words)
    held = [(" ".join(each.words), each.class_words) for each in concept.subjects]
    assert held == expected


def test_what_no_prompt_held_and_what_is_no_lora_of_the_unet_is_left_out(tmp_path, xl_base, made):
    stray = {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora": torch.ones(2, 2)}
    write_lora(tmp_path / "exp", made, **stray)
    write_encoders(tmp_path / "exp_full_model", made, (*ADDED, "<pur1>_1", "<tea2>_1"))
    concept, note = take(tmp_path / "exp", Bank(tmp_path / "bank"), xl_base)
    same(concept, made)
    assert concept.facts["left_out"] == {"text_encoder": 1, "extra tokens": 2}
    assert "text_encoder (1 tensors), extra tokens (2 tensors)" in note


def test_the_command_line_takes_the_folder(tmp_path, xl_folder, made, capsys):
    write_lora(tmp_path / "exp", made)
    words = ["bank", "import", str(tmp_path / "exp"), "--bank", str(tmp_path / "bank")]
    words += ["--class-words", "cat", "--model", str(xl_folder)]
    assert main(words) == FAILED
    said = capsys.readouterr().err
    assert "without words; CLIF's script keeps them in a folder beside it, 'exp_full_model'" in said
    write_encoders(tmp_path / "exp_full_model", made)
    assert main(words) == OK
    same(Bank(tmp_path / "bank")["pur and tea"], made)


def _no_embeddings(folder, made):
    write_encoders(folder, made, table="something.else")


def _other_words(folder, made):
    write_encoders(folder, made)
    (folder / "tokenizer_2" / "added_tokens.json").write_text('{"<pur1>": 49408}')


def _one_encoder(folder, made):
    write_encoders(folder, made)
    (folder / "text_encoder_2" / "model.safetensors").unlink()


def _no_numbers(folder, made):
    write_encoders(folder, made)
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<pur1>": "one"}')


def _too_short(folder, made):
    write_encoders(folder, made)
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name / "added_tokens.json").write_text('{"<pur1>": 60000}')


def _no_word(folder, made):
    write_encoders(folder, made)
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name / "added_tokens.json").write_text('{"<|startoftext|>": 49406}')


WRONG = {
    _no_embeddings: "text_encoder has no table of embeddings",
    _other_words: "the tokenizers of its text encoders know other words",
    _one_encoder: "has no text_encoder_2 with model.safetensors",
    _no_numbers: r"tokenizer/added_tokens.json cannot be read .it is no table of numbers",
    _too_short: "expected a row 768 wide for each of 60001 tokens",
    _no_word: "no word was added to its tokenizer",
}


@pytest.mark.parametrize("spoil", WRONG)
def test_damaged_folders_are_told_of(tmp_path, xl_base, made, spoil):
    spoil(tmp_path / "ti", made)
    with pytest.raises(BankError, match=WRONG[spoil]):
        take(tmp_path / "ti", Bank(tmp_path / "bank"), xl_base)
    assert len(Bank(tmp_path / "bank")) == 0


def test_what_is_said_must_fit(tmp_path, xl_base, tiny_base, made):
    write_lora(tmp_path / "exp", made)
    write_encoders(tmp_path / "exp_full_model", made)
    bank = Bank(tmp_path / "bank")
    with pytest.raises(BankError, match="is of CLIF; it does not say what"):
        take(tmp_path / "exp", bank, xl_base, "")
    with pytest.raises(BankError, match="does not tell its base model"):
        take(tmp_path / "exp", bank)
    with pytest.raises(BankError, match=r"holds 2 subjects .<pur1> <pur2>; <tea1> <tea2>. for 3"):
        take(tmp_path / "exp", bank, xl_base, "cat+dog+bird")
    with pytest.raises(BankError, match="holds 4 words"):
        take(tmp_path / "exp", bank, xl_base, words="<a> <b> <c>")
    with pytest.raises((BankError, FamilyError)):
        take(tmp_path / "exp", bank, tiny_base)
    half = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight":
        torch.ones(64, 2)
    }  # fmt: skip
    save_file(half, tmp_path / "exp" / "pytorch_lora_weights.safetensors")
    with pytest.raises(CidmError, match="has no down and up that fit"):
        take(tmp_path / "exp", bank, xl_base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BankError, match=r"has no pytorch_custom_diffusion_weights"):
        take(tmp_path / "empty", bank, xl_base)
