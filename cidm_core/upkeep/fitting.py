"""Whether what was in a bank before may be there again."""

from __future__ import annotations

from collections.abc import Sequence

from ..concept import Concept
from ..fingerprints import same_base
from ..storage.compatibility import check_fit
from ..storage.record import Entry


def check_returns(entries: Sequence[Entry], concept: Concept | Entry) -> None:
    """Check that a concept fits those of a bank; one of a base that is there already may return.

    Raises:
        FamilyError: If it does not, naming both sides.
    """
    known = any(same_base(entry.base, concept.base) for entry in entries)
    check_fit(entries, concept, allow_other_base=known)
