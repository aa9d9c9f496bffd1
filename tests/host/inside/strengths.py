"""Concept Strengths among the other nodes; on mini-sd, with concepts of large effect."""

import pickle

import concepts
import torch
from concepts import differ, encode, error_of, plain_guider, random
from inside import pack, report

torch.set_num_threads(1)
torch.set_grad_enabled(False)
apply, node = pack("nodes.sampling.apply"), pack("nodes.bank.strengths").ConceptStrengths
bake, banked = pack("nodes.sampling.bake").BakeConcepts, pack("nodes.sampling.banked")
host, sockets = pack("nodes.host.comfy"), pack("nodes.host.sockets")
guider_node, Region = pack("nodes.regions.guider"), pack("cidm_core.regions").Region
model, clip = pack("nodes.mini.load").LoadMiniModel.execute().args[:2]
facts = pack("nodes.host.model").model_facts(model)
bank = concepts.bank(facts, count=3)
NOISE, BOTH = random(1, 8, 8, 8, seed=7), "a <v11> <v12> and a <v21> <v22>"
found, told, said = {}, [], []
host.warn = told.append
host.say_on_node = lambda text, _node: said.append(text)


def at(text, of_bank=bank):
    return node.execute(of_bank, text).args[0]


def applied(of_bank, **settings):
    return apply.ApplyConceptBank.execute(model, clip, of_bank, **settings).args


def draw(taught, positive, negative):
    return concepts.sample(plain_guider(taught, positive, negative, 3.0), NOISE, (8.0, 1.0, 0.0))


def drawn(of_bank, **settings):
    taught, words = applied(of_bank, **settings)
    return draw(taught, encode(words, BOTH), encode(words, ""))


# What the strengths do.
plain = drawn(bank)
found["one for all"] = differ(drawn(at("c1=0.5\nc2=0.5")), drawn(bank, strength=0.5))
found["effect"] = differ(drawn(at("c1=0.5")), plain)
found["of 1"] = differ(drawn(at("c1 = 1\nc2 = 1")), plain)
found["nothing written"] = at(" \n") is bank
found["later nodes count"] = differ(
    drawn(at("c2=0.7, c1=0.2", at("c1=3, c2=4"))), drawn(at("c1=0.2, c2=0.7"))
)
found["earlier nodes stay"] = differ(drawn(at("c1=0.2", at("c2=0.7"))), drawn(at("c1=0.2, c2=0.7")))

# As a conditioning that was saved, and between two banks of other strengths.
taught, words = applied(at("c1=0.5"))
kept = pickle.dumps(encode(words, BOTH))
known = pack("nodes.sampling.prompts")._known
known.clear()
half = draw(taught, pickle.loads(kept), encode(words, ""))
found["saved"] = differ(half, drawn(at("c1=0.5")))
other, other_words = applied(at("c1=2"))
found["of the prompt"] = differ(draw(other, encode(words, BOTH), encode(other_words, "")), half)

# One concept, of another strength in each region.
HALVES = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}
WORDS = {0.5: words, 2.0: other_words}


def halves(left, right):
    """What one step draws at the left and at the right."""
    regions = tuple(
        sockets.RegionPrompt(Region("r", box=box), encode(WORDS[strength], "a <v11> <v12>"))
        for box, strength in zip(HALVES.values(), (left, right), strict=True)
    )
    texts = encode(words, "a house"), encode(words, "")
    alone = {"alpha": 0.0, "feather": 0.0, "regional_attention": False}
    guider = guider_node.RegionalNoiseGuider.execute(taught, *texts, regions, 3.0, **alone).args[0]
    return concepts.sample(guider, NOISE, (8.0, 0.0)).chunk(2, -1)


mixed, weak, strong = halves(0.5, 2.0), halves(0.5, 0.5), halves(2.0, 2.0)
found["regions"] = [differ(mixed[0], weak[0]), differ(mixed[1], strong[1])]
found["regions differ"] = differ(weak[1], strong[1])

# What is shown, and baked.
show = apply.ShowConceptWeights.execute(encode(words, BOTH))
found["shown"] = show.args[1]
said.clear()
at('c3 = 2\n"c1" = .5')
found["on the node"] = list(said)
baked = bake.execute(taught, encode(words, BOTH)).args[0]
found["baked"] = differ(draw(baked, encode(words, BOTH), encode(words, "")), half)
found["bare, baked"] = differ(
    draw(baked, encode(words, BOTH), encode(words, "")), draw(model, encode(clip, BOTH), [])
)

# What people are told.
told.clear()
drawn(at("c3=0.5, c2=2"))
found["no part"] = list(told)
for text in ("c4 = 1", "c1 = -1", "c1"):
    found[text] = [error_of(at, text), node.validate_inputs(text)]
report(found)
