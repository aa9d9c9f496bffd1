"""Concepts that are asked for, in two streams, among ComfyUI's own nodes; on mini-sd."""

import io
import pickle
import sys
from contextlib import contextmanager

import comfy.patcher_extension
import concepts
import torch
from concepts import differ, encode, error_of, plain_guider, random
from inside import ROOT, pack, report

import nodes as stock

sys.path.append(str(ROOT / "tests"))
import update_kinds

torch.set_num_threads(1)
torch.set_grad_enabled(False)
apply, host = pack("nodes.sampling.apply"), pack("nodes.host.comfy")
model, clip, vae = pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
facts = pack("nodes.host.model").model_facts(model)
bank = concepts.bank(facts, count=1)
for concept in update_kinds.concepts(facts, pack, update_kinds.INFUSED).values():
    bank.add(concept)
SIGMAS, CFG = (8.0, 1.0, 0.0), 3.0
NOISE = random(1, 8, 8, 8, seed=7)
CAT = "a photo of a white cat in the snow"
found, told = {}, []
host.warn = told.append


def applied(**settings):
    return apply.ApplyConceptBank.execute(model, clip, bank, **settings).args


taught, words = applied(infuse="infused")
bare, plain_words = applied()


def draw(positive, negative=None, with_model=taught, noise=NOISE, **options):
    negative = negative or encode(words, "")
    return concepts.sample(
        plain_guider(with_model, positive, negative, CFG), noise, SIGMAS, **options
    )


@contextmanager
def counted(of_model):
    """Rows of every UNet call, and how many conditionings it says they are of."""
    calls = []

    def count(executor, x, t, context, y, control, options, **kwargs):
        calls.append((len(x), len(options["cond_or_uncond"]), len(options["uuids"])))
        return executor(x, t, context, y, control, options, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    of_model.add_wrapper_with_key(kind, "count", count)
    try:
        yield calls
    finally:
        of_model.remove_wrappers_with_key(kind, "count")


# Rows.
cat = draw(encode(words, CAT))
plain = draw(encode(plain_words, CAT), encode(plain_words, ""), bare)
found["effect"] = differ(cat, plain)
found["not asked for"] = differ(plain, draw(encode(clip, CAT), encode(clip, ""), model))
for name, text, noise in (
    ("one", CAT, NOISE),
    ("another prompt", "a photo of a dog", NOISE),
    ("two pictures", CAT, random(2, 8, 8, 8, seed=7)),
):
    with counted(taught) as calls:
        draw(encode(words, text), noise=noise)
    found[f"rows of {name}"] = sorted(set(calls))
    found[f"calls of {name}"] = len(calls) / (len(SIGMAS) - 1)
for name, settings in (
    ("one stream", {"second_stream": 0.0}),
    ("a share", {"second_stream": 0.5}),
    ("residual for a share", {"residual_share": 0.5}),
    ("no strength", {"strength": 0.0}),
):
    part, part_words = applied(infuse="infused", **settings)
    with counted(part) as calls:
        drawn = draw(encode(part_words, CAT), encode(part_words, ""), part)
    found[name] = {"rows": [rows for rows, *_ in calls], "effect": differ(drawn, plain)}
found["negative"] = differ(cat, draw(encode(words, CAT), encode(words, "white cat")))
two = draw(encode(words, CAT), noise=torch.cat([NOISE, NOISE]))
found["batch"] = differ(two[1:], cat)

# Beside a concept of other kind, and as a conditioning that was saved.
pair = "a white cat and a <v11> <v12>"
both = draw(encode(words, pair))
found["beside"] = differ(both, draw(encode(plain_words, pair), encode(plain_words, ""), bare))
file = io.BytesIO()
torch.save(encode(words, CAT), file)
file.seek(0)
pack("nodes.sampling.prompts")._known.clear()
found["saved"] = differ(cat, draw(torch.load(file, weights_only=False)))
found["pickled"] = differ(cat, draw(pickle.loads(pickle.dumps(encode(words, CAT)))))


# Where it stands.
def places(text):
    return pack("nodes.sampling.prompts").prompt_in(encode(words, text)[0][1]).text.spans.triggers


one = places("a white cat in the snow")
found["places"] = {
    "one": one,
    "within a longer word": places("a white cat, white cat-shaped"),
    "behind one": places("white cat-shaped, white cat"),
    "beside a word": places("a <v11> <v12>-like white cat-shaped, (white cat:1.2)"),
    "spaced": places("a White   cat in the snow"),
    "twice": places("a white cat, white cat"),
}

# Stock nodes and other packs.
seen = []
patched = taught.clone()


def spy(n, context, value, extra):
    seen.append((len(n), len(context), len(extra["cond_or_uncond"])))
    return n, context, value


patched.set_model_attn2_patch(spy)
found["patched"] = differ(cat, draw(encode(words, CAT), with_model=patched))
found["seen by patches"] = sorted(set(seen))
left = stock.ConditioningSetMask().append(encode(words, CAT), torch.ones(1, 32, 32), "default", 1.0)
found["masked"] = differ(cat, draw(left[0]))
control, hint = concepts.control_net(model)


def controlled(encoder, of_model):
    texts = stock.ControlNetApplyAdvanced().apply_controlnet(
        encode(encoder, CAT), encode(encoder, ""), control, hint, 1.0, 0.0, 1.0
    )
    return draw(*texts, of_model)


silent, silent_words = applied(infuse="infused", strength=1e-6)
found["controlnet"] = {
    "effect": differ(cat, controlled(words, taught)),
    # A concept that adds next to nothing, in three rows: the control reaches the right ones.
    "silent": differ(controlled(silent_words, silent), controlled(plain_words, bare)),
}

# What people are told.
told.clear()
draw(encode(words, "a photo of a dog"))
found["unsaid"] = list(told)
for name, asked in (("unknown", "cat=infussed"), ("twice", "cat=infused, cat=keyed")):
    found[name] = error_of(applied, infuse=asked)
found["weights"] = error_of(applied, infuse="dog=c1")
found["left behind"] = [
    n for n, m in model.model.diffusion_model.named_modules() if "forward" in m.__dict__
]
report(found)
