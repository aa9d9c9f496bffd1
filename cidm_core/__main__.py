"""`python -m cidm_core`, also for `accelerate launch -m cidm_core train ...`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
