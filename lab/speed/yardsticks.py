"""Yardsticks for a training step: a plain peft script, and the released CIDM code.

Both are rebuilt from descriptions and run on copies of the same frozen model.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from peft import LoraConfig
from torch import Tensor, nn

from cidm_core.concept import Concept
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.tokens import tokenise
from cidm_core.families import PROJECTIONS

from .models import RANK

LR_TOKENS, LR_LORA = 1e-3, 1e-4


class LayerwiseUNet:
    """A frozen copy of the UNet in which every attn2 reads its own layer's context."""

    def __init__(self, base: Base) -> None:
        self.unet = copy.deepcopy(base.unet).requires_grad_(False)
        self.contexts: Sequence[Tensor] = ()
        self.schedule = DDPMScheduler.from_config(base.scheduler_config)
        for index, layer in enumerate(base.layers):
            hook = partial(self._swap, index)
            attention = self.unet.get_submodule(layer.path)
            attention.register_forward_pre_hook(hook, with_kwargs=True)

    def _swap(self, index: int, _module, args, kwargs):
        return args, {**kwargs, "encoder_hidden_states": self.contexts[index][None]}

    def __call__(self, latents: Tensor, noise: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """Predicted noise; `states` is the encoded prompt of each layer (layers, tokens, dim)."""
        self.contexts = states.unbind()
        noisy = self.schedule.add_noise(latents, noise, timestep)
        return self.unet(noisy, timestep, encoder_hidden_states=self.contexts[0][None]).sample


def noise_and_timestep(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Noise with an offset per channel, and a timestep."""
    noise = torch.randn(*shape) + 0.01 * torch.randn(*shape[:2], 1, 1)
    return noise, torch.randint(0, 1000, (1,))


class PeftStep:
    """A plain LoRA step: cached latents, the same layer-wise prompts, mean squared error, AdamW.

    Args:
        base: The model.
        latents: Cached latents, (photos, channels, height, width).
        prompt: With the words.
        words: Concept words.
        rows: Their first embeddings, (words, layers, dim).
    """

    def __init__(
        self, base: Base, latents: Tensor, prompt: str, words: Sequence[str], rows: Tensor
    ) -> None:
        self.latents, self.text, self.model = latents, base.text_encoders[0], LayerwiseUNet(base)
        targets = [f"{layer.path}.{p}" for layer in base.layers for p in PROJECTIONS]
        self.model.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
        self.rows = nn.Parameter(rows.clone())
        tokens = tokenise(base.tokenizers[0], prompt, [(word,) for word in words], 77)
        self.ids = torch.tensor([tokens.ids] * len(base.layers))
        self.columns = torch.tensor([position for position, _ in tokens.words])
        lora = [p for p in self.model.unet.parameters() if p.requires_grad]
        self.trained = [self.rows, *lora]
        groups = [{"params": [self.rows], "lr": LR_TOKENS}, {"params": lora, "lr": LR_LORA}]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01, foreach=True)
        self.decay = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: 1 - step / 800)

    def encode(self) -> Tensor:
        def put_in(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            where = torch.arange(len(output))[:, None], self.columns[None]
            return output.index_put(where, self.rows.transpose(0, 1))

        handle = self.text.get_input_embeddings().register_forward_hook(put_in)
        states = self.text(self.ids).last_hidden_state
        handle.remove()
        return states

    def predict(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return self.model(latents, noise, timestep, self.encode())

    def __call__(self) -> float:
        latents = self.latents[torch.randint(len(self.latents), (1,))]
        noise, timestep = noise_and_timestep(latents.shape)
        loss = F.mse_loss(self.predict(latents, noise, timestep), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=True)
        self.optimiser.step()
        self.decay.step()
        self.optimiser.zero_grad()
        return loss.item()


class ReleasedLinear(nn.Module):
    """A frozen linear layer and its own low-rank pair."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


class ReleasedStep:
    """The released step: photo through the VAE, one CLIP row per layer, the whole table in AdamW.

    Every layer's concept words are rows of their own in the embedding table, which is learned
    whole; afterwards all the other rows are put back. Consolidation is one out x out matrix per
    layer and earlier concept, plus a pull of the new `up` weights towards ones.
    """

    def __init__(
        self,
        base: Base,
        pixels: Tensor,
        prompt: str,
        words: Sequence[str],
        rows: Tensor,
        old: Sequence[Concept],
    ) -> None:
        self.pixels, self.vae, self.model = pixels, base.vae, LayerwiseUNet(base)
        self.text = copy.deepcopy(base.text_encoders[0]).requires_grad_(False)
        vocabulary, layers = self.text.config.vocab_size, len(base.layers)
        self.text.resize_token_embeddings(vocabulary + rows[..., 0].numel(), mean_resizing=False)
        self.table = self.text.get_input_embeddings().weight.requires_grad_(True)
        with torch.no_grad():
            self.table[vocabulary:] = rows.flatten(0, 1)
        self.ids = self._ids(base, prompt, words, vocabulary, layers)
        self.kept = torch.arange(len(self.table)) < vocabulary
        self.original = self.table.detach().clone()
        self.ups = self._inject(base)
        self.old = [{k: pair.up for k, pair in concept.low_rank.items()} for concept in old]
        lora = [p for p in self.model.unet.parameters() if p.requires_grad]
        groups = [{"params": [self.table], "lr": LR_TOKENS}, {"params": lora, "lr": LR_LORA}]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01, foreach=True)
        self.decay = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: 1 - step / 800)

    @staticmethod
    def _ids(base: Base, prompt: str, words: Sequence[str], first: int, layers: int) -> Tensor:
        tokens = tokenise(base.tokenizers[0], prompt, [(word,) for word in words], 77)
        ids = torch.tensor([tokens.ids] * layers)
        for position, word in tokens.words:
            ids[:, position] = first + list(words).index(word) * layers + torch.arange(layers)
        return ids

    def _inject(self, base: Base) -> Mapping[str, Tensor]:
        ups = {}
        for layer in base.layers:
            for projection in PROJECTIONS:
                path = f"{layer.path}.{projection}"
                parent, _, name = path.rpartition(".")
                wrapped = ReleasedLinear(self.model.unet.get_submodule(path))
                setattr(self.model.unet.get_submodule(parent), name, wrapped)
                ups[path] = wrapped.up.weight
        return ups

    def latents(self) -> Tensor:
        with torch.no_grad():
            pixels = self.pixels[torch.randint(len(self.pixels), (1,))]
            return self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor

    def consolidation(self) -> Tensor:
        terms = [
            (up @ old[key].t()).abs().mean() for old in self.old for key, up in self.ups.items()
        ]
        pull = [F.mse_loss(up, torch.ones_like(up)) for up in self.ups.values()]
        return torch.stack(terms).mean() + torch.stack(pull).mean()

    def update(self) -> None:
        self.optimiser.step()
        self.decay.step()
        with torch.no_grad():
            self.table[self.kept] = self.original[self.kept]

    def predict(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return self.model(latents, noise, timestep, self.text(self.ids).last_hidden_state)

    def __call__(self) -> float:
        latents = self.latents()
        noise, timestep = noise_and_timestep(latents.shape)
        loss = F.mse_loss(self.predict(latents, noise, timestep), noise)
        loss = loss + 0.1 * self.consolidation()
        loss.backward()
        self.update()
        self.optimiser.zero_grad()
        self.table.detach()[~self.kept].norm(dim=-1).mean().item()  # its stop at 0.55
        return loss.item()
