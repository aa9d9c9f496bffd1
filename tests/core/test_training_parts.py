"""The parts of the learning loop, each on its own: start values, optimiser, batches, run files."""

import json
import math

import pytest
import torch

from cidm_core.config import TrainConfig
from cidm_core.errors import BankError, ConceptError, PromptError, TrainingError
from cidm_core.families import CrossAttention
from cidm_core.methods.group import Group
from cidm_core.methods.initial_values import initial_factors, initial_tokens
from cidm_core.ops.schedules import constant, linear_decay
from cidm_core.ops.seeds import generator
from cidm_core.sizes import PictureSizes
from cidm_core.training.batches import CachedPhotos, CachedSource, Draws, Latents
from cidm_core.training.buckets import bucket_of, bucket_sizes
from cidm_core.training.data import Photo
from cidm_core.training.optimiser import LossScale, Optimiser, clip_factor, total_norm
from cidm_core.training.processes import Alone
from cidm_core.training.progress import Pace, event
from cidm_core.training.state import RunFolder, State, final_loss, loss_curve, run_id


def rows(*values):
    """Token embeddings that are easy to tell apart, (tokens, 2)."""
    return torch.tensor([[float(v), float(v)] for v in values])


@pytest.mark.parametrize(
    ("class_rows", "words", "expected"),
    [
        (rows(1), 2, [None, 1]),  # <dog1> random, <dog2> = dog
        (rows(1, 2), 3, [None, 1, 2]),  # duck toy
        (rows(1, 2), 2, [None, 1.5]),  # back pack on one word: the mean
        (rows(1, 2, 6), 3, [None, 1.5, 6]),  # aligned at the end, the surplus on the first of them
        (rows(1), 3, [None, None, 1]),
        (rows(1, 3), 1, [2]),  # a lone word holds everything
    ],
)
def test_tokens_start_random_first_and_at_the_class_words_last(class_rows, words, expected):
    start = initial_tokens(class_rows, words, 5, 0.01, generator(0, "tokens"))
    assert start.shape == (words, 5, 2)
    assert (start == start[:, :1]).all()  # all layers start alike
    for row, value in zip(start[:, 0], expected, strict=True):
        if value is None:
            assert 0 < row.abs().max() < 0.1
        else:
            assert row.tolist() == [value, value]


def test_random_tokens_have_the_spread_asked_for():
    start = initial_tokens(torch.zeros(1, 50_000), 2, 1, 0.013, generator(3, "tokens"))
    assert start[0].std().item() == pytest.approx(0.013, rel=0.02)


def test_no_class_tokens_is_an_error():
    with pytest.raises(ConceptError, match="class words are empty"):
        initial_tokens(torch.zeros(0, 4), 2, 1, 0.01, generator(0))


def test_factors_start_with_a_delta_of_zero():
    layer = CrossAttention("mid.attn2", width=8, context_dim=16)
    factors = initial_factors([layer], 3, generator(0, "lora"))
    assert set(factors) == {f"mid.attn2.{p}" for p in ("to_q", "to_k", "to_v", "to_out.0")}
    down, up = factors["mid.attn2.to_k"]
    assert down.shape == (3, 16)
    assert up.shape == (8, 3)
    assert not up.any()
    assert 0.2 < down.abs().max() <= 0.25


def test_generators_depend_on_every_label_and_leave_the_global_one_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    seeds = {generator(*labels).initial_seed() for labels in [(0,), (0, 1), (0, "1", 2), (1, 1)]}
    assert len(seeds) == 4
    assert generator(0, "a", 1).initial_seed() == generator(0, "a", 1).initial_seed()
    assert torch.equal(before, torch.get_rng_state())


def test_group_is_one_buffer_with_views_for_values_and_gradients():
    group = Group("lora", {"a": torch.ones(2, 3), "b": torch.full((4,), 2.0)})
    (group.tensors["a"].sum() * 2 + (group.tensors["b"] ** 2).sum()).backward()
    assert group.grad.tolist() == [2.0] * 6 + [4.0] * 4
    (group.tensors["a"].sum()).backward()  # accumulates into the same buffer
    assert group.grad[:6].tolist() == [3.0] * 6
    group.flat.data.zero_()
    assert not group.tensors["b"].any()


