"""Every file layout of Custom Diffusion comes in as the same concept, and goes out again."""

import pickle
import re
from dataclasses import replace

import pytest
import torch
from bank_samples import BASE, OTHER_BASE, make_concept
from safetensors.torch import save_file

from cidm_core.bank import Bank
from cidm_core.concept import Subject
from cidm_core.errors import BankError, CidmError, FamilyError
from cidm_core.exporters.export import export_concept
from cidm_core.families import FAMILIES, CrossAttention
from cidm_core.importers.concept_import import import_concept
from cidm_core.importers.settings import ImportConfig
from cidm_core.updates import FullRank, LowRank, ValueResidual

WIDTH, RANK = 8, 3
CROSSATTN = {"to_q.weight": (WIDTH, WIDTH), "to_out.0.weight": (WIDTH, WIDTH)}
CROSSATTN |= {"to_out.0.bias": (WIDTH,)}
TOKENS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
HF = "pytorch_custom_diffusion_weights"


class Model:
    """A base model of SD 1.5's layers or SDXL's, narrow, as importers and exporters ask for one."""

    def __init__(self, family="SD15", count=None, fingerprint=BASE):
        self.family, self.fingerprint = FAMILIES[family], fingerprint
        context = self.family.context_dim
        paths = [layer.path for layer in self.family.layers][:count]
        self.layers = tuple(CrossAttention(path, WIDTH, context) for path in paths)
        draw = torch.Generator().manual_seed(0)
        shapes = {"to_k.weight": (WIDTH, context), "to_v.weight": (WIDTH, context), **CROSSATTN}
        self.table = {
            f"{path}.{name}": torch.randn(shape, generator=draw) / 20
            for path in paths
            for name, shape in shapes.items()
        }
        for path in paths:
            name = path.replace("attn2", "attn1.to_q.weight")
            self.table[name] = torch.randn(WIDTH, WIDTH, generator=draw)

    def shape_of(self, path):
        held = self.table.get(f"{path}.weight")
        return None if held is None else tuple(held.shape)

    def parameter(self, name):
        return self.table[name].clone()

    def learned(self, crossattn=False):
        """What a training made of it, in 3 percent of each number's usual size."""
        draw = torch.Generator().manual_seed(1)
        parts = ("attn2.to_k.weight", "attn2.to_v.weight")
        parts += tuple(f"attn2.{name}" for name in CROSSATTN) if crossattn else ()
        return {
            name: value + torch.randn(value.shape, generator=draw) / 700
            for name, value in self.table.items()
            if name.endswith(parts)
        }


MODEL = Model()
W = MODEL.learned()
ROWS = torch.randn(2, 768, generator=torch.Generator().manual_seed(2))
FACTORS = {
    name: {"u": torch.randn(WIDTH, RANK) / 9, "v": torch.randn(RANK, 768) / 30} for name in W
}


def ldm(name):
    """CompVis' name, by the rule of the methods' description."""
    index = r"(down|up)_blocks\.(\d)\.attentions\.(\d)\."

    def place(found):
        side, block, attention = found[1], int(found[2]), int(found[3])
        if side == "down":
            return f"input_blocks.{3 * block + attention + 1}.1."
        return f"output_blocks.{3 * block + attention}.1."

    name = re.sub(index, place, name).replace("mid_block.attentions.0.", "middle_block.1.")
    return f"model.diffusion_model.{name}"


def hf(name):
    part = name.rpartition(".attn2.")[2]
    projection, _, rest = part.partition(".")
    return name.replace(part, f"processor.{projection}_custom_diffusion.{rest}")


def of_compvis(weights, **more):
    return {"state_dict": {ldm(name): value for name, value in weights.items()} | more}


def of_bin(weights, words=("<new1>", "<new2>")):
    rows = {word: row.clone() for word, row in zip(words, ROWS, strict=False)}
    return {"unet": dict(weights), "modifier_token": rows}


def of_diffusers(weights):
    found = {f"{layer.path.replace('attn2', 'attn1')}.processor": {} for layer in MODEL.layers}
    return found | {hf(name): value for name, value in weights.items()}


def whole_model():
    tokens = torch.zeros(49410, 768, dtype=torch.float16)
    tokens[-2:] = ROWS.half()
    return of_compvis(MODEL.table | W, **{TOKENS: tokens, "first_stage_model.x": torch.ones(1)})


