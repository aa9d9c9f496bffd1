"""Several concepts as one, in closed form (Custom Diffusion, section 3.2).

Host-neutral: a host encodes the texts, `ops.merging` has the mathematics. The change of a weight
needs no weight of the base model: at its texts a concept's values differ from the base model's by
what the concept adds, V^T - W0 C^T = dW_n C^T.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import ConceptError
from ..ops import merging
from ..storage.compatibility import BaseModel, check_fit
from ..updates import TEXT_ENCODERS, TEXT_SIDE, FullRank, LowRank, Update, ValueResidual
from ..words import overlap
from .settings import MergeConfig, OnProgress, untold
from .states import Encode, Wanted, ordinary

METHOD = "merged"
USUAL = 200  # captions, in the public code
_BLOCK = re.compile(r".*transformer_blocks\.\d+\.")


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Attributes:
        merged: Names of the concepts.
        rows: The rule by which rows were chosen.
        captions: Number of ordinary captions.
        ordinary_rows: Their tokens.
        targets: Text rows that the merged weights have to meet.
        shared: Rows left out, as an earlier one of another text is the same.
        ridge: What was added to the diagonal of M, at most; 0 where it was well-conditioned.
        residual: How far the merged weights are from the targets, at most, as a share of what the
            concepts change there.
        left_out: Layers that concepts change and the merge cannot, by kind.
    """

    merged: tuple[str, ...]
    rows: str
    captions: int
    ordinary_rows: int
    targets: int
    shared: int
    ridge: float
    residual: float
    left_out: Mapping[str, int]

    def in_words(self) -> str:
        """The report for people."""
        ridge = f"ridge {self.ridge:.2g}" if self.ridge else "no ridge"
        lines = [
            f"Merged {', '.join(self.merged)}: {self.targets} text rows are met within "
            f"{self.residual:.2g} of what the concepts change there; {self.shared} rows that are "
            f"the same for several take the first concept's. Ordinary text: {self.captions} "
            f"captions, {self.ordinary_rows} rows, {ridge}."
        ]
        if self.captions < USUAL:
            lines.append(f"Few captions: {USUAL} or more hold ordinary text better.")
        if self.left_out:
            kinds = ", ".join(f"{kind} in {count}" for kind, count in self.left_out.items())
            lines.append(f"Left out, because these layers see no text: {kinds} layers.")
        return "\n".join(lines)


def outline(concepts: Sequence[Concept], name: str) -> Concept:
    """The merged concept without weights and rows: whether it can be, and where, is asked of it.

    Raises:
        ConceptError: If these concepts cannot be merged.
    """
    names = [concept.name for concept in concepts]
    if len(concepts) < 2:
        found = f"{names[0]!r} alone" if names else "none"
        raise ConceptError(
            f"Merging takes two concepts or more; here is {found}. Name another, or teach it first."
        )
    for i, concept in enumerate(concepts):
        if concept.name in names[:i]:
            raise ConceptError(f"{concept.name!r} is named twice. Name each concept once.")
        before = [trigger for earlier in concepts[:i] for trigger in earlier.triggers]
        if taken := overlap(concept.triggers, before):
            raise ConceptError(
                f"{concept.trigger!r} of {concept.name!r} overlaps {taken!r} of another concept: "
                "in one concept the words must differ. Leave one of the two out."
            )
        _check_mergeable(concept)
    first = concepts[0]
    subjects = tuple(subject for concept in concepts for subject in concept.subjects)
    return Concept(name, subjects, first.family, first.base, first.layers, {}, {}, METHOD)


