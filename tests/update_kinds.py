"""Concepts whose updates are of every kind and in every place, for any model.

Used by tests in both hosts: the package is loaded under other names in ComfyUI, so `part` gives its
modules ("cidm_core.updates").
"""

import importlib

import torch


class _Maker:
    """Random updates that fit a model; the same seed gives the same ones."""

    def __init__(self, model, part, seed):
        self.model, self.updates = model, part("cidm_core.updates")
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape, size=1.0):
        return torch.randn(*shape, generator=self.generator) * size

    def low(self, path, rank):
        out, into = self.model.shape_of(path)
        down, up = self.random(rank, into, size=into**-0.5), self.random(out, rank, size=0.3)
        return {path: self.updates.LowRank(down, up, rank + 0.5)}

    def full(self, path, biased=False):
        out, into = self.model.shape_of(path)
        delta = self.random(out, into, size=0.5 * into**-0.5)
        bias = self.random(out, size=0.3) if biased else None
        return {path: self.updates.FullRank(delta, bias)}

    def value(self, path):
        vector = self.random(self.model.shape_of(path)[0], size=5.0)
        return {path: self.updates.ValueResidual(vector)}


def _low(make, layers):
    """Low rank on cross-attention, of another rank in each layer."""
    found = {}
    for i, layer in enumerate(layers):
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            found |= make.low(f"{layer}.{projection}", 1 + i % 3)
    return found


def _full(make, layers):
    """Full rank on cross-attention, as Custom Diffusion has it; in one layer on all of it."""
    pairs = [(layer, part) for layer in layers for part in ("to_k", "to_v")]
    found = {k: v for layer, part in pairs for k, v in make.full(f"{layer}.{part}").items()}
    return found | make.full(f"{layers[-1]}.to_q") | make.full(f"{layers[-1]}.to_out.0", True)


def _value(make, layers):
    return {k: v for layer in layers for k, v in make.value(f"{layer}.to_v").items()}


def _around(make, layers):
    """Other layers of the transformer blocks, and one outside of any."""
    found = make.low("mid_block.resnets.0.time_emb_proj", 2)
    for layer in layers:
        block = layer.removesuffix(".attn2")
        found |= make.low(f"{block}.attn1.to_q", 2) | make.low(f"{block}.attn1.to_out.0", 3)
        found |= make.full(f"{block}.attn1.to_v") | make.low(f"{block}.ff.net.2", 1)
    return found


def _encoder(make, layers):
    """The text encoders, and keys of cross-attention."""
    found = {}
    for row in make.model.family.encoders:
        layer = f"{row.name}.text_model.encoder.layers.0"
        found |= make.low(f"{layer}.self_attn.q_proj", 2) | make.full(f"{layer}.self_attn.v_proj")
        found |= make.low(f"{layer}.mlp.fc1", 3)
    return found | {k: v for at in layers for k, v in make.low(f"{at}.to_k", 2).items()}


def _keyed(make, layers):
    """Residuals of values and of keys, as the released code of Infusion has them."""
    keys = {k: v for layer in layers for k, v in make.value(f"{layer}.to_k").items()}
    return _value(make, layers) | keys


def _attentions(make, layers):
    """Low rank on all of self- and cross-attention, as CLIF has it."""
    found = {}
    for layer in layers:
        for attention in (layer.replace("attn2", "attn1"), layer):
            for projection in ("to_q", "to_k", "to_v", "to_out.0"):
                found |= make.low(f"{attention}.{projection}", 2)
    return found


# name: (updates, subjects as (words, class words), layers of its rows)
KINDS = {
    "low": (_low, [("<k1> <l1>", "dog")], None),
    "full": (_full, [("<k2>", "vase")], 1),
    "value": (_value, [("<k3> <l3>", "cup")], 1),
    "around": (_around, [("<k4>", "hat")], None),
    "encoder": (_encoder, [("<k5> <l5>", "car")], 1),
    "wordless": (_low, [("", "Teddy  Bear")], None),
    "two": (_full, [("<k6>", "cat"), ("", "old boat"), ("<k7> <l7>", "tree")], None),
}
# Of Infusion: drawing has to ask for them. Further: (two streams, at the last token of a name only)
INFUSED = {
    "infused": (_value, [("", "white cat")], None, (True, True)),
    "keyed": (_keyed, [("", "old lamp")], None, (False, False)),
}
CLIF = {
    "clif": (_attentions, [("<pur1> <pur2>", "cat"), ("<tea1> <tea2>", "cat")], 1),
}
NAMED = {
    "low": "<k1> <l1>",
    "full": "<k2>",
    "value": "<k3> <l3>",
    "around": "<k4>",
    "encoder": "<k5> <l5>",
    "wordless": "teddy bear",
    "two": "<k6> beside an old boat",
}


def concepts(model, part=importlib.import_module, kinds=KINDS):
    """Concepts by name, one for each of `kinds`, for a model that tells `shape_of` a path."""
    return {kind: _concept(model, part, kind) for kind in kinds}


def _concept(model, part, kind):
    core, every = part("cidm_core.concept"), {**KINDS, **INFUSED, **CLIF}
    updates, about, copies, *infused = every[kind]
    make = _Maker(model, part, seed=list(every).index(kind))
    layers = tuple(layer.path for layer in model.layers)
    subjects = tuple(
        core.Subject(tuple(words.split()), plain, on_request=bool(infused))
        for words, plain in about
    )
    streams = dict(zip(("two_streams", "last_piece"), *infused, strict=True)) if infused else {}
    count = sum(len(subject.words) for subject in subjects)
    rows = {
        row.name: make.random(count, copies or len(layers), row.dim, size=0.05)
        for row in model.family.encoders
    }
    return core.Concept(
        name=kind,
        subjects=subjects,
        family=model.family.name,
        base=model.fingerprint,
        layers=layers,
        updates=updates(make, layers),
        rows=rows if count else {},
        **streams,
    )