def test_flat_adamw_is_torch_adamw_of_each_tensor():
    values = {"a": torch.randn(3, 2), "b": torch.randn(5)}
    group = Group("all", values)
    ours = Optimiser({group: 0.1}, weight_decay=0.01)
    theirs = [torch.nn.Parameter(v.clone()) for v in values.values()]
    adamw = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)
    for step in range(4):
        ours.zero()
        factor = linear_decay(step, 4)
        for row in adamw.param_groups:
            row["lr"] = 0.1 * factor
        for parameter, view in zip(theirs, group.tensors.values(), strict=True):
            parameter.grad = torch.cos(parameter.detach() * (step + 1))
            view.grad.copy_(parameter.grad)
        ours.update(factor, 1.0)
        adamw.step()
    for parameter, view in zip(theirs, group.tensors.values(), strict=True):
        assert torch.equal(parameter, view)


def test_a_frozen_group_does_not_even_decay():
    group = Group("tokens", {"a": torch.ones(3)})
    optimiser = Optimiser({group: 0.1}, weight_decay=0.5)
    group.grad.fill_(1.0)
    group.freeze()
    optimiser.update(1.0, 1.0)
    assert group.flat.tolist() == [1, 1, 1]
    assert not group.tensors["a"].requires_grad


def test_decay_and_clipping():
    assert [linear_decay(s, 4) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert {constant(s, 4) for s in range(4)} == {1.0}
    assert clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == pytest.approx(0.25, rel=1e-5)
    assert clip_factor(100.0, 0.0) == 1.0
    assert total_norm([3.0, 4.0]) == 5.0
    assert math.isnan(total_norm([1.0, math.nan]))


def test_loss_scale_halves_on_overflow_and_recovers():
    scale = LossScale.for_precision("fp16")
    assert scale.value == 2.0**16
    assert scale.overflow()
    assert scale.value == 2.0**15
    for _ in range(LossScale.PATIENCE):
        scale.success()
    assert scale.value == 2.0**16
    assert not LossScale.for_precision("fp32").overflow()
    assert not LossScale(1.0, 0, True).overflow()  # at 1 it is not the scale's fault any more


# Batches


def latents(photos=3, variants=4, masks=False, phrases=None):
    shape = (photos, variants, 2, 4, 4)
    mean = torch.arange(photos * variants).float().view(photos, variants, 1, 1, 1).expand(shape)
    ones = torch.ones(photos, variants, 4, 4)
    sizes = [
        [PictureSizes.whole(photo, variant) for variant in range(variants)]
        for photo in range(photos)
    ]
    said = phrases or [[""] * variants for _ in range(photos)]
    return Latents(mean, ones, ones * 0.5 if masks else None, sizes, said)


class Part(Alone):
    def __init__(self, rank, count):
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "count", count)


def source(processes=None, size=4, check=lambda _: None, captions=None, **given):
    draws = Draws(
        seed=1,
        size=size,
        timesteps=1000,
        noise_offset=0.1,
        device=torch.device("cpu"),
        processes=processes or Alone(),
        check=check,
    )
    texts = captions or [f"a <d1> <d2>, number {i}" for i in range(3)]
    photos = [Photo(None, text, kind="object") for text in texts]
    return CachedSource(CachedPhotos(latents(**given), photos), draws)


def test_the_same_index_gives_the_same_batch_and_another_index_another():
    one, again, other = source().batch(7), source().batch(7), source().batch(8)
    assert one.prompts == again.prompts
    assert torch.equal(one.noise, again.noise)
    assert torch.equal(one.latents, again.latents)
    assert not torch.equal(one.noise, other.noise)


def test_processes_share_one_batch():
    whole = source().batch(3)
    parts = [source(Part(rank, 2)).batch(3) for rank in range(2)]
    for name in ("latents", "noise", "timesteps", "image_masks"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(whole, name)), name
    assert parts[0].prompts + parts[1].prompts == whole.prompts


def test_a_batch_that_cannot_be_shared_is_an_error():
    with pytest.raises(TrainingError, match="batch_size 4 cannot be shared by 3"):
        source(Part(0, 3))


