"""Concept Version among the other nodes; on mini-sd, with concepts of large effect."""

import pickle
from dataclasses import replace

import concepts
import torch
from concepts import differ, encode, plain_guider, random
from inside import pack, report

torch.set_num_threads(1)
torch.set_grad_enabled(False)
apply, node = pack("nodes.sampling.apply"), pack("nodes.bank.versions").ConceptVersion
strengths = pack("nodes.bank.strengths").ConceptStrengths
model, clip = pack("nodes.mini.load").LoadMiniModel.execute().args[:2]
facts = pack("nodes.host.model").model_facts(model)
NOISE, PROMPT = random(1, 8, 8, 8, seed=7), "a <v11> <v12> and a <v21> <v22>"
bank, former = concepts.bank(facts, count=2), concepts.bank(facts, count=2)
changed = replace(concepts.concept(facts, 5, ("<v11>", "<v12>")), name="c1")
bank.add(changed, replaces=bank.entries()[0])
found = {}


def draw(taught, positive, negative):
    return concepts.sample(plain_guider(taught, positive, negative, 3.0), NOISE, (8.0, 1.0, 0.0))


def drawn(of_bank):
    taught, words = apply.ApplyConceptBank.execute(model, clip, of_bank).args
    return draw(taught, encode(words, PROMPT), encode(words, ""))


def at(number, of_bank=bank):
    return node.execute(of_bank, "c1", number).args[0]


then, now = drawn(former), drawn(bank)
found["effect"] = differ(then, now)
found["then"] = differ(drawn(at(1)), then)
found["now"] = differ(drawn(at(0)), now)

weaker = strengths.execute(at(1), "c1 = 0.5").args[0]
found["with strengths"] = differ(drawn(weaker), drawn(strengths.execute(former, "c1=0.5").args[0]))
found["strengths first"] = differ(
    drawn(at(1, strengths.execute(bank, "c1=0.5").args[0])), drawn(weaker)
)

# A conditioning keeps its version, also one that was saved; both were learned in one second.
taught, words = apply.ApplyConceptBank.execute(model, clip, at(1)).args
both = encode(words, PROMPT), encode(words, "")
drawn(bank)
found["of the prompt"] = differ(draw(taught, *both), then)
kept = pickle.dumps(both)
pack("nodes.sampling.prompts")._known.clear()
found["saved"] = differ(draw(taught, *pickle.loads(kept)), then)
found["told"] = node.execute(bank, "C1", 1).args[1]
report(found)