WORDS = {"<new1>.bin": {"<new1>": ROWS[0].clone()}, "<new2>.bin": {"<new2>": ROWS[1].clone()}}
LAYOUTS = {
    "CV-delta": lambda: {"delta_epoch=000004.ckpt": of_compvis(W, embed=ROWS)},
    "CV-compressed": lambda: {"compressed_delta.ckpt": of_compvis(FACTORS, embed=ROWS)},
    "RD-delta": lambda: {"delta.bin": of_bin(W)},
    "RD-compressed": lambda: {"compressed_delta.bin": of_bin(FACTORS)},
    "conv-CV": lambda: {"delta_model.ckpt": of_compvis(W, embed=ROWS.flatten())},
    "full CV": lambda: {"model.ckpt": whole_model()},
    "HF": lambda: {f"{HF}.bin": of_diffusers(W), **WORDS},
    "HF safetensors": lambda: {f"{HF}.safetensors": {hf(k): v for k, v in W.items()}, **WORDS},
}


@pytest.fixture
def write(tmp_path):
    """Function writing files -> the first; safetensors bytes where asked, whatever the name."""

    def writing(files, safe=()):
        folder = tmp_path / "theirs"
        folder.mkdir(exist_ok=True)
        for name, table in files.items():
            as_safe = name.endswith(".safetensors") or name in safe
            (save_file if as_safe else torch.save)(table, folder / name)
        return folder / next(iter(files))

    return writing


@pytest.fixture
def bank(tmp_path):
    return Bank(tmp_path / "bank")


def take(path, bank, model=MODEL, **given):
    return import_concept(path, bank, ImportConfig(**{"class_words": "cat+dog", **given}), model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_identical_tensors(write, bank, layout):
    concept, note = take(write(LAYOUTS[layout]()), bank)
    assert concept.method == "custom_diffusion"
    assert [(s.words, s.class_words) for s in concept.subjects] == [
        (("<new1>",), "cat"),
        (("<new2>",), "dog"),
    ]
    assert concept.updates.keys() == {name.removesuffix(".weight") for name in W}
    for path, update in concept.updates.items():
        name = f"{path}.weight"
        if "compressed" in layout:
            assert isinstance(update, LowRank)
            assert update.scale == 1
            assert torch.equal(update.up, FACTORS[name]["u"])
            assert torch.equal(update.down, FACTORS[name]["v"])
        else:
            assert torch.equal(update.delta, W[name] - MODEL.table[name])
            assert update.bias is None
    rows = ROWS.half().float() if layout == "full CV" else ROWS
    assert torch.equal(concept.rows["text_encoder"][:, 0].float(), rows)
    assert (concept.name, note) == ("cat and dog", "")


def test_webui_embeddings_come_in_as_textual_inversions(write, bank):
    path = write({"<new1>.pt": {"<new1>": ROWS[0].clone()}})
    concept, _ = take(path, bank, class_words="cat")
    assert torch.equal(concept.rows["text_encoder"][:, 0], ROWS[:1])
    assert concept.words == ("<new1>",)
    assert not concept.updates


def test_those_of_sdxl(write, bank):
    model = Model("SDXL", count=12)
    learned = model.learned()
    rows = [torch.randn(768), torch.randn(1280)]
    path = write({"delta.bin": {"unet": learned, "modifier_token": {"<new1>": rows}}})
    concept, _ = take(path, bank, model, class_words="cat")
    for name, value in learned.items():
        update = concept.updates[name.removesuffix(".weight")]
        assert torch.equal(update.delta, value - model.table[name])
    assert torch.equal(concept.rows["text_encoder"][0, 0], rows[0])
    assert torch.equal(concept.rows["text_encoder_2"][0, 0], rows[1])
    with pytest.raises(BankError, match=r"'<new1>' is 768 and 1280 wide; SD15 reads words 768"):
        take(write({"x.bin": {"unet": W, "modifier_token": {"<new1>": rows}}}), bank)


@pytest.mark.parametrize("kind", ["compvis", "bin", "diffusers"])
def test_all_of_cross_attention_with_its_bias(write, bank, kind):
    learned = MODEL.learned(crossattn=True)
    files = {
        "compvis": {"delta.ckpt": of_compvis(learned)},
        "bin": {"delta.bin": {"unet": learned}},
        "diffusers": {f"{HF}.bin": of_diffusers(learned)},
    }
    concept, note = take(write(files[kind]), bank, class_words="cat")
    assert concept.triggers == ("cat",)
    assert "without a word of its own: 'cat' calls it" in note
    assert len(concept.updates) == 4 * 16
    for path, update in concept.updates.items():
        assert torch.equal(update.delta, learned[f"{path}.weight"] - MODEL.table[f"{path}.weight"])
        assert (update.bias is not None) == path.endswith("to_out.0")
        if update.bias is not None:
            assert torch.equal(update.bias, learned[f"{path}.bias"] - MODEL.table[f"{path}.bias"])


def test_safetensors_under_another_name_and_a_folder(write, bank):
    files = {f"{HF}.bin": {hf(k): v for k, v in W.items()}, **WORDS, "note.bin": {"x": ROWS}}
    path = write(files, safe=set(files))
    concept, _ = take(path.parent, bank)
    assert concept.words == ("<new1>", "<new2>")
    with pytest.raises(BankError, match="has no pytorch_custom_diffusion_weights"):
        take(path.parent.parent, bank)


def test_a_chosen_word_and_new_names(write, tmp_path):
    path = write({"delta.bin": of_bin(W, ("sks", "<new2>"))})
    found = {}
    for number, (words, classes) in enumerate(
        [("", "cat+dog"), ("<new2>", "dog"), ("<rex> <tom>", "dog + cat"), ("<TOM> <new2>", "a+b")]
    ):
        bank = Bank(tmp_path / str(number))
        found[words], _ = take(path, bank, words=words, class_words=classes)
    assert [concept.words for concept in found.values()] == [
        ("<sks>", "<new2>"),
        ("<new2>",),
        ("<rex>", "<tom>"),
        ("<tom>", "<new2>"),
    ]
    assert torch.equal(found["<new2>"].rows["text_encoder"][:, 0], ROWS[1:])
    assert found["<new2>"].name == "dog"


def test_a_file_of_ours_is_known_by_its_content(tmp_path, bank):
    made = Bank(tmp_path / "home").add(make_concept("dog", layers=16))
    for name in ("x.bin", "x.ckpt"):
        path = tmp_path / name
        path.write_bytes((tmp_path / "home" / "dog.safetensors").read_bytes())
        concept, note = take(path, bank, None, class_words="")
        assert (concept.words, concept.base) == (made.words, made.base)
        assert note == ("" if name == "x.bin" else "It was in the bank already.")


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_pickle_called_safetensors_is_not_read(tmp_path, bank, in_zip):
    path = tmp_path / "delta.safetensors"
    torch.save(of_bin(W), path, _use_new_zipfile_serialization=in_zip)
    with pytest.raises(CidmError, match=r"is a PyTorch pickle; give it the ending \.ckpt"):
        take(path, bank)


def test_a_cut_file_of_others_is_not_taken_for_one_of_ours(write, bank):
    path = write({f"{HF}.safetensors": {hf(k): W[k] for k in W}})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CidmError, match=r"no whole safetensors file.*Get the file again"):
        take(path, bank)


