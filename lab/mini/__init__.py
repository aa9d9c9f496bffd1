"""How the embedded models were trained, and how they are checked."""

from pathlib import Path

import cidm_core.mini

MINI = Path(cidm_core.mini.__file__).parent  # where the package keeps them