def merge(
    concepts: Sequence[Concept],
    name: str,
    model: BaseModel,
    encode: Encode,
    captions: Sequence[str],
    config: MergeConfig | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Concept, MergeReport]:
    """One concept that draws each of several as it was taught.

    Args:
        concepts: Of one model; their words must differ.
        name: Of the new one.
        model: The model they were learned on.
        encode: Its text encoders.
        captions: Ordinary captions, at which the weights are to stay the base model's.
        config: Which rows count.
        on_progress: Is told of captions and layers done.

    Raises:
        ConceptError: If these concepts cannot be merged.
        FamilyError: If one does not fit the model.
        CidmError: If the texts cannot be met all at once.
    """
    config, tell = config or MergeConfig(), on_progress or untold
    made = outline(concepts, name)
    check_fit(concepts, model, allow_other_base=config.allow_other_base)
    text, count = ordinary(encode, captions, tell)
    wanted = Wanted.of(concepts, encode, config.rows)
    updates: dict[str, Update] = {}
    kept, residual = 0, 0.0
    by_layer = zip(
        made.layers, _by_layer(text, wanted, len(made.layers), config.slack), strict=True
    )
    for done, (path, rows) in enumerate(by_layer, start=1):
        kept = max(kept, len(rows.found.kept))
        for at in (f"{path}.to_k", f"{path}.to_v"):
            changes = [concept.updates.get(at) for concept in concepts]
            if any(change is not None for change in changes):
                updates[at], missed = rows.merged(changes)
                residual = max(residual, missed)
        tell(done, len(made.layers), "Merging layers")
    report = MergeReport(
        merged=tuple(concept.name for concept in concepts),
        rows=config.rows,
        captions=len(captions),
        ordinary_rows=count,
        targets=kept,
        shared=wanted.count - kept,
        ridge=text.ridge,
        residual=residual,
        left_out=_left_out(concepts),
    )
    facts = {**_common_facts(concepts), **asdict(report)}
    settings, words = config.to_dict(), _rows(concepts)
    return replace(made, updates=updates, rows=words, config=settings, facts=facts), report


def _check_mergeable(concept: Concept) -> None:
    if concept.method == METHOD:
        raise ConceptError(
            f"{concept.name!r} is merged itself. Merge the concepts that it was made from, all at "
            "once: each then keeps its own look."
        )
    kinds = {type(update) for update in concept.updates.values()}
    if ValueResidual in kinds:
        raise ConceptError(
            f"{concept.name!r} acts at single words of the prompt (a value residual), which "
            "weights cannot. Keep it in its bank; it goes with others in a prompt as it is."
        )
    if any(path.startswith(TEXT_ENCODERS) for path in concept.updates):
        raise ConceptError(
            f"{concept.name!r} changes the text encoder. Merging holds every concept to text "
            "states of one encoder. Keep it in its bank."
        )


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the concepts are held to in a layer: rows (rows, dim), whose each is, prepared."""

    owners: Tensor
    rows: Tensor
    found: merging.Targets

    def merged(self, changes: Sequence[Update | None]) -> tuple[LowRank, float]:
        """The merged change of a weight, and how far that is from the rows as it is stored."""
        width = next(change.shape[0] for change in changes if change is not None)
        values = self.rows.new_zeros(len(self.rows), width)
        for i, change in enumerate(changes):
            if change is not None:
                own = self.owners == i
                values[own] = _added(change, self.rows[own])
        down, up = (factor.float() for factor in merging.factors(self.found, values))
        update = LowRank(down, up, float(len(down)))
        reached = self.rows[self.found.kept] @ update.delta.double().mT
        return update, merging.missed(reached, values[self.found.kept]).item()


def _by_layer(
    text: merging.OrdinaryText, wanted: Wanted, layers: int, slack: float
) -> Iterator[_Rows]:
    """The rows of each layer in order; layers that read the same share what is prepared."""
    held: _Rows | None = None
    for layer in range(layers):
        owners, rows = wanted.at(layer)
        if held is None or not torch.equal(rows, held.rows):
            held = _Rows(owners, rows, merging.prepare(text, rows, slack))
        yield held


def _added(change: Update, x: Tensor) -> Tensor:
    """What a change adds at states x (rows, in), (rows, out)."""
    if isinstance(change, LowRank):
        return change.scale * (x @ change.down.double().mT @ change.up.double().mT)
    assert isinstance(change, FullRank)  # value residuals were refused
    return x @ change.delta.double().mT


def _rows(concepts: Sequence[Concept]) -> dict[str, Tensor]:
    """The words' rows of all concepts; where one has a version per layer, all have."""
    worded = [concept.rows for concept in concepts if concept.words]
    found: dict[str, Tensor] = {}
    for encoder in worded[0] if worded else ():
        held = [rows[encoder].float() for rows in worded]
        versions = max(each.shape[1] for each in held)
        found[encoder] = torch.cat([each.expand(-1, versions, -1) for each in held])
    return found


def _common_facts(concepts: Sequence[Concept]) -> dict[str, object]:
    """What is known of the base model."""
    name = concepts[0].facts.get("base_name")
    return {} if name is None else {"base_name": name}


def _left_out(concepts: Sequence[Concept]) -> dict[str, int]:
    """How many layers the concepts change that see no text, by the end of their path."""
    paths = {path for concept in concepts for path in concept.updates}
    ends = [_BLOCK.sub("", path) for path in sorted(paths) if not path.endswith(TEXT_SIDE)]
    return dict(Counter(ends))
