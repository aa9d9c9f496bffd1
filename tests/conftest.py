"""Shapes are executed: every annotated function of the mathematics checks its arguments."""

import shape_checks

shape_checks.install()
