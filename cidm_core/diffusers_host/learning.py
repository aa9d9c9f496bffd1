"""UNet and text encoders as what a method asks for: a `methods.base.Host` on diffusers modules."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..config import TrainConfig
from ..errors import HostError
from ..methods.batches import Batch, Prediction
from ..ops.diffusion import add_noise
from ..sampling.versions import versions_of
from ..sizes import PictureSizes
from ..text import Spans
from ..updates import Update, ValueResidual
from ..words import canonical
from .base import Base
from .contrast import ContrastClip, text_features
from .encode import Embeddings, encode
from .frozen import Parking, in_eight_bits
from .injection import Injection, checkpoint_activations, flags_kept
from .patches import layer_size
from .sizes import added_conditions
from .tokens import entry_of, tokenise


class LearningHost:
    """A base model that learns.

    Args:
        base: The model.
        words: Concept words; `tokens` in `predict` holds one row of embeddings for each.
        phrases: Class words of subjects without words of their own, which call them.
        clip: What words are contrasted with.
    """

    def __init__(
        self,
        base: Base,
        words: Sequence[str],
        phrases: Sequence[str] = (),
        clip: ContrastClip | None = None,
    ) -> None:
        self._base, self._words, self._phrases = base, tuple(words), tuple(phrases)
        self._clip = clip
        schedule: Any = DDPMScheduler.from_config(base.scheduler_config)
        self._alphas: Tensor = schedule.alphas_cumprod.to(base.device)
        self._injection: Injection | None = None
        self._contexts: tuple[Tensor, ...] = ()
        self._has_residuals = self._detach_start = False
        self._at_triggers = torch.zeros(0)
        self._columns: Tensor | None = None
        self._limit = base.family.encoders[0].max_tokens
        self._latent_size = (0, 0)
        self._maps: dict[int, Tensor] = {}
        self._parking: Parking | None = None

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

    def entries(self, names: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        base = self._base
        parts = zip(base.family.encoders, base.text_encoders, base.tokenizers, strict=True)
        for row, encoder, tokenizer in parts:
            weight: Tensor = encoder.get_input_embeddings().weight
            ids = torch.tensor([entry_of(tokenizer, name, len(weight)) for name in names])
            found[row.name] = weight.detach()[ids].float()
        return found

    def text_features(
        self, prompts: Sequence[str], words: Mapping[str, Tensor], *, at_last_word: bool = False
    ) -> Tensor:
        if self._clip is None:
            raise HostError(
                "The words are to learn by contrast, and there is no CLIP. Give one, or leave the "
                "contrast out."
            )
        if self._parking is not None:
            self._parking.fetch()
        return text_features(
            self._base, self._clip, prompts, words, self._words if at_last_word else ()
        )

    def predict(
        self,
        batch: Batch,
        tokens: Mapping[str, Tensor],
        watch: bool = False,
        *,
        detach_start: bool = False,
        two_streams: bool = False,
        last_piece: bool = False,
    ) -> Prediction:
        base = self._base
        self._detach_start = detach_start
        embeddings = {
            word: {encoder: rows[i] for encoder, rows in tokens.items()}
            for i, word in enumerate(self._words)
        }
        states, pooled = self._encode(batch.prompts, embeddings)
        self._read(states)
        if self._has_residuals:
            self._at_triggers = self._trigger_tokens(batch.prompts, last_piece)
        if watch and self._injection is not None:
            self._injection.watch()
        self._columns = self._word_columns(batch.prompts) if watch else None
        self._latent_size = (batch.latents.shape[2], batch.latents.shape[3])
        alphas = self._alphas[batch.timesteps]
        noisy = add_noise(batch.latents, batch.noise, alphas)
        given: dict[str, Any] = {}
        if pooled is not None:
            cell = base.family.latent_px
            whole = PictureSizes.whole(*(side * cell for side in self._latent_size))
            sizes = batch.sizes or (whole,) * len(batch.prompts)
            given["added_cond_kwargs"] = added_conditions(pooled, sizes)
        run = partial(
            base.unet,
            noisy.to(base.dtype),
            batch.timesteps,
            encoder_hidden_states=self._contexts[0],
            return_dict=False,
            **given,
        )
        if self._injection is not None:
            self._injection.single()
            if two_streams:
                with self._injection.foundation():
                    run()
        value = run()[0]
        target = batch.noise
        if base.prediction_type == "v_prediction":
            # v = sqrt(a) noise - sqrt(1 - a) z: noising with the roles swapped and z negated
            target = add_noise(batch.noise, -batch.latents, alphas)
        maps = tuple(self._maps[i] for i in sorted(self._maps)) if watch else ()
        return Prediction(value, target, maps, alphas, base.prediction_type)

    def _encode(
        self, prompts: Sequence[str], embeddings: Embeddings
    ) -> tuple[Tensor, Tensor | None]:
        parking = self._parking
        if parking is None:
            return encode(self._base, prompts, embeddings)

        def fetched() -> tuple[Tensor, Tensor | None]:
            parking.fetch()
            return encode(self._base, prompts, embeddings)

        # The backward pass fetches the encoders again; so the graph holds none of their weights.
        found = checkpoint(fetched, use_reentrant=False, preserve_rng_state=False)
        parking.park()
        return found

    def _read(self, states: Tensor) -> None:
        """Have each layer read its version of (prompts, versions, tokens, dim)."""
        # One contiguous block per version: each attn2 projects its own without a copy.
        versions = states.transpose(0, 1).contiguous().unbind()
        which = versions_of([layer.path for layer in self._base.layers], len(versions))
        self._contexts = tuple(versions[i] for i in which)

    def _word_columns(self, prompts: Sequence[str]) -> Tensor:
        """(batch, tokens, words): averages each word's places in its prompt."""
        columns = torch.zeros(len(prompts), self._limit, len(self._words))
        for row, spans in enumerate(map(self._spans, prompts)):
            for column, word in enumerate(self._words):
                at = spans.triggers.get(word, ())
                columns[row, list(at), column] = 1 / max(1, len(at))
        return columns.to(self.device)

    def _trigger_tokens(self, prompts: Sequence[str], last_piece: bool) -> Tensor:
        """1 at the tokens of words and phrases, (batch, tokens, 1), 0 elsewhere.

        With `last_piece` a phrase has its last token only, and several words the last word.
        """
        marks = torch.zeros(len(prompts), self._limit, 1)
        closing = {canonical(each) for each in (*self._phrases, *self._words[-1:])}
        for row, spans in enumerate(map(self._spans, prompts)):
            for name, at in spans.triggers.items():
                if last_piece:
                    at = [place for place in at if name in closing and place in spans.ends]
                marks[row, list(at)] = 1
        return marks.to(self.device)

    def _spans(self, prompt: str) -> Spans:
        """Where words and phrases stand among the tokens of the first encoder."""
        tokenizer = self._base.tokenizers[0]
        names = [(word,) for word in self._words]
        found = tokenise(tokenizer, prompt, names, self._limit, self._phrases, quiet=True)
        return found.spans

    def _record(self, index: int, probabilities: Tensor) -> None:
        """Keep a layer's attention (batch, cells, tokens) to the concept words, if wanted."""
        if self._columns is not None:
            found = probabilities @ self._columns.to(probabilities)
            size = layer_size(found.shape[1], self._latent_size)
            self._maps[index] = found.unflatten(1, size)

    @contextmanager
    def attached(
        self, updates: Mapping[str, Update], config: TrainConfig | None = None
    ) -> Generator[None]:
        """Put live updates into the model and make it ready to learn; undone on leaving.

        Args:
            updates: By path of a linear layer of the UNet or of a text encoder.
            config: How memory is saved. Default: not at all.

        Raises:
            HostError: If the model carries another LoRA already, an update does not fit its layer,
                or the device does not know 8-bit weights and they are asked for.
        """
        config = config or TrainConfig()
        base = self._base
        modules = (base.unet, base.vae, *base.text_encoders)
        injection = Injection(
            base,
            updates,
            context=lambda index: self._contexts[index],
            at_triggers=lambda: self._at_triggers,
            detach_start=lambda: self._detach_start,
            record=self._record,
        )
        self._has_residuals = any(isinstance(each, ValueResidual) for each in updates.values())
        with ExitStack() as stack:
            stack.enter_context(flags_kept(modules))
            for module in modules:
                module.requires_grad_(False)
                module.eval()
            if config.gradient_checkpointing:
                checkpoint_activations((base.unet, *base.text_encoders))
            if config.frozen_fp8:
                stack.enter_context(in_eight_bits(base.unet))
            if config.park_text_encoders:
                self._parking = Parking(base.text_encoders, base.device)
                stack.callback(self._parking.fetch)
            injection.enter()
            self._injection = injection
            try:
                yield
            finally:
                self._injection = self._parking = None
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
        if self._parking is not None:
            self._parking.fetch()
        try:
            yield
        finally:
            self._injection.enter()
