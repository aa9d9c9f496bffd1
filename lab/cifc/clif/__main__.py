"""`python -m lab.cifc.clif`."""

from .command import main

raise SystemExit(main())
