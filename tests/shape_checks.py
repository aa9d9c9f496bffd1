"""Run the shape annotations of the mathematics while the tests run (see conftest.py)."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# the numeric tower: an int is welcome where a float is asked for, as in Python itself
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install() -> None:
    """Must run before the first import of cidm_core."""
    install_import_hook(["cidm_core.ops", "cidm_core.regions"], "shape_checks.check")
