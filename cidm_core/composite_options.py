"""How many composites are made of a set of subjects, and how large (see `training.composites`)."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class CompositeOptions(Settings):
    """Composites of CLIF. The paper gives no numbers, and no code of it draws any."""

    singles: bool = setting(True, "Keep each photo as it is, too, under the words alone.")
    global_pairs: int = setting(
        100,
        "Composites of each subject as a whole beside a common thing (G); 0 leaves them out.",
        low=0,
        high=100_000,
    )
    region_pairs: int = setting(
        100,
        "Composites of a part of each subject beside a common thing (R); 0 leaves them out.",
        low=0,
        high=100_000,
    )
    meeting_pairs: int = setting(
        20,
        "Composites of each two subjects, with either on the left (M); 0 leaves them out.",
        low=0,
        high=100_000,
    )
    side_px: int = setting(512, "Side of the square composites.", low=16, high=1536)
    seed: int = setting(0, "The same seed and photos give the same composites.", low=0, high=2**53)

    @property
    def beside_common(self) -> bool:
        """Whether anything is to stand beside common things."""
        return self.global_pairs > 0 or self.region_pairs > 0

    def counts(self) -> dict[str, int]:
        """Composites by kind, for each photo, each subject, or each two of them."""
        numbers = (int(self.singles), self.global_pairs, self.region_pairs, self.meeting_pairs)
        return dict(zip(("single", "global", "region", "meeting"), numbers, strict=True))
