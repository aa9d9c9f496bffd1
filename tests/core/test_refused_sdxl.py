"""What does not fit SDXL, or SDXL where it does not fit: refused before any work, nothing lost."""

from dataclasses import replace

import pytest
from learning_samples import config, photos
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import FamilyError, PromptError, TrainingError
from cidm_core.training.data import Photo

LONG = "a photo of " + "very " * 80 + "dog"


@pytest.fixture
def bases(xl_base, tiny_base):
    return {"SDXL": xl_base, "SD15": tiny_base}


def files(bank):
    return {path.name: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}


def learn(base, bank, **given):
    held = given.pop("photos", None) or photos()
    settings = config(**given)
    train_concept(base, bank, held, words="<d1> <d2>", class_words="dog", config=settings)


@pytest.mark.parametrize(("family", "other"), [("SDXL", "SD15"), ("SD15", "SDXL")])
def test_learning_into_a_bank_of_the_other_family(bases, family, other, tmp_path):
    bank = Bank(tmp_path)
    bank.add(random_concept(bases[other], "<v1> <w1>", seed=1))
    before = files(bank)
    with pytest.raises(FamilyError, match=rf"'v1' was learned on {other} .* is {family} "):
        learn(bases[family], bank)
    with pytest.raises(FamilyError, match=rf"concept 'x' is {family}"):
        bank.add(random_concept(bases[family], "<x> <y>", seed=2))
    assert files(bank) == before


@pytest.mark.parametrize("family", ["SDXL", "SD15"])
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"resolution_px": 100}, TrainingError, "multiple of its latent cell of 8 px. Use 96"),
        (
            {"photos": [Photo.from_image(photos()[0].image, LONG)]},
            PromptError,
            "is token 324 of .* reads 75",
        ),
    ],
    ids=["size", "caption"],
)
def test_sizes_and_captions_that_cannot_be_learned(bases, family, given, error, said, tmp_path):
    with pytest.raises(error, match=said):
        learn(bases[family], Bank(tmp_path), **given)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("short", [0, 1])
def test_a_word_must_be_within_the_limit_of_either_encoder(xl_base, short):
    rows = list(xl_base.family.encoders)
    rows[short] = replace(rows[short], max_tokens=20)
    base = replace(xl_base, family=replace(xl_base.family, encoders=tuple(rows)))
    concept = random_concept(xl_base, "<v1> <w1>", seed=1)
    with pytest.raises(PromptError, match=r"'<v1>' is token 31 of the prompt.* reads 18"):
        make_plan(base, {concept.name: concept}, "a " * 30 + "<v1> <w1>")