def test_every_photo_is_seen_equally_often():
    found = source(size=2)
    seen = torch.cat([found.batch(i).latents[:, 0, 0, 0] // 4 for i in range(6)])
    assert torch.bincount(seen.int()).tolist() == [4, 4, 4]


def test_a_variant_that_would_be_cut_falls_back_to_the_written_caption():
    def check(prompt):
        if prompt != "red, <d1> <d2>":
            raise PromptError("too long")

    batch = source(check=check, captions=["red, <d1> <d2>"] * 3).batch(0)
    assert set(batch.prompts) == {"red, <d1> <d2>"}


PHRASES = [["", "very small ", "close up ", "far "]] * 3


def test_a_prompt_says_how_large_its_variant_is():
    """And nothing else of the batch is drawn otherwise."""
    silent, found = source(), source(phrases=PHRASES)
    seen = set()
    for index in range(6):
        plain, batch = silent.batch(index), found.batch(index)
        assert torch.equal(batch.latents, plain.latents)
        variants = (batch.latents[:, 0, 0, 0] % 4).int().tolist()
        said = [PHRASES[0][variant] for variant in variants]
        assert batch.prompts == tuple(a + b for a, b in zip(said, plain.prompts, strict=True))
        seen |= set(said)
    assert seen == set(PHRASES[0])


def test_a_phrase_that_would_push_the_words_out_is_left_out():
    def check(prompt):
        if prompt.startswith(("very small ", "close up ")):
            raise PromptError("too long")

    whole, cut = source(phrases=PHRASES), source(phrases=PHRASES, check=check)
    prompts = [prompt for i in range(6) for prompt in cut.batch(i).prompts]
    assert not any(prompt.startswith(("very small", "close up")) for prompt in prompts)
    assert any(prompt.startswith("far ") for prompt in prompts)
    for index in range(6):
        for one, other in zip(whole.batch(index).prompts, cut.batch(index).prompts, strict=True):
            assert one.endswith(other)


def test_concept_masks_come_with_the_batch_when_there_are_any():
    assert source().batch(0).concept_masks is None
    assert source(masks=True).batch(0).concept_masks.mean() == 0.5


# Run files


def state(step=3):
    return State({"values.lora": torch.arange(4.0)}, {"step": step, "skipped": 0})


def test_state_round_trip(tmp_path):
    folder = RunFolder(tmp_path, "abc")
    assert folder.load() is None
    folder.save(state())
    found = RunFolder(tmp_path, "abc").load()
    assert found.facts["step"] == 3
    assert torch.equal(found.tensors["values.lora"], torch.arange(4.0))


def test_the_state_of_another_run_is_moved_aside(tmp_path, caplog):
    folder = RunFolder(tmp_path, "aaaaaaaa1")
    folder.save(state())
    assert RunFolder(tmp_path, "bbbbbbbb2").load() is None
    assert "other photos, words, settings or concepts" in caplog.text
    assert (tmp_path / "state-aaaaaaaa.cidm").exists()
    assert not folder.state_path.exists()


def test_every_bit_flip_of_a_state_is_noticed(tmp_path):
    folder = RunFolder(tmp_path, "run")
    folder.save(state())
    good = folder.state_path.read_bytes()
    for place in range(0, len(good), 3):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        folder.state_path.write_bytes(bad)
        assert RunFolder(tmp_path, "run").load() is None, place
    folder.state_path.write_bytes(good)
    assert RunFolder(tmp_path, "run").load() is not None


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    folder = RunFolder(tmp_path, "run")
    folder.save(state(3))
    broken = State({"values.lora": torch.tensor([1.0, math.nan])}, {"step": 9})
    with pytest.raises(TrainingError, match="no longer finite"):
        folder.save(broken)
    assert folder.load().facts["step"] == 3


def test_a_bank_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "run", "x")
    with pytest.raises(BankError, match="Could not make the folder"), folder.held():
        pass


def test_the_log_is_cut_at_the_step_resumed_from(tmp_path):
    folder = RunFolder(tmp_path, "run")
    folder.open_log()
    for step in range(1, 6):
        folder.log({"step": step, "loss": math.nan if step == 2 else 0.5, "skipped": step == 2})
    folder.save(state(3))
    with folder.log_path.open("a") as file:
        file.write('{"step": 6, "lo')  # a crash in mid-line
    again = RunFolder(tmp_path, "run")
    again.load()
    again.open_log()
    lines = [json.loads(line) for line in again.log_path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[1]["loss"] is None


def test_other_processes_write_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", "x", writes=False)
    folder.open_log()
    folder.log({"step": 1, "loss": 1.0, "skipped": False})
    folder.save(state())
    folder.finish("dog")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_refuses_costs_the_log_only(tmp_path, caplog):
    folder = RunFolder(tmp_path / "run", "x")
    folder.log({"step": 1, "loss": 1.0, "skipped": False})  # the folder is gone
    folder.log({"step": 2, "loss": 1.0, "skipped": False})
    assert caplog.text.count("The loss log ends here") == 1
    assert len(folder.rows) == 2


def test_final_loss_is_the_mean_of_the_last_twentieth():
    rows = [{"loss": float(i), "skipped": False} for i in range(100)]
    assert final_loss(rows) == 97.0
    rows[-1] = {"loss": math.nan, "skipped": True}
    assert final_loss(rows) == 96.5
    assert final_loss([]) is None


def test_the_loss_curve_is_thinned_by_means():
    rows = [{"step": n, "loss": float(n), "skipped": False} for n in range(1, 1001)]
    curve = loss_curve(rows)
    assert len(curve) == 63
    assert curve[0] == [16, 8.5]
    assert curve[-1] == [1000, 996.5]
    rows[2] = {"step": 3, "loss": None, "skipped": True}
    assert loss_curve(rows[:4]) == [[1, 1.0], [2, 2.0], [4, 4.0]]
    assert loss_curve([{"step": 1, "loss": 0.123456, "skipped": False}]) == [[1, 0.1235]]
    assert loss_curve([]) == []


def test_run_ids_ignore_what_only_decides_what_is_shown():
    base = TrainConfig(steps=5)
    same = TrainConfig(steps=5, save_every=7, preview_every=3, preview_prompt="x")
    other = TrainConfig(steps=5, seed=1)
    assert run_id(base.to_dict(), words=["a"]) == run_id(same.to_dict(), words=["a"])
    assert run_id(base.to_dict(), words=["a"]) != run_id(other.to_dict(), words=["a"])
    assert run_id(base.to_dict(), words=["a"]) != run_id(base.to_dict(), words=["b"])


def test_progress_of_a_row():
    row = {"step": 4, "loss": 1.5, "denoise": 1.0, "R1": 0.5, "lr_lora": 0.1, "lr_tokens.x": 0.2}
    found = event({**row, "grad_norm": 2.0, "seconds": 1.0, "skipped": False}, 10, 2.0, 1)
    assert (found.step, found.steps, found.loss, found.lr) == (4, 10, 1.5, 0.2)
    assert found.terms == {"denoise": 1.0, "R1": 0.5}
    assert found.remaining_seconds == 3.0
    assert found.skipped == 1


def test_pace_follows_the_clock():
    times = iter([0.0, 4.0, 5.0, 5.5])
    pace = Pace(lambda: next(times))
    assert pace.tick() == 0.25
    assert pace.tick() == 1.0  # the first step, which warms up, counts no more
    assert pace.tick() == pytest.approx(2 / 1.5)


# Shapes


def test_buckets_are_those_of_the_field():
    """Sides in steps of 64, areas up to the square's, as SDXL was trained with."""
    sizes = bucket_sizes(1024, 8)
    assert {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (640, 1536)} < {*sizes}
    assert all(w % 64 == 0 and h % 64 == 0 and w * h <= 1024**2 for w, h in sizes)
    assert {(w, h) for h, w in sizes} == {*sizes}
    assert {(32, 32), (16, 64), (40, 24)} < {*bucket_sizes(32, 4)}


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        ((3000, 3000), (512, 512)),
        ((4000, 3000), (576, 448)),
        ((3000, 4000), (448, 576)),
        ((1920, 1080), (640, 384)),
        ((5000, 300), (1024, 256)),
        ((700, 690), (512, 512)),
    ],
)
def test_a_photo_gets_the_bucket_nearest_to_its_shape(photo, size):
    assert bucket_of(photo, 512, 8) == size


