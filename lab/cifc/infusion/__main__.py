"""`python -m lab.cifc.infusion`."""

from .command import main

raise SystemExit(main())
