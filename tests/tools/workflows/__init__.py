"""What the shipped workflows are made of; `make_workflows.py` turns it into files."""

from .clif import alike
from .custom import merge, together
from .drawing import app_mode, inpaint, scenes, style
from .infusion import look, looks
from .learning import check, first, first_xl, second, trial
from .parts import Workflow
from .regions import INSIDE, SHOWN, blueprint, several, several_xl

ALL = (
    *(trial, first, second, scenes, several, style, inpaint, check, app_mode),
    *(first_xl, several_xl, together, merge, look, looks, alike),
)
__all__ = ["ALL", "INSIDE", "SHOWN", "Workflow", "blueprint"]
