"""`python -m lab.cifc.custom_diffusion`."""

from .command import main

raise SystemExit(main())
