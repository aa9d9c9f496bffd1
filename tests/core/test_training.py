"""Learning a concept on a small model: what changes, what is counted, what stops it."""

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from learning_samples import (
    config,
    learn,
    photos,
    same_concept,
    same_weights,
    small_base,
    small_folder,
    weights,
)
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.concept import Concept, Subject
from cidm_core.config import TrainConfig
from cidm_core.diffusers_host import encode as encode_module
from cidm_core.diffusers_host import injection, learning
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import (
    BankError,
    CidmError,
    ConceptError,
    FamilyError,
    HostError,
    PhotoError,
    PromptError,
    TrainingError,
)
from cidm_core.methods.base import Task
from cidm_core.methods.batches import Batch
from cidm_core.methods.cidm import Cidm
from cidm_core.methods.group import Group
from cidm_core.ops.consolidation import orthogonality
from cidm_core.training.data import Photo
from cidm_core.training.loop import Hooks, Loop
from cidm_core.training.state import RunFolder

# What is learned


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A bank with one learned concept, the events of its run, and the model before and after."""
    folder, base, events = tmp_path_factory.mktemp("bank"), small_base(), []
    before = weights(base)
    generator_before = torch.get_rng_state()
    concept = learn(folder, given={"steps": 8}, on_progress=events.append)
    same_generator = torch.equal(generator_before, torch.get_rng_state())
    return Bank(folder), concept, events, before, weights(base), same_generator


def test_the_concept_is_in_the_bank_with_its_facts(taught):
    bank, concept, *_ = taught
    assert list(bank) == ["dog"]
    same_concept(bank["dog"], concept)
    assert concept.words == ("<dog1>", "<dog2>")
    assert concept.method == "cidm"
    assert concept.config["steps"] == 8
    facts = concept.facts
    assert (facts["steps"], facts["skipped"], facts["photos"]) == (8, 0, 3)
    assert facts["base_name"] == "small"
    assert math.isfinite(facts["final_loss"])
    assert bank.entries()[0].preview.exists()


def test_only_tokens_and_low_rank_weights_changed(taught):
    _, concept, _, before, after, _ = taught
    same_weights(before, after)
    layers = small_base().layers
    assert len(concept.low_rank) == 4 * len(layers)
    for key, pair in concept.low_rank.items():
        assert pair.up.abs().max() > 0, key
        assert (pair.rank, pair.alpha) == (4, 4.0)
    rows = concept.rows["text_encoder"]
    assert rows.shape == (2, len(layers), 128)
    assert not torch.equal(rows[:, 0], rows[:, 1])  # layers have grown apart


def test_flags_and_the_global_generator_are_as_before(taught):
    *_, same_generator = taught
    base = small_base()
    assert same_generator
    assert not hasattr(base.unet, "peft_config")
    assert all(p.requires_grad for p in load_base(small_folder()).unet.parameters()) == all(
        p.requires_grad for p in base.unet.parameters()
    )


def test_events_tell_phase_terms_and_rates(taught):
    _, _, events, *_ = taught
    assert [e.step for e in events if e.phase == "preparing"] == [1, 2, 3]
    steps = [e for e in events if e.phase == "learning"]
    assert [e.step for e in steps] == list(range(1, 9))
    assert steps[0].lr == pytest.approx(1e-3)
    assert steps[-1].lr == pytest.approx(1e-3 / 8)
    assert steps[-1].remaining_seconds == 0
    assert steps[0].loss == pytest.approx(sum(steps[0].terms.values()))
    assert set(steps[0].terms) == {"denoise"}  # the first task has no R1 and R2


def test_log_and_loss_picture_stay_and_the_state_goes(taught):
    bank, *_ = taught
    folder = bank.path / ".runs" / "dog"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    wanted = {"loss", "denoise", "lr_lora", "lr_tokens.text_encoder", "grad_norm", "seconds"}
    assert all(wanted <= row.keys() for row in rows)
    assert (folder / "loss.png").exists()
    assert not (folder / "state.cidm").exists()


def test_same_seed_same_bits_and_another_seed_others(taught, tmp_path):
    _, concept, *_ = taught
    torch.manual_seed(99)  # the global generator must not matter
    same_concept(concept, learn(tmp_path / "a", given={"steps": 8}))
    other = learn(tmp_path / "b", given={"steps": 8, "seed": 1})
    assert not torch.equal(other.rows["text_encoder"], concept.rows["text_encoder"])


def test_tokens_start_at_the_class_word(tmp_path):
    concept = learn(tmp_path, given={"steps": 1, "lr_tokens": 0.0, "lr_lora": 0.0})
    base = small_base()
    ids = base.tokenizers[0]("dog", add_special_tokens=False).input_ids
    expected = base.text_encoders[0].get_input_embeddings().weight[ids].mean(0)
    rows = concept.rows["text_encoder"]
    torch.testing.assert_close(rows[1], expected.expand(len(base.layers), -1))
    assert rows[0].std().item() == pytest.approx(0.013, rel=0.25)
    assert all(not pair.up.any() for pair in concept.low_rank.values())


SUBJECT = Subject(("<d1>", "<d2>"), "dog")


def groups_of(method):
    (stage,) = method.stages()
    return list(stage.groups)


def tokens_of(method):
    return groups_of(method)[0]


def low_rank_of(method):
    return groups_of(method)[1]


def make_method(given=None, old=(), masks=False):
    base = small_base()
    task = Task("dog", (SUBJECT,), "MINI", base.fingerprint, base.layers)
    host = learning.LearningHost(base, task.words)
    return Cidm(task, config(**(given or {})), list(old), host), host


def make_batch(seed=0, masks=None, prompts=("a <d1> <d2>", "a photo of <d1> <d2>")):
    source = torch.Generator().manual_seed(seed)
    shape = (len(prompts), 8, 8, 8)
    return Batch(
        latents=torch.randn(shape, generator=source),
        noise=torch.randn(shape, generator=source),
        timesteps=torch.tensor([300, 700])[: len(prompts)],
        prompts=prompts,
        image_masks=torch.ones(len(prompts), 8, 8),
        concept_masks=masks,
    )


class Always:
    def __init__(self, batch):
        self.taken = batch

    def batch(self, index):
        return self.taken


def run_loop(tmp_path, method, host, given, source=None, **options):
    settings = config(**given)
    tmp_path.mkdir(exist_ok=True)
    folder = RunFolder(tmp_path, "test")
    batches = source or Always(make_batch())
    loop = Loop(method, lambda _: batches, settings, folder, host.device, **options)
    with host.attached(method.updates, settings):
        loop.run()
    return folder.rows


def test_loss_falls_when_memorising_one_batch(tmp_path):
    given = {"steps": 30, "lr_lora": 3e-2, "lr_tokens": 1e-2}
    method, host = make_method(given)
    rows = run_loop(tmp_path, method, host, given)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_layers_read_their_own_context():
    method, host = make_method()
    batch = make_batch()
    tokens = {"text_encoder": tokens_of(method).tensors["rows"]}
    with host.attached(method.updates), torch.no_grad():
        start = host.predict(batch, tokens, watch=False).value
        for layer in range(len(small_base().layers)):
            moved = {"text_encoder": tokens["text_encoder"].clone()}
            moved["text_encoder"][:, layer] += 1.0
            assert not torch.equal(host.predict(batch, moved, watch=False).value, start), layer


def test_gradient_checkpointing_gives_the_same_gradients(monkeypatch):
    base, grads, recomputed = small_base(), [], []
    plain = injection.checkpoint

    def counted(run, *args, **kwargs):
        recomputed.append(run)
        return plain(run, *args, **kwargs)

    monkeypatch.setattr(injection, "checkpoint", counted)
    for checkpointing in (False, True):
        method, host = make_method()
        for pair in method.updates.values():
            torch.nn.init.normal_(pair.up, generator=torch.Generator().manual_seed(0))
        before = weights(base)
        with host.attached(method.updates, TrainConfig(gradient_checkpointing=checkpointing)):
            sum(method.losses(make_batch()).values()).backward()
            assert bool(recomputed) == checkpointing
        same_weights(before, weights(base))
        grads.append([group.grad.clone() for group in groups_of(method)])
    assert any("CLIP" in repr(run) for run in recomputed)  # the text encoder too
    assert not base.unet.is_gradient_checkpointing
    assert all(grad.abs().max() > 0 for grad in grads[0])
    for whole, again in zip(*grads, strict=True):
        torch.testing.assert_close(whole, again)


def test_accumulation_is_a_larger_batch(tmp_path):
    """Equal up to rounding, as both average over the same pictures."""
    grads = []
    for size, accumulation in ((4, 1), (2, 2)):
        given = {"steps": 1, "batch_size": size, "accumulation": accumulation}
        method, host = make_method(given)
        whole = make_batch(prompts=("a <d1>", "<d2>", "<d1> <d2>", "my <d1>"))
        whole = Batch(**{**whole.__dict__, "timesteps": torch.tensor([1, 2, 300, 900])})
        parts = [_slice(whole, i, size) for i in range(0, 4, size)]

        class Parts:
            def batch(self, index, parts=parts):
                return parts[index]

        run_loop(tmp_path / str(size), method, host, given, Parts())
        grads.append(low_rank_of(method).grad.clone())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def _slice(batch, start, size):
    end = start + size
    return Batch(
        *(getattr(batch, n)[start:end] for n in ("latents", "noise", "timesteps", "prompts")),
        batch.image_masks[start:end],
    )


@pytest.mark.parametrize(
    "given",
    [
        {"precision": "bf16"},
        {"gradient_checkpointing": True, "accumulation": 2, "precision": "bf16"},
    ],
)
def test_other_ways_to_compute_train_as_well(tmp_path, given):
    concept = learn(tmp_path, given={"steps": 2, **given})
    assert concept.config["precision"] == "bf16"
    assert all(pair.up.dtype == torch.float32 for pair in concept.low_rank.values())


def test_a_half_precision_model_trains_fp32_weights(tmp_path):
    base = load_base(small_folder(), device="cpu", dtype="bf16")
    before = weights(base)
    concept = learn(tmp_path, base=base, given={"steps": 2})
    same_weights(before, weights(base))
    assert concept.config["precision"] == "bf16"
    assert all(pair.up.any() for pair in concept.low_rank.values())


def test_v_prediction_has_its_own_target():
    base = small_base()
    method, host = make_method()
    batch = make_batch()
    alphas = host._alphas[batch.timesteps][:, None, None, None]
    base.scheduler_config["prediction_type"] = "v_prediction"
    try:
        with host.attached(method.updates), torch.no_grad():
            tokens = {"text_encoder": tokens_of(method).tensors["rows"]}
            target = host.predict(batch, tokens, watch=False).target
    finally:
        base.scheduler_config["prediction_type"] = "epsilon"
    expected = alphas.sqrt() * batch.noise - (1 - alphas).sqrt() * batch.latents
    torch.testing.assert_close(target, expected)


# Masks


def test_loss_sees_only_the_masks():
    method, host = make_method({"attention_weight": 0.0})
    masks = torch.zeros(2, 8, 8)
    masks[:, :4] = 1
    batch = make_batch(masks=masks)
    with host.attached(method.updates), torch.no_grad():
        tokens = {"text_encoder": tokens_of(method).tensors["rows"]}
        found = host.predict(batch, tokens, watch=False)
        error = (found.value - found.target)[:, :, :4].square().mean()
        torch.testing.assert_close(method.losses(batch)["denoise"], error)
        ignoring, _ = make_method({"attention_weight": 0.0, "use_concept_masks": False})
        ignoring._host = host
        whole = (found.value - found.target).square().mean()
        torch.testing.assert_close(ignoring.losses(batch)["denoise"], whole)


def test_attention_regulariser_appears_with_masks_only(tmp_path):
    with_masks = []
    learn(
        tmp_path / "a",
        photos=photos(masks=True),
        given={"steps": 2},
        on_progress=lambda e: with_masks.append(set(e.terms)),
    )
    assert with_masks[-1] == {"denoise", "attention"}
    off = []
    learn(
        tmp_path / "b",
        photos=photos(masks=True),
        given={"steps": 2, "attention_weight": 0.0},
        on_progress=lambda e: off.append(set(e.terms)),
    )
    assert off[-1] == {"denoise"}


def test_recording_attention_changes_nothing_and_sums_right():
    method, host = make_method()
    tokens = {"text_encoder": tokens_of(method).tensors["rows"]}
    batch = make_batch(prompts=("a <d1> <d2>", "<d2> with <d2>"))
    with host.attached(method.updates), torch.no_grad():
        plain = host.predict(batch, tokens, watch=False)
        watched = host.predict(batch, tokens, watch=True)
    torch.testing.assert_close(watched.value, plain.value, rtol=1e-4, atol=1e-5)
    assert len(watched.attention) == len(small_base().layers)
    for maps in watched.attention:
        assert maps.shape[0] == 2
        assert maps.shape[3] == 2
        assert (maps[0] > 0).all()
        assert (maps[0] < 1).all()
        assert not maps[1, ..., 0].any()  # <d1> is not in the second prompt


def test_attention_regulariser_moves_the_tokens():
    method, host = make_method()
    masks = torch.zeros(2, 8, 8)
    masks[:, :, :4] = 1
    with host.attached(method.updates):
        method.losses(make_batch(masks=masks))["attention"].backward()
    assert tokens_of(method).grad.abs().max() > 0


# Consolidation


def old_concepts():
    return [random_concept(small_base(), f"<v{i}> <w{i}>", seed=i, rank=4) for i in (1, 2)]


def trained(tmp_path, old, steps=4, **given):
    given = {"steps": steps, **given}
    method, host = make_method(given, old)
    rows = run_loop(tmp_path, method, host, given)
    return method, rows


# Eq. 2 with both terms, as the paper learns.
CONSOLIDATED = {"orthogonality": "subspace", "common_subspace": "closed_form"}


def overlap(method, old):
    return sum(
        orthogonality(
            pair.up.detach(), torch.stack([concept.low_rank[key].up for concept in old])
        ).item()
        for key, pair in method.updates.items()
    )


def test_r1_and_r2_appear_from_the_second_task_on(tmp_path):
    old = old_concepts()
    _, rows = trained(tmp_path, old, **CONSOLIDATED)
    assert {"denoise", "R1", "R2"} <= rows[0].keys()
    assert rows[0]["R1"] == 0  # up starts at zero
    assert rows[-1]["R1"] > 0
    assert rows[-1]["R2"] > 0
    for folder, earlier, given in (("first", [], CONSOLIDATED), ("default", old, {})):
        _, rows = trained(tmp_path / folder, earlier, **given)
        assert "R1" not in rows[0]
        assert "R2" not in rows[0]


def test_r1_is_what_the_equation_says(tmp_path):
    old = old_concepts()
    method, _ = trained(tmp_path, old, gamma1=0.1, **CONSOLIDATED)
    term = method.penalties()["R1"].item()
    assert term == pytest.approx(0.1 * overlap(method, old), rel=1e-4)


def test_projection_makes_r1_zero(tmp_path):
    old = old_concepts()
    free, _ = trained(tmp_path / "a", old, orthogonality="none")
    projected, rows = trained(tmp_path / "b", old, orthogonality="projection")
    assert "R1" not in rows[0]
    assert overlap(projected, old) < 1e-5 * overlap(free, old)
    assert all(pair.up.abs().max() > 0 for pair in projected.updates.values())


def test_r1_makes_the_overlap_smaller(tmp_path):
    old, found = old_concepts(), []
    for gamma1 in (0.0, 10.0):
        given = {"steps": 6, "gamma1": gamma1, "lr_lora": 1e-2, **CONSOLIDATED}
        method, host = make_method(given, old)
        with torch.no_grad():
            for pair in method.updates.values():
                pair.up.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        run_loop(tmp_path / str(gamma1), method, host, given)
        found.append(overlap(method, old))
    assert found[1] < 0.8 * found[0]


@pytest.mark.parametrize("mode", ["released", "subspace"])
@pytest.mark.parametrize("common", ["gradient", "none"])
def test_every_mode_of_consolidation_runs(tmp_path, mode, common):
    method, rows = trained(tmp_path, old_concepts(), orthogonality=mode, common_subspace=common)
    assert math.isfinite(rows[-1]["loss"])
    assert ("R2" in rows[-1]) == (common == "gradient")
    assert bool(method.state()) == (common == "gradient")


def test_the_second_step_of_gradient_mode_moves_only_h_and_w(tmp_path):
    method, _ = make_method({"common_subspace": "gradient", "lr_lora": 0.1}, old_concepts())
    with torch.no_grad():
        for pair in method.updates.values():
            pair.up.fill_(0.1)
    before = [group.flat.detach().clone() for group in groups_of(method)]
    state = {key: tensor.clone() for key, tensor in method.state().items()}
    first = method.penalties()["R2"].item()
    method.after_update(1.0)
    assert method.penalties()["R2"].item() < first
    assert any(not torch.equal(state[key], tensor) for key, tensor in method.state().items())
    for group, value in zip(groups_of(method), before, strict=True):
        assert torch.equal(group.flat, value)


def test_consolidation_goes_through_the_public_call(tmp_path):
    learn(tmp_path, given={"steps": 2})
    terms = []
    photo = Photo.from_image(photos()[0].image, "a cat")
    learn(
        tmp_path,
        words="<cat1> <cat2>",
        class_words="cat",
        photos=[photo],
        given={"steps": 2, **CONSOLIDATED},
        on_progress=lambda e: terms.append(set(e.terms)),
    )
    assert list(Bank(tmp_path)) == ["dog", "cat"]
    assert terms[-1] == {"denoise", "R1", "R2"}


# What is counted


def test_vae_and_text_encoder_run_as_often_as_needed(tmp_path, monkeypatch):
    base, calls = small_base(), []
    encode_pictures = base.vae.encode
    monkeypatch.setattr(
        base.vae, "encode", lambda x: calls.append(("vae", len(x))) or encode_pictures(x)
    )
    run = encode_module.run_encoder

    def counted(encoder, ids, *rest):
        calls.append(("text", len(ids)))
        return run(encoder, ids, *rest)

    monkeypatch.setattr(encode_module, "run_encoder", counted)
    monkeypatch.setattr(base.vae, "decode", lambda *_: pytest.fail("the loop must not decode"))
    prompts = []
    predict = learning.LearningHost.predict

    def spy(self, batch, *rest):
        prompts.append(batch.prompts)
        return predict(self, batch, *rest)

    monkeypatch.setattr(learning.LearningHost, "predict", spy)
    wide = photos(size=(400, 64))
    given = {"steps": 3, "batch_size": 6, "variants": 4, "crop_probability": 1.0}
    learn(tmp_path, photos=wide, given=given)
    kinds = [kind for kind, _ in calls]
    assert kinds == ["vae"] * 3 + ["text"] * 3  # all encoding is over before the first step
    assert sum(count for kind, count in calls if kind == "vae") == 3 * 4
    layers = len(base.layers)
    texts = [count for kind, count in calls if kind == "text"]
    assert texts == [layers * len(set(batch)) for batch in prompts]


def test_photos_that_augment_alike_are_encoded_once(tmp_path, monkeypatch):
    base, calls = small_base(), []
    encode_pictures = base.vae.encode
    monkeypatch.setattr(base.vae, "encode", lambda x: calls.append(len(x)) or encode_pictures(x))
    learn(tmp_path, photos=photos(count=2, size=(32, 32)), given={"variants": 8, "steps": 8})
    assert sum(calls) == 2


def test_a_short_run_encodes_no_more_variants_than_it_sees(tmp_path, monkeypatch):
    base, calls = small_base(), []
    encode_pictures = base.vae.encode
    monkeypatch.setattr(base.vae, "encode", lambda x: calls.append(len(x)) or encode_pictures(x))
    learn(tmp_path, given={"variants": 500, "steps": 3, "batch_size": 2})
    assert sum(calls) <= 6


def test_the_vae_is_off_the_device_while_learning(tmp_path, monkeypatch):
    base, moves = small_base(), []
    move = base.vae.to
    monkeypatch.setattr(base.vae, "to", lambda where: moves.append(str(where)) or move(where))
    learn(tmp_path, given={"steps": 1}, on_progress=lambda e: moves.append(e.phase))
    assert moves == ["preparing"] * 3 + ["cpu", "learning", str(base.device)]


@pytest.mark.parametrize(
    ("given", "parked"),
    [({"frozen_fp8": True}, ["unet"]), ({"park_text_encoders": True}, ["text encoder"]), ({}, [])],
)
def test_what_is_to_save_memory_is_off_the_device_while_photos_are_encoded(
    tmp_path, monkeypatch, given, parked
):
    base, moves = small_base(), []
    for name, module in {"unet": base.unet, "text encoder": base.text_encoders[0]}.items():
        move = module.to
        monkeypatch.setattr(
            module, "to", lambda to, n=name, m=move: moves.append((n, str(to))) or m(to)
        )
    learn(tmp_path, given={"steps": 1, **given}, on_progress=lambda e: moves.append(e.phase))
    leaving, back = [(n, "cpu") for n in parked], [(n, str(base.device)) for n in parked]
    assert moves == [*leaving, *["preparing"] * 3, *back, "learning"]


# What stops


def test_tokens_stop_for_good_at_the_norm_limit(tmp_path):
    given = {"steps": 6, "lr_tokens": 0.05, "token_init_std": 0.0, "seed": 3}
    method, host = make_method(given)
    start = method.token_norms()["tokens.text_encoder"].item()
    limit = start + 0.2
    given["token_norm_limit"] = limit
    method, host = make_method(given)
    rows = run_loop(tmp_path, method, host, given)
    rates = [row["lr_tokens.text_encoder"] for row in rows]
    stopped = rates.index(0.0)
    assert 0 < stopped < 6
    assert all(rate == 0 for rate in rates[stopped:])
    assert tokens_of(method).frozen
    rows_now = tokens_of(method).tensors["rows"]
    assert rows_now.norm(dim=-1).mean() >= limit


class Poisoned(Cidm):
    """Gives NaN instead of the loss at the steps in `bad`."""

    bad = ()
    calls = 0

    def losses(self, batch):
        type(self).calls += 1
        terms = super().losses(batch)
        if self.calls in self.bad:
            terms["denoise"] = terms["denoise"] * torch.nan
        return terms


def poisoned(bad, given):
    class Bad(Poisoned):
        pass

    Bad.bad, Bad.calls = bad, 0
    base = small_base()
    task = Task("dog", (SUBJECT,), "MINI", base.fingerprint, base.layers)
    host = learning.LearningHost(base, task.words)
    return Bad(task, config(**given), [], host), host


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path):
    given = {"steps": 5}
    method, host = poisoned({2, 4}, given)
    events, values = [], []

    def watch(event):
        events.append(event)
        values.append(low_rank_of(method).flat.detach().clone())

    rows = run_loop(tmp_path, method, host, given, hooks=Hooks(on_progress=watch))
    assert [row["skipped"] for row in rows] == [False, True, False, True, False]
    assert events[-1].skipped == 2
    assert math.isnan(events[1].loss)
    assert torch.equal(values[0], values[1])  # the skipped step changed nothing
    assert not torch.equal(values[1], values[2])
    assert all(torch.isfinite(value).all() for value in values)


def test_three_bad_steps_in_a_row_end_the_run_with_the_last_good_state(tmp_path):
    given = {"steps": 9}
    method, host = poisoned({3, 4, 5, 6, 7, 8, 9}, given)
    good = []

    def keep(event):
        if not math.isnan(event.loss):
            good[:] = [low_rank_of(method).flat.detach().clone()]

    with pytest.raises(
        TrainingError, match=r"in 3 steps in a row, up to step 5 of 9.*--prediction"
    ):
        run_loop(tmp_path, method, host, given, hooks=Hooks(on_progress=keep))
    state = RunFolder(tmp_path, "test").load()
    assert state.facts["skipped"] == 3
    assert torch.equal(state.tensors["values.lora"], good[0])
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


def test_nan_in_a_gradient_counts_too(tmp_path):
    given = {"steps": 3}
    method, host = make_method(given)
    pair = next(iter(method.updates.values()))
    shots = iter([True, False, False])
    pair.up.register_hook(lambda grad: grad * torch.nan if next(shots) else grad)
    rows = run_loop(tmp_path, method, host, given)
    assert [row["skipped"] for row in rows] == [True, False, False]
    assert math.isfinite(rows[0]["loss"])


# Previews


def test_previews_show_the_concept_on_the_bare_model(tmp_path):
    base, seen = small_base(), []
    before = weights(base)

    def render(concept: Concept):
        same_weights(before, weights(base))
        seen.append(concept.low_rank[next(iter(concept.low_rank))].up.abs().max().item())
        return photos()[0].image

    shown = []
    concept = learn(
        tmp_path,
        given={"steps": 6, "preview_every": 2},
        preview=render,
        on_preview=lambda step, pictures: shown.append((step, len(pictures))),
    )
    assert shown == [(2, 1), (4, 1), (6, 1)]
    assert 0 < seen[0] < seen[-1]
    assert (tmp_path / ".runs" / "dog" / "preview-000004.png").exists()
    same_concept(concept, learn(tmp_path / "without", given={"steps": 6}))


def test_the_default_preview_draws_with_the_model(tmp_path):
    shown = []
    learn(
        tmp_path,
        given={"steps": 2, "preview_every": 2},
        on_preview=lambda _, pictures: shown.extend(pictures),
    )
    assert [picture.size for picture in shown] == [(32, 32)]


def test_a_failing_preview_never_stops_learning(tmp_path, caplog):
    def render(_):
        raise RuntimeError("no picture today")

    with caplog.at_level(logging.WARNING):
        concept = learn(tmp_path, given={"steps": 3, "preview_every": 2}, preview=render)
    assert concept.facts["steps"] == 3
    assert "preview at step 2 was not made" in caplog.text


# Bad input, found before any work


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(small_base().vae, "encode", lambda *_: pytest.fail("work was started"))


@pytest.mark.usefixtures("no_work")
class TestUpFront:
    def test_words_that_are_taken(self, taught):
        with pytest.raises(BankError, match="overlap"):
            learn(taught[0], words="<dog1> <other>", name="another")

    def test_name_that_is_taken(self, taught):
        with pytest.raises(BankError, match="already has a concept 'dog'"):
            learn(taught[0], words="<x1> <x2>", name="dog")

    def test_file_that_is_taken(self, tmp_path):
        (tmp_path / "Dog.safetensors").write_bytes(b"a plain LoRA")
        with pytest.raises(BankError, match=r"needs the file 'Dog.safetensors'"):
            learn(tmp_path, name="dog")
        (tmp_path / "a_b.safetensors").write_bytes(b"")
        with pytest.raises(BankError, match=r"needs the file 'a_b.safetensors'"):
            learn(tmp_path, name="a/b")

    def test_bank_of_another_model(self, tmp_path):
        base = small_base()
        bank = Bank(tmp_path)
        bank.add(random_concept(base, "<a> <b>", 1, base="128x96:1,2,3"))
        with pytest.raises(FamilyError, match="another MINI model"):
            learn(bank)

    def test_bank_that_cannot_be_written(self, tmp_path):
        (tmp_path / ".runs").write_text("in the way")
        with pytest.raises(BankError, match="Could not"):
            learn(tmp_path)

    def test_no_photos(self, tmp_path):
        with pytest.raises(PhotoError, match="no photos"):
            train_concept(small_base(), Bank(tmp_path), [], words="<a1> <a2>", class_words="dog")

    @pytest.mark.parametrize("words", ["sks dog", "<dog1> dog", "dog"])
    def test_ordinary_words(self, tmp_path, words):
        right = " ".join(f"<{word.strip('<>')}>" for word in words.split())
        with pytest.raises(ConceptError, match=rf"'dog' is a word of its own.*'{right}'"):
            learn(tmp_path, words=words)

    @pytest.mark.parametrize(
        ("words", "right"),
        [
            ("<a1>,<a2>", "<a1> <a2>"),
            ("<b1>+<b2>", "<b1> <b2>"),
            ("<b1><b2>", "<b1> <b2>"),
            ("(dog)", "dog"),
            ("<a:b>", "<ab>"),
        ],
    )
    def test_words_joined_or_with_syntax(self, tmp_path, words, right):
        with pytest.raises(ConceptError, match=f"Did you mean '{right}'"):
            learn(tmp_path, words=words)

    def test_plain_words_are_warned_of(self, tmp_path, caplog):
        with pytest.raises(PhotoError, match="missing from every caption"):
            learn(tmp_path, words="zwqx", class_words="zebra")
        assert "In angle brackets, '<zwqx>'" in caplog.text

    def test_class_word_in_no_caption(self, tmp_path):
        with pytest.raises(PhotoError, match="missing from every caption"):
            learn(tmp_path, class_words="zebra")

    def test_concept_word_beyond_the_token_limit(self, tmp_path):
        long = Photo.from_image(photos()[0].image, "red house, " * 30 + "a dog")
        with pytest.raises(PromptError, match="<dog1>"):
            learn(tmp_path, photos=[long])

    def test_size_that_is_no_multiple_of_a_cell(self, tmp_path):
        with pytest.raises(TrainingError, match=r"multiple of its latent cell of 4 px\. Use 32"):
            learn(tmp_path, given={"resolution_px": 34})

    def test_fp16_on_the_cpu(self, tmp_path):
        with pytest.raises(HostError, match="bf16 or fp32"):
            learn(tmp_path, given={"precision": "fp16"})
        base = replace(small_base(), dtype=torch.float16)  # as the model was loaded
        with pytest.raises(HostError, match="bf16 or fp32"):
            learn(tmp_path, base=base, given={"precision": "bf16"})

    def test_unknown_kind(self, tmp_path):
        with pytest.raises(ConceptError, match="is none of"):
            learn(tmp_path, kind="thing")


def test_a_caption_that_is_cut_is_told_of_once(tmp_path, caplog):
    """However often it is looked at, and in whatever order its parts stand."""
    texts = ["a dog, " + ", ".join(f"detail {letter}{i}" for i in range(30)) for letter in "ab"]
    taught = [Photo.from_image(photos()[0].image, text) for text in [*texts, texts[0], "a dog"]]
    learn(tmp_path, photos=taught, given={"steps": 8, "variants": 1})
    cut = [record.message for record in caplog.records if "cut" in record.message]
    assert [("detail a0" in text, "detail b0" in text) for text in cut] == [(1, 0), (0, 1)]


def test_a_unet_with_a_lora_is_refused_and_left_alone(tmp_path, monkeypatch):
    base = small_base()
    base.unet.peft_config = {"theirs": object()}
    try:
        with pytest.raises(HostError, match="already carries a LoRA"):
            learn(tmp_path)
        assert "theirs" in base.unet.peft_config
    finally:
        del base.unet.peft_config


def test_out_of_memory_names_the_way_out_and_restores_the_model(tmp_path, monkeypatch):
    base, before = small_base(), weights(small_base())

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(base.unet, "forward", full)
        with pytest.raises(HostError, match=r"gradient_checkpointing=True, batch_size=1, prec"):
            learn(tmp_path, given={"batch_size": 2})
    same_weights(before, weights(base))


def test_other_errors_pass_unchanged(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shape mismatch")

    with monkeypatch.context() as patch:
        patch.setattr(small_base().unet, "forward", broken)
        with pytest.raises(RuntimeError, match="shape mismatch"):
            learn(tmp_path)


def test_a_concept_that_cannot_be_stored_can_be_taken_up_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Bank, "add", lambda *_, **__: (_ for _ in ()).throw(BankError("disk full")))
        with pytest.raises(BankError, match="disk full"):
            learn(tmp_path / "a", given={"steps": 3})
    steps = []
    concept = learn(tmp_path / "a", given={"steps": 3}, on_progress=lambda e: steps.append(e.phase))
    assert "learning" not in steps  # nothing was left to learn
    same_concept(concept, learn(tmp_path / "b", given={"steps": 3}))


def test_group_names_are_the_state_s_keys():
    method, _ = make_method()
    assert [group.name for group in groups_of(method)] == ["tokens.text_encoder", "lora"]
    assert all(isinstance(group, Group) for group in groups_of(method))


def test_an_unknown_method_is_refused_by_name(tmp_path):
    with pytest.raises(CidmError, match="no method 'magic'; choose one of cidm"):
        learn(tmp_path, method="magic")
