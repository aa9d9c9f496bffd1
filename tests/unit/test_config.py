import dataclasses
import json
import math
import re

import pytest

from cidm_core.config import SampleConfig, TrainConfig
from cidm_core.errors import CidmError
from cidm_core.families import FAMILIES
from cidm_core.methods import METHODS, adopted, config_for
from cidm_core.methods.cidm import CidmConfig
from cidm_core.settings import RECIPES

BOTH = (TrainConfig, CidmConfig, SampleConfig)
FIELDS = [(kind, f) for kind in BOTH for f in dataclasses.fields(kind)]
LIMITED = [(kind, f, side) for kind, f in FIELDS for side in ("min", "max")]
LIMITED = [(kind, f, side) for kind, f, side in LIMITED if f.metadata[side] is not None]


def name(value):
    return value.name if isinstance(value, dataclasses.Field) else getattr(value, "__name__", value)


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda c: "-".join(map(name, c)))


@named(FIELDS)
def test_every_setting_has_a_help_text_and_a_default_within_its_limits(case):
    kind, f = case
    assert f.metadata["help"].endswith(".")
    default = getattr(kind(), f.name)
    assert default == f.metadata["by_recipe"].get("ours", f.default)
    if f.metadata["choices"]:
        assert default in f.metadata["choices"]


@named(LIMITED)
def test_limits_are_allowed_and_what_lies_beyond_is_not(case):
    kind, f, side = case
    limit = f.metadata[side]
    whole = f.type.startswith("int")
    step = 1 if whole else max(1e-6, abs(limit) * 1e-6)
    beyond = limit - step if side == "min" else limit + step
    assert getattr(kind(**{f.name: int(limit) if whole else limit}), f.name) == limit
    with pytest.raises(
        CidmError, match=rf"^{f.name} is .*; allowed is .*{re.escape(str(limit))}"
    ) as caught:
        kind(**{f.name: beyond})
    assert "None" not in str(caught.value)


@named(FIELDS)
def test_values_of_another_type_are_refused(case):
    kind, f = case
    wrong = {
        "int": ["8", 1.5, True, math.nan],
        "float": ["1.0", True, math.nan, math.inf],
        "bool": ["yes", 1, 0.0],
        "str": [7, True, b"x"],
    }[f.type.split(" | ")[0]]
    for value in wrong:
        with pytest.raises(CidmError, match=rf"^{f.name} is "):
            kind(**{f.name: value})
    if "None" in f.type or f.metadata["by_recipe"]:
        assert getattr(kind(**{f.name: None}), f.name) == f.metadata["by_recipe"].get("ours")
    else:
        with pytest.raises(CidmError, match=rf"^{f.name} is None"):
            kind(**{f.name: None})


@named([c for c in FIELDS if c[1].metadata["choices"]])
def test_choices_are_named_in_the_error(case):
    kind, f = case
    with pytest.raises(CidmError, match=f"choose one of {', '.join(f.metadata['choices'])}"):
        kind(**{f.name: "something else"})


CHOSEN = ("weights", "encoding", "region_weights", "region_mode")
BY_RECIPE = {
    "ours": ("gate", "per_task", "per_region", "partition"),
    "paper": ("paper", "per_task", "global", "literal"),
    "released": ("released", "joint", "global", "literal"),
}


@pytest.mark.parametrize("recipe", BY_RECIPE)
def test_one_word_chooses_weights_encoding_and_regions(recipe):
    config = SampleConfig(recipe=recipe)
    assert tuple(getattr(config, name) for name in CHOSEN) == BY_RECIPE[recipe]
    assert {f.name for f in dataclasses.fields(SampleConfig) if f.metadata["by_recipe"]} == {
        *CHOSEN
    }


@pytest.mark.parametrize(("name", "value"), zip(CHOSEN, BY_RECIPE["ours"], strict=True))
def test_a_single_setting_goes_before_the_recipe(name, value):
    given, alone = SampleConfig(recipe="released", **{name: value}), SampleConfig(recipe="released")
    assert given == dataclasses.replace(alone, **{name: value}) != alone
    sampling = SampleConfig.for_family({"recipe": "released", "steps": 9}, **{name: value})
    assert getattr(sampling, name) == value


