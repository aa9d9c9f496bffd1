import pytest
import torch

from cidm_core.errors import FamilyError
from cidm_core.families import FAMILIES, Geometry, ldm_path
from cidm_core.fingerprints import fingerprint, fingerprint_paths, same_base

SHAPES = [(1280, 768), (192, 128), (64, 768)]


def weights(shape, seed=0, std=0.03):
    generator = torch.Generator().manual_seed(seed)
    return [std * torch.randn(shape, generator=generator) for _ in "kv"]


def disturbed(originals, relative, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(w.shape, generator=generator) for w in originals]
    scale = [relative * w.norm() / n.norm() for w, n in zip(originals, noise, strict=True)]
    return [w + s * n for w, s, n in zip(originals, scale, noise, strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_fingerprint_survives_a_change_of_precision(shape, dtype):
    for seed in range(4):
        w = weights(shape, seed)
        assert same_base(fingerprint(w), fingerprint([x.to(dtype) for x in w]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relative", [0.01, 0.02, 0.1, 1.0])
def test_fingerprint_tells_fine_tuned_siblings_apart(shape, relative):
    for seed in range(4):
        w = weights(shape, seed)
        assert not same_base(fingerprint(w), fingerprint(disturbed(w, relative, seed + 50)))


def test_eight_bit_rounding_counts_as_another_base():
    w = weights((1280, 768))
    assert not same_base(fingerprint(w), fingerprint([x.to(torch.float8_e4m3fn) for x in w]))


def test_fingerprint_sees_each_of_its_weights_and_their_order():
    k, v = weights((192, 128))
    (other,) = disturbed([v], 0.1)
    assert not same_base(fingerprint([k, v]), fingerprint([k, other]))
    assert not same_base(fingerprint([k, v]), fingerprint([v, k]))


def test_fingerprint_is_the_same_text_every_time():
    w = weights((64, 768))
    text = fingerprint(w)
    assert text == fingerprint(iter(w))
    size, numbers = text.split(":")
    assert size == "64x768"
    assert len(numbers.split(",")) == 16


def test_fingerprint_matches_the_formula_by_hand():
    """W with one entry: every probe is 2 cos(pi sqrt2 i/2) cos(pi sqrt3 i/2) times its sign."""
    i = torch.arange(1, 17, dtype=torch.float64)
    expected = 2 * torch.cos(torch.pi * 2**0.5 * i / 2) * torch.cos(torch.pi * 3**0.5 * i / 2)
    numbers = [int(n) for n in fingerprint([torch.tensor([[3.0]])]).split(":")[1].split(",")]
    assert numbers == (1000 * expected).round().int().tolist()


@pytest.mark.parametrize("bad", [[], [torch.zeros(4, 4)], [torch.full((4, 4), torch.nan)]])
def test_fingerprint_of_no_usable_weight_is_an_error(bad):
    with pytest.raises(FamilyError, match="get the checkpoint again"):
        fingerprint(bad)


@pytest.mark.parametrize("other", ["", "toy", "4x4:", "4x4:1,x", "4x8:1,2", "4x4:1,2,3"])
def test_same_base_of_foreign_texts_is_equality(other):
    assert same_base(other, other)
    assert not same_base(other, "4x4:1,2")
    assert not same_base("4x4:1,2", other)


def test_fingerprint_paths_are_the_middle_block():
    assert fingerprint_paths(FAMILIES["SD15"].layers) == (
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    )


def test_sd15_layers_are_the_sixteen_of_the_paper_in_execution_order():
    layers = FAMILIES["SD15"].layers
    heads = [layer.path.split(".transformer_blocks")[0] for layer in layers]
    assert heads == [
        *(f"down_blocks.{i}.attentions.{a}" for i in range(3) for a in range(2)),
        "mid_block.attentions.0",
        *(f"up_blocks.{i}.attentions.{a}" for i in (1, 2, 3) for a in range(3)),
    ]
    assert [layer.width for layer in layers] == (
        [320] * 2 + [640] * 2 + [1280] * 2 + [1280] + [1280] * 3 + [640] * 3 + [320] * 3
    )
    assert layers[0].shape("to_k") == layers[0].shape("to_v") == (320, 768)
    assert layers[0].shape("to_q") == layers[0].shape("to_out.0") == (320, 320)


def test_sdxl_has_seventy_layers_and_two_encoders():
    family = FAMILIES["SDXL"]
    assert len(family.layers) == 70
    assert family.context_dim == 2048


def test_ldm_paths_of_sd15_are_those_of_the_original_files():
    """Input 1 2 4 5 7 8, middle 1, output 3 to 11: the CompVis block numbers of SD 1.x."""
    names = [ldm_path(layer.path, 2).split(".transformer")[0] for layer in FAMILIES["SD15"].layers]
    assert names == [
        *(f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)),
        "middle_block.1",
        *(f"output_blocks.{i}.1" for i in range(3, 12)),
    ]


def test_a_level_without_attention_has_no_layers():
    layers = Geometry((8, 16), (0, 2), 1, 1).cross_attention(32)
    assert [layer.path.split(".attentions")[0] for layer in layers] == (
        ["down_blocks.1"] * 2 + ["mid_block"] + ["up_blocks.0"] * 4
    )


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (512, 128)])
def test_mini_sd_draws_small_pictures(size):
    FAMILIES["MINI"].check_size(*size)


@pytest.mark.parametrize("size", [(768, 512), (512, 512), (264, 256)])
def test_large_pictures_of_mini_sd_are_refused_with_what_it_draws(size):
    with pytest.raises(FamilyError, match=r"MINI draws pictures of 32 x 32 px; .* cells"):
        FAMILIES["MINI"].check_size(*size)
    FAMILIES["SD15"].check_size(*size)
