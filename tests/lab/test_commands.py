"""Every command of the laboratory starts from the root of the repository and explains itself."""

import importlib

import pytest

SPEED = ("sampling", "bank_scale", "training_step", "consolidation", "comfyui", "memory")
MINI = ("train", "train_clip", "evaluate")
CIFC = ("cifc", "cifc.custom_diffusion", "cifc.infusion", "cifc.clif")


@pytest.mark.parametrize(
    "name", [*CIFC, *(f"speed.{name}" for name in SPEED), *(f"mini.{name}" for name in MINI)]
)
def test_its_help_says_how_to_call_it(name, capsys):
    module = importlib.import_module(f"lab.{name}.command" if name in CIFC else f"lab.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m lab.{name} ")
