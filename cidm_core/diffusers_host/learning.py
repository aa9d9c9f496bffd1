"""UNet and text encoders as what a method asks for: a `methods.base.Host` on diffusers modules."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ..methods.base import Batch, Prediction
from ..ops.diffusion import add_noise
from ..updates import Update, ValueResidual
from .base import Base
from .encode import encode
from .injection import Injection, checkpoint_activations, flags_kept
from .patches import layer_size
from .tokens import tokenise


class LearningHost:
    """A base model that learns.

    Args:
        base: The model.
        words: Concept words; `tokens` in `predict` holds one row of embeddings for each.
        phrases: Class words of subjects without words of their own, which call them.
    """

    def __init__(self, base: Base, words: Sequence[str], phrases: Sequence[str] = ()) -> None:
        self._base, self._words, self._phrases = base, tuple(words), tuple(phrases)
        schedule: Any = DDPMScheduler.from_config(base.scheduler_config)
        self._alphas: Tensor = schedule.alphas_cumprod.to(base.device)
        self._injection: Injection | None = None
        self._contexts: tuple[Tensor, ...] = ()
        self._has_residuals = False
        self._at_triggers = torch.zeros(0)
        self._columns: Tensor | None = None
        self._limit = base.family.encoders[0].max_tokens
        self._latent_size = (0, 0)
        self._maps: dict[int, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self._base.device

    @property
    def timesteps(self) -> int:
        """Number of noise levels."""
        return len(self._alphas)

    def embeddings(self, text: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        base = self._base
        parts = zip(base.family.encoders, base.text_encoders, base.tokenizers, strict=True)
        for row, encoder, tokenizer in parts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            weight: Tensor = encoder.get_input_embeddings().weight
            found[row.name] = weight.detach()[torch.tensor(ids, dtype=torch.long)].float()
        return found

    def predict(self, batch: Batch, tokens: Mapping[str, Tensor], watch: bool) -> Prediction:
        base = self._base
        embeddings = {
            word: {encoder: rows[i] for encoder, rows in tokens.items()}
            for i, word in enumerate(self._words)
        }
        # One contiguous block per layer: each attn2 projects its own without a copy.
        self._contexts = (
            encode(base, batch.prompts, embeddings).transpose(0, 1).contiguous().unbind()
        )
        if self._has_residuals:
            self._at_triggers = self._trigger_tokens(batch.prompts)
        if watch and self._injection is not None:
            self._injection.watch()
        self._columns = self._word_columns(batch.prompts) if watch else None
        self._latent_size = (batch.latents.shape[2], batch.latents.shape[3])
        alphas = self._alphas[batch.timesteps]
        noisy = add_noise(batch.latents, batch.noise, alphas)
        value = base.unet(
            noisy.to(base.dtype),
            batch.timesteps,
            encoder_hidden_states=self._contexts[0],
            return_dict=False,
        )[0]
        target = batch.noise
        if base.prediction_type == "v_prediction":
            # v = sqrt(a) noise - sqrt(1 - a) z: noising with the roles swapped and z negated
            target = add_noise(batch.noise, -batch.latents, alphas)
        maps = tuple(self._maps[i] for i in sorted(self._maps)) if watch else ()
        return Prediction(value, target, maps)

    def _word_columns(self, prompts: Sequence[str]) -> Tensor:
        """(batch, tokens, words): averages each word's places in its prompt."""
        columns = torch.zeros(len(prompts), self._limit, len(self._words))
        for row, places in enumerate(map(self._places, prompts)):
            for column, word in enumerate(self._words):
                at = places.get(word, ())
                columns[row, list(at), column] = 1 / max(1, len(at))
        return columns.to(self.device)

    def _trigger_tokens(self, prompts: Sequence[str]) -> Tensor:
        """1 at the tokens of words and phrases, (batch, tokens, 1), 0 elsewhere."""
        marks = torch.zeros(len(prompts), self._limit, 1)
        for row, places in enumerate(map(self._places, prompts)):
            for at in places.values():
                marks[row, list(at)] = 1
        return marks.to(self.device)

    def _places(self, prompt: str) -> Mapping[str, tuple[int, ...]]:
        """Where words and phrases stand among the tokens of the first encoder."""
        tokenizer = self._base.tokenizers[0]
        names = [(word,) for word in self._words]
        found = tokenise(tokenizer, prompt, names, self._limit, self._phrases, quiet=True)
        return found.spans.triggers

    def _record(self, index: int, probabilities: Tensor) -> None:
        """Keep a layer's attention (batch, cells, tokens) to the concept words, if wanted."""
        if self._columns is not None:
            found = probabilities @ self._columns.to(probabilities)
            size = layer_size(found.shape[1], self._latent_size)
            self._maps[index] = found.unflatten(1, size)

    @contextmanager
    def attached(
        self, updates: Mapping[str, Update], *, checkpointing: bool = False
    ) -> Generator[None]:
        """Put live updates into the model and make it ready to learn; undone on leaving.

        Args:
            updates: By path of a linear layer of the UNet or of a text encoder.
            checkpointing: Recompute activations in the backward pass instead of keeping them.

        Raises:
            HostError: If the model carries another LoRA already, or an update does not fit its
                layer.
        """
        base = self._base
        modules = (base.unet, base.vae, *base.text_encoders)
        injection = Injection(
            base,
            updates,
            context=lambda index: self._contexts[index],
            at_triggers=lambda: self._at_triggers,
            record=self._record,
        )
        self._has_residuals = any(isinstance(each, ValueResidual) for each in updates.values())
        with flags_kept(modules):
            for module in modules:
                module.requires_grad_(False)
                module.eval()
            if checkpointing:
                checkpoint_activations((base.unet, *base.text_encoders))
            injection.enter()
            self._injection = injection
            try:
                yield
            finally:
                self._injection = None
                injection.leave()
                self._contexts, self._columns, self._at_triggers = (), None, torch.zeros(0)
                self._maps.clear()

    @contextmanager
    def suspended(self) -> Generator[None]:
        """The bare model for a while, for a preview; learning goes on afterwards."""
        if self._injection is None:
            yield
            return
        self._injection.leave()
        try:
            yield
        finally:
            self._injection.enter()
