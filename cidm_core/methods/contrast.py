"""Words told apart before they learn: a stage in which the first encoder's rows learn by contrast.

Stage A of CLIF (Lin et al. 2024, https://arxiv.org/abs/2405.06914, section 3.2), for the words of
any method. Ours, for a bank that grows: the words of earlier concepts and the class words stand as
frozen negatives, so that no old photo is needed. The loss is in `ops.contrast`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor

from ..concept import Concept
from ..families import FAMILIES
from ..ops.contrast import contrastive_loss
from .base import Host, Stage, Task
from .batches import CompositeBatches, ContrastBatch
from .group import Group
from .shared import CompositesConfig

_AT_ONCE = 256  # a bank of many concepts has thousands of captions with other names


class WordContrast:
    """The stage, and the rows before and after it.

    Args:
        task: Whose words.
        config: Settings.
        old: Earlier concepts, read one at a time; their words stand as negatives.
        host: Reads texts.
        groups: Rows "rows" (words, versions, dim) that learn, by encoder; the first one's do here.
            All versions of a word learn alike, and stand in a text as their mean.
    """

    def __init__(
        self,
        task: Task,
        config: CompositesConfig,
        old: Collection[Concept],
        host: Host,
        groups: Mapping[str, Group],
    ) -> None:
        self._task, self._config, self._host = task, config, host
        self._encoder = FAMILIES[task.family].encoders[0].name
        self._group = groups[self._encoder]
        self._taught = _Taught(old, self._encoder, host.device)
        self._rows = self._group.tensors["rows"]
        self.before = self._rows.detach().cpu().clone()
        self.after: Tensor | None = None

    @classmethod
    def asked(
        cls,
        task: Task,
        config: CompositesConfig,
        old: Collection[Concept],
        host: Host,
        groups: Mapping[str, Group],
    ) -> WordContrast | None:
        """One if the settings ask for it and there are words."""
        return cls(task, config, old, host, groups) if config.contrasts and groups else None

    def stage(self) -> Stage:
        """The words of the first encoder alone, at a constant rate."""
        config = self._config
        phrases = tuple(subject.phrase for subject in self._task.subjects)
        source = CompositeBatches(config.reading.batch, phrases, self.names)
        rates = {self._group: config.lr_contrast}
        return Stage(
            "contrast",
            config.contrast_steps,
            rates,
            self.losses,
            source=source,
            finished=self._finish,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What captions must not be taken for: the class words, and concepts of the bank."""
        plain = [subject.class_words for subject in self._task.subjects]
        return tuple(dict.fromkeys([*plain, *self._taught.phrases]))

    def losses(self, batch: ContrastBatch) -> dict[str, Tensor]:
        """The contrast of composites and captions, beside captions that are true of none."""
        released = self._config.reading.loss == "released"
        read = partial(self._host.text_features, at_last_word=released)
        words = self._words(self._rows)
        texts = read(batch.prompts, words)
        if batch.negatives:
            with torch.no_grad():
                wrong = read(batch.negatives, words)
            texts = torch.cat([texts, wrong])
        groups = torch.arange(len(batch.prompts)).to(batch.groups) if released else batch.groups
        loss = contrastive_loss(batch.images, texts, groups, batch.scale, normalise=not released)
        return {"contrast": loss}

    def features(self, rows: Tensor, prompts: Collection[str]) -> Tensor:
        """CLIP's features of texts with these rows for the words, (prompts, dim), on the CPU."""
        words = self._words(rows.to(self._host.device))
        texts = list(prompts)
        parts = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
        with torch.no_grad():
            return torch.cat([self._host.text_features(p, words).float().cpu() for p in parts])

    def state(self) -> dict[str, Tensor]:
        return {} if self.after is None else {"contrast.after": self.after}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if "contrast.after" in state:
            self.after = state["contrast.after"].cpu().clone()

    def _finish(self) -> None:
        self.after = self._rows.detach().cpu().clone()

    def _words(self, rows: Tensor) -> dict[str, Tensor]:
        """Every word's embedding, with these rows for those that learn."""
        learned = zip(self._task.words, rows.mean(1), strict=True)
        return {**self._taught.words, **dict(learned)}


class _Taught:
    """Words of earlier concepts: what captions call their subjects, and their embeddings."""

    def __init__(self, old: Collection[Concept], encoder: str, device: torch.device) -> None:
        self.words: dict[str, Tensor] = {}
        self.phrases: list[str] = []
        for concept in old:
            if encoder in concept.rows:
                rows = concept.rows[encoder].float().mean(1).to(device)
                self.words |= dict(zip(concept.words, rows, strict=True))
                self.phrases += [each.phrase for each in concept.subjects if each.words]
