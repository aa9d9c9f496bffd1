"""`python -m lab.cifc`."""

from .command import main

raise SystemExit(main())
