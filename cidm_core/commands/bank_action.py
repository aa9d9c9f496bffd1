"""What all actions of `cidm bank` have, and the bank of other commands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import BankError
from .flags import add_output

if TYPE_CHECKING:
    from ..bank import Bank


def add_action(actions: Any, name: str, about: str, run: Any) -> argparse.ArgumentParser:
    """A parser for `cidm bank <name>`."""
    parser = actions.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.add_argument("--bank", required=True, metavar="DIR", help="Folder of concepts.")
    add_output(parser)
    parser.set_defaults(run=run)
    return parser


def open_bank(args: argparse.Namespace) -> Bank:
    """The bank that was named.

    Raises:
        BankError: If there is none, and the command needs one.
    """
    from ..bank import Bank

    bank = Bank(args.bank)
    if not bank.path.exists() and getattr(args, "action", "") != "import":
        raise BankError(f"There is no bank '{bank.path}'. `cidm train --bank` makes one.")
    return bank