def shaped():
    """Photos 0 and 2 are wide, 1 is tall, 3 to 5 are square."""
    shapes = [(2, 4), (4, 2), (2, 4), (3, 3), (3, 3), (3, 3)]
    clean = [torch.full((2, 1, *s), float(i)) for i, s in enumerate(shapes)]
    masks = [torch.ones(2, *s) for s in shapes]
    sizes = [[PictureSizes.whole(i, v) for v in range(2)] for i in range(6)]
    return Latents(clean, masks, None, sizes, [[""] * 2] * 6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_batch_has_one_shape_and_every_photo_its_turn(size):
    photos = [Photo(None, "") for _ in range(6)]
    draws = Draws(3, size, 10, 0.0, torch.device("cpu"), Alone(), lambda _: None)
    drawn = CachedSource(CachedPhotos(shaped(), photos), draws)
    seen = []
    for index in range(6 * 2 * 3):
        found = drawn.batch(index)
        assert found.latents.shape == found.noise.shape
        assert found.image_masks.shape[1:] == found.latents.shape[2:]
        which = [int(each.flatten()[0]) for each in found.latents]
        assert which == [each.original[0] for each in found.sizes]
        seen += which
    assert {seen.count(photo) for photo in range(6)} == {6 * size}
    again = CachedSource(CachedPhotos(shaped(), photos), draws).batch(29)
    assert torch.equal(again.latents, drawn.batch(29).latents)
    assert torch.equal(again.noise, drawn.batch(29).noise)
