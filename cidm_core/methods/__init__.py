"""The ways a concept can be learned. A new one is a file here and a line in `METHODS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .base import MakeMethod
from .cidm import Cidm

METHODS: Mapping[str, MakeMethod] = MappingProxyType({"cidm": Cidm})
