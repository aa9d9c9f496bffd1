"""What learning will need, before it begins: memory by its parts, beside what the device has."""

from __future__ import annotations

from dataclasses import asdict, dataclass

GB = 2**30  # as cards are sold
# Beside our tensors: the driver's context and its libraries; then, at most, workspaces of
# convolutions and gaps between blocks.
_CONTEXT = int(0.5 * GB)
_MARGIN, _WORKSPACE = 0.1, int(0.5 * GB)


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds on its device, counted from the shapes of its tensors.

    Attributes:
        weights: Of the model, as it is held while the UNet computes.
        learned: What learns, with gradients and the optimiser's moments.
        work: The most that a step holds beside these: mostly activations kept for backward.
        loading: All of the model at once, when it is loaded.
        photos: While the photos are encoded.
        drawing: While a prior picture or a preview is decoded; 0 if none will be.
    """

    weights: int
    learned: int
    work: int
    loading: int
    photos: int
    drawing: int

    @property
    def steps(self) -> int:
        """While learning."""
        return self.weights + self.learned + self.work

    @property
    def counted(self) -> int:
        """The most at any time."""
        return max(self.steps, self.loading, self.photos, self.drawing)

    @property
    def low(self) -> int:
        """The least that the device must have: the tensors and the driver's own."""
        return self.counted + _CONTEXT

    @property
    def high(self) -> int:
        """What surely is enough."""
        return int(self.counted * (1 + _MARGIN)) + _CONTEXT + _WORKSPACE

    @property
    def about(self) -> int:
        """In one number."""
        return (self.low + self.high) // 2

    def to_dict(self) -> dict[str, int]:
        """All numbers, for scripts."""
        return asdict(self) | {"low": self.low, "high": self.high, "about": self.about}

    @property
    def parts(self) -> str:
        """In words: a step's parts, and what holds more than a step."""
        held = {
            "weights": self.weights,
            "what learns": self.learned,
            "activations": self.work,
            "all of the model at first": self.loading,
            "encoding photos": self.photos,
            "drawing": self.drawing,
        }
        most = self.counted if self.counted > self.steps else -1
        shown = [name for name in list(held)[:3]] + [k for k, v in held.items() if v == most]
        return ", ".join(f"{name} {gb(held[name])}" for name in shown) + " GB"


@dataclass(frozen=True)
class Room:
    """Memory of a device in bytes: in all, and what is free for us."""

    total: int
    free: int

    def verdict(self, needed: Memory) -> str:
        """It fits, is tight, or does not fit."""
        if needed.high <= self.free:
            return "fits"
        return "tight" if needed.low <= self.free else "does not fit"

    def __str__(self) -> str:
        return f"{gb(self.total)} GB, {gb(self.free)} free"


@dataclass(frozen=True)
class Choice:
    """Settings that could be learned with, as people choose them, and what they need."""

    name: str
    memory: Memory


def gb(count: int) -> str:
    """Gigabytes: 0.05, 4.1, 12."""
    value = count / GB
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 0.095 else f"{value:.1f}"


def told(memory: Memory, room: Room, better: Choice | None = None) -> str:
    """One or two lines for people: what is needed, whether it fits, and else what would.

    Args:
        memory: Of the settings chosen.
        room: What the device has.
        better: The smallest change that fits, or what needs least if nothing does.
    """
    verdict = room.verdict(memory)
    text = f"Memory: about {gb(memory.about)} GB of {room}: {verdict} ({memory.parts})."
    if verdict == "fits" or better is None:
        return text
    found = room.verdict(better.memory)
    return f"{text}\n{better.name} needs about {gb(better.memory.about)} GB: {found}."