class Evil:
    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return open, (self.proof, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "a word"])
@pytest.mark.parametrize("name", ["delta.ckpt", f"{HF}.bin"])
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, bank, name, form):
    proof, path = tmp_path / "proof", tmp_path / name
    table = of_bin(W) | {"x": Evil(proof)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Evil(proof)))
    elif form == "a word":
        path = tmp_path / f"{HF}.bin"
        torch.save(of_diffusers(W), path)
        torch.save({"<new1>": Evil(proof)}, tmp_path / "<new1>.bin")
    else:
        torch.save(table, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(BankError, match="was not opened") as caught:
        take(path, bank)
    assert "weights_only=False" not in str(caught.value)
    assert not proof.exists()
    assert len(bank) == 0


def test_a_legacy_pickle_of_plain_tensors_is_read(tmp_path, bank):
    path = tmp_path / "delta.bin"
    torch.save(of_bin(W), path, _use_new_zipfile_serialization=False)
    assert len(take(path, bank)[0].updates) == 32


def changed(edit):
    """A `delta.bin` after an edit of its matrices."""
    weights = {name: value.clone() for name, value in W.items()}
    edit(weights, next(iter(weights)))
    return {"delta.bin": of_bin(weights)}


def nan(weights, first):
    weights[first][0, 0] = float("nan")


BAD = {
    "nan": (changed(nan), {}, r"delta\.bin: .* holds NaN or infinite weights in down_blocks"),
    "SD 2": (
        changed(lambda w, k: w.update({k: torch.ones(WIDTH, 1024)})),
        {},
        r"to_k\.weight is 8 x 1024; the model \(SD15\) has 8 x 768\. Give the model",
    ),
    "another layer": (
        changed(lambda w, k: w.update({"down_blocks.9.attn2.to_k.weight": torch.ones(1, 1)})),
        {},
        "has no such layer",
    ),
    "another layer of compvis": (
        {"x.ckpt": of_compvis({"down_blocks.3.attentions.1.attn2.to_k.weight": ROWS})},
        {},
        r"the model has no layer input_blocks\.11\.1\.attn2",
    ),
    "another model": (
        changed(lambda w, k: w.update({name: torch.randn(WIDTH, 768) for name in w})),
        {},
        r"differs from the model by \d+% of its keys and values.*allow_other_base",
    ),
    "a whole other model": (
        {"model.ckpt": of_compvis({k: v + 0.01 for k, v in MODEL.table.items()}, **{TOKENS: ROWS})},
        {},
        "differs from the model outside of cross-attention too",
    ),
    "the base itself": (
        {"delta.ckpt": of_compvis({name: MODEL.table[name] for name in W})},
        {"class_words": "cat"},
        "changes nothing of the model, and has no words",
    ),
    "half a pair": (
        {"delta.bin": of_bin({next(iter(W)): {"u": torch.ones(WIDTH, 2)}})},
        {},
        "has not the factors u and v",
    ),
    "factors that do not meet": (
        {"x.bin": of_bin({next(iter(W)): {"u": torch.ones(WIDTH, 2), "v": torch.ones(3, 768)}})},
        {},
        r"are \(8, 2\) and \(3, 768\)",
    ),
    "whole numbers": (
        changed(lambda w, k: w.update({k: torch.ones(WIDTH, 768, dtype=torch.int8)})),
        {},
        "holds no plain numbers",
    ),
    "a torn embedding": (
        {"x.ckpt": of_compvis(W, embed=torch.ones(1000))},
        {},
        "no rows of 768",
    ),
    "a missing word": (
        {"x.ckpt": of_compvis(W)},
        {"words": "<cat>"},
        r"holds no word, and '<cat>' was asked for. Put the file of the word",
    ),
    "too many words": ({"x.bin": of_bin(W)}, {"words": "<a> <b> <c>"}, "holds 2 words"),
    "a plain word": ({"x.bin": of_bin(W)}, {"words": "my cat"}, "in angle brackets: '<my>'"),
    "one class for two": (
        {"x.bin": of_bin(W)},
        {"class_words": "cat"},
        r"2 words \(<new1> <new2>\) for 1 class words.*'cat\+cat'",
    ),
    "no class": (
        {f"{HF}.safetensors": {hf(k): W[k] for k in W}},
        {"class_words": ""},
        "Give class",
    ),
    "no model": ({"x.bin": of_bin(W)}, {"model": None}, "Give the model it was learned on .*--mod"),
    "an empty word": (
        {f"{HF}.bin": of_diffusers(W), "<new1>.bin": {"<new1>": torch.ones(3, 768)}},
        {},
        "<new1>.bin holds no vector",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named_and_nothing_is_lost(write, bank, case):
    files, given, said = BAD[case]
    bank.add(make_concept("dog", layers=16))
    with pytest.raises(CidmError, match=said):
        take(write(files), bank, **given)
    assert list(bank) == ["dog"]


def test_another_base_is_taken_where_that_is_allowed(write, bank):
    path = write(BAD["a whole other model"][0])
    concept, note = take(path, bank, allow_other_base=True, class_words="cat")
    assert "unet attn1 (16 tensors)" in note
    assert len(concept.updates) == 64


def custom(model=MODEL, crossattn=False, rows=None, rank=0):
    """A concept as a training here leaves it."""
    updates = {}
    for name, value in model.learned(crossattn).items():
        path, _, part = name.rpartition(".")
        delta = value - model.table[name]
        if part == "bias":
            updates[path] = replace(updates[path], bias=delta)
        elif rank:
            updates[path] = LowRank(delta[:rank].clone(), torch.randn(WIDTH, rank), float(rank))
        else:
            updates[path] = FullRank(delta)
    made = {row.name: torch.randn(2, 1, row.dim) for row in model.family.encoders}
    return replace(
        make_concept("pets", layers=1),
        subjects=(Subject(("<tom>",), "cat"), Subject(("<rex>",), "dog")),
        family=model.family.name,
        layers=tuple(layer.path for layer in model.layers),
        updates=updates,
        rows=made if rows is None else rows,
        method="custom_diffusion",
    )


KINDS = {"compvis-delta": "x.ckpt", "delta-bin": "x.bin", "diffusers-custom-diffusion": "x"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["keys and values", "crossattn", "compressed", "sdxl"])
def test_what_goes_out_comes_back(tmp_path, bank, kind, how):
    model = Model("SDXL", count=12) if how == "sdxl" else MODEL
    made = custom(model, how == "crossattn", rank=RANK if how == "compressed" else 0)
    bank.add(made)
    if (kind, how) == ("compvis-delta", "sdxl"):
        with pytest.raises(BankError, match=r"draws with Stable Diffusion 1\.x"):
            export_concept(bank, "pets", tmp_path / KINDS[kind], kind, model)
        return
    first, *words = export_concept(bank, "pets", tmp_path / KINDS[kind], kind, model)
    assert [path.name for path in words] == (
        ["tom.safetensors", "rex.safetensors"] if kind.startswith("diffusers") else []
    )
    given = {"words": "<tom> <rex>"} if kind == "compvis-delta" else {}
    back, _ = take(first, Bank(tmp_path / "other"), model, **given)
    places = [back.words.index(word) for word in made.words]
    assert sorted(places) == [0, 1]
    for encoder, rows in made.rows.items():
        assert torch.equal(back.rows[encoder][places], rows)
    assert back.updates.keys() == made.updates.keys()
    exact = how == "compressed" and not kind.startswith("diffusers")
    for path, update in made.updates.items():
        if exact:
            assert torch.equal(back.updates[path].up, update.up)
            assert torch.equal(back.updates[path].down, update.down)
            continue
        for part, base, delta, found in pairs(model, path, update, back.updates[path]):
            # The file holds base + delta: what came back makes that very number of it again.
            assert torch.equal(base + found, base + delta), part
            torch.testing.assert_close(found, delta, rtol=0, atol=2e-8)


def pairs(model, path, update, found):
    """Of weight and bias: the base's, the change that went out, and the one that came back."""
    yield "weight", model.table[f"{path}.weight"], update.delta, found.delta
    if getattr(update, "bias", None) is not None:
        yield "bias", model.table[f"{path}.bias"], update.bias, found.bias


@pytest.mark.parametrize("kind", ["webui", "diffusers-custom-diffusion"])
def test_words_have_files_of_their_own(tmp_path, bank, kind):
    made = bank.add(custom())
    files = export_concept(bank, "pets", tmp_path / "x", kind, MODEL)
    folders = ("loras", "embeddings") if kind == "webui" else (".", ".")
    assert [str(path.parent.relative_to(tmp_path / "x")) for path in files] == [
        folders[0],
        *[folders[1]] * 2,
    ]
    other = Bank(tmp_path / "words")
    for path, rows in zip(files[1:], made.rows["text_encoder"], strict=True):
        concept, _ = take(path, other, class_words="cat")
        assert take(path, other, class_words="cat")[1] == "It was in the bank already."
        assert concept.words == (f"<{path.stem}>",)
        assert torch.equal(concept.rows["text_encoder"][0], rows)


def layered():
    return custom(rows={"text_encoder": torch.randn(2, 16, 768)})


def residual():
    made = custom()
    path = f"{MODEL.layers[0].path}.to_v"
    return replace(made, updates={**made.updates, path: ValueResidual(torch.ones(WIDTH))})


def beside():
    made = custom()
    path = f"{MODEL.layers[0].path.replace('attn2', 'attn1')}.to_q"
    return replace(made, updates={**made.updates, path: FullRank(torch.ones(WIDTH, WIDTH))})


REFUSED = {
    "layers": (layered, "webui", MODEL, "another embedding in each cross-attention layer"),
    "layers too": (layered, "delta-bin", MODEL, "another embedding in each cross-attention layer"),
    "residual": (residual, "webui", MODEL, "acts at single words"),
    "residual too": (residual, "diffusers-custom-diffusion", MODEL, "acts at single words"),
    "self-attention": (beside, "compvis-delta", MODEL, r"changes .*attn1\.to_q, and files of Cust"),
    "no model": (custom, "compvis-delta", None, r"hold whole matrices.*Give the model"),
    "other model": (custom, "delta-bin", Model(fingerprint=OTHER_BASE), "learned on another SD15"),
    "name": (custom, "delta-bin", MODEL, "should end in .bin"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_out_is_said_and_nothing_is_written(tmp_path, bank, case):
    make, kind, model, said = REFUSED[case]
    bank.add(make())
    out = tmp_path / ("x.txt" if case == "name" else KINDS.get(kind, "x"))
    with pytest.raises((BankError, FamilyError), match=said):
        export_concept(bank, "pets", out, kind, model)
    assert not out.exists()


def test_an_export_harms_no_concept(bank):
    bank.add(custom())
    with pytest.raises(BankError, match="lies in the bank itself"):
        export_concept(bank, "pets", bank.path, "diffusers-custom-diffusion", MODEL)
    assert len(list(bank.path.glob("*.safetensors"))) == 1
