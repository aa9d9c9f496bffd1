"""What the command tells people (text) and scripts (JSON), and where it goes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from ..as_text import jsonable


@dataclass
class Console:
    """The two streams of a command.

    Attributes:
        as_json: Results as JSON on standard output; text then goes to standard error.
        quiet: Only results and errors.
        verbose: Notes too.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def is_main(self) -> bool:
        """False in all but the first process of `accelerate launch`, which keep silent."""
        return os.environ.get("RANK", "0") == "0"

    @property
    def shows_progress(self) -> bool:
        return self.is_main and not self.quiet

    def say(self, text: str) -> None:
        """A result in words; with --json it goes to standard error."""
        if self.as_json and self.quiet:
            return
        self._write(sys.stderr if self.as_json else sys.stdout, text)

    def note(self, text: str) -> None:
        """What is going on; left out with --quiet."""
        if not self.quiet:
            self._write(sys.stderr, text)

    def error(self, text: str) -> None:
        """What went wrong."""
        self._write(sys.stderr, text)

    def result(self, payload: Mapping[str, object]) -> None:
        """The result for scripts, one JSON object, only with --json."""
        if self.as_json:
            # What a code page lacks stands in JSON's own form there.
            plain = "utf" not in (sys.stdout.encoding or "").lower()
            text = json.dumps(jsonable(payload), ensure_ascii=plain, indent=2)
            self._write(sys.stdout, text)

    def _write(self, stream: TextIO, text: str) -> None:
        if self.is_main:
            tqdm.write(text, file=stream)  # keeps a running progress bar whole
            stream.flush()