def test_a_recipe_that_is_none_is_named():
    with pytest.raises(CidmError, match="recipe is 'best'; choose one of ours, paper, released"):
        SampleConfig(recipe="best")


def test_whole_numbers_do_for_real_ones():
    assert SampleConfig(guidance_scale=7).guidance_scale == 7


@pytest.mark.parametrize("kind", BOTH)
def test_unknown_settings_are_refused_by_name(kind):
    with pytest.raises(CidmError, match=r"Unknown setting ranks, stepz\. Known are: .*steps"):
        kind.from_dict({"stepz": 1, "ranks": 2})
    with pytest.raises(TypeError, match="ranks"):
        kind(ranks=4)


@pytest.mark.parametrize("kind", BOTH)
def test_settings_survive_json(kind):
    config = kind(steps=7, seed=3)
    assert kind.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 3


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_family_s_values_are_defaults_that_the_user_can_override(family):
    assert set(family.training) <= set(METHODS)
    for method, values in family.training.items():
        config = config_for(method, family)
        assert all(getattr(config, key) == value for key, value in values.items())
    assert config_for("cidm", family, steps=11).steps == 11
    sampling = SampleConfig.for_family(family.sampling, guidance_scale=2.0)
    assert sampling.guidance_scale == 2.0


def test_public_hyper_parameters_of_the_method():
    """CIDM's released configuration; a change here changes results."""
    config = CidmConfig()
    assert (config.steps, config.rank, config.lr_tokens, config.lr_lora) == (800, 4, 1e-3, 1e-4)
    assert (config.token_norm_limit, config.noise_offset, config.weight_decay) == (0.55, 0.01, 0.01)
    assert (config.gamma1, config.gamma2) == (0.1, 1.0)


def test_consolidation_while_learning_is_off_by_default():
    """What the benchmark shows to be better, alone and in one picture; see docs/EQUATIONS.md."""
    config = CidmConfig()
    assert (config.orthogonality, config.common_subspace) == ("none", "none")


@pytest.mark.parametrize("kind", [CidmConfig, SampleConfig])
def test_a_recipe_decides_all_of_its_settings_and_single_ones_go_before_it(kind):
    decided = {f.name: f.metadata["by_recipe"] for f in dataclasses.fields(kind)}
    decided = {name: values for name, values in decided.items() if values}
    assert all(tuple(values) == RECIPES for values in decided.values())
    for recipe in RECIPES:
        for name, values in decided.items():
            assert getattr(kind(recipe=recipe), name) == values[recipe]
            for other in values.values():
                assert getattr(kind(recipe=recipe, **{name: other}), name) == other


def test_recipes_of_learning_are_what_the_ledger_says():
    """docs/EQUATIONS.md, "Recipes"."""
    paper, released = CidmConfig(recipe="paper"), CidmConfig(recipe="released")
    assert (paper.orthogonality, paper.common_subspace) == ("subspace", "gradient")
    assert (released.orthogonality, released.common_subspace) == ("released", "none")
    assert (paper.loss_scale, released.loss_scale) == ("mean", "channel_sum")
    assert (paper.noise_offset, released.noise_offset) == (0.0, 0.01)
    # What a family's size asks for stands above a recipe.
    mini = config_for("cidm", FAMILIES["MINI"], recipe="paper")
    assert (mini.token_norm_limit, mini.noise_offset) == (4.0, 0.0)


def test_plain_settings_become_the_method_s_own():
    config = adopted("cidm", TrainConfig(steps=7, noise_offset=0.02))
    assert config == CidmConfig(steps=7, noise_offset=0.02)
    assert adopted("cidm", TrainConfig()).noise_offset == CidmConfig().noise_offset
    own = CidmConfig(rank=2)
    assert adopted("cidm", own) is own


def test_settings_of_another_method_are_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OtherConfig(TrainConfig):
        pass

    with pytest.raises(CidmError, match="OtherConfig holds settings of another method; cidm takes"):
        adopted("cidm", OtherConfig())
    with pytest.raises(CidmError, match="no method 'magic'; choose one of cidm"):
        config_for("magic", FAMILIES["MINI"])
