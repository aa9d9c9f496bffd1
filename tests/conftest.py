"""Shapes are executed: every annotated function of the mathematics checks its arguments."""

import shape_checks

shape_checks.install()  # before anything imports cidm_core

from fixtures import clip_folder, tiny_base, tiny_checkpoint, tiny_folder  # noqa: E402, F401
