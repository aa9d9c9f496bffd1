"""Regions under prompts of several conditionings: scheduled, combined, masked; on mini-sd."""

import comfy.controlnet
import comfy.patcher_extension
import concepts
import torch
from concepts import differ, encode, error_of, random
from inside import pack, report

import nodes as stock

torch.set_num_threads(1)
torch.set_grad_enabled(False)
Region, RegionPrompt = pack("cidm_core.regions").Region, pack("nodes.host.sockets").RegionPrompt
Guider = pack("nodes.regions.guider").RegionalNoiseGuider
model, clip, _ = pack("nodes.mini.load").LoadMiniModel.execute().args[:3]
bank = concepts.bank(pack("nodes.host.model").model_facts(model))
taught, words = pack("nodes.sampling.apply").ApplyConceptBank.execute(model, clip, bank).args
NOISE, SIGMAS, CFG = random(1, 8, 8, 8, seed=7), (10.0, 0.5, 0.0), 3.0
BOXES = ((0.0, 0.0, 0.5, 0.75), (0.5, 0.0, 1.0, 0.75))
PICTURE, OTHER = encode(words, "a <v11> <v12> and a <v21> <v22>"), encode(words, "a <v31> <v32>")
ONE, TWO = encode(words, "a <v11> <v12>"), encode(words, "a <v21> <v22>")
NEGATIVE = encode(words, "")
MODES = {
    "attention and noise": {"regional_attention": True, "noise_estimation": True},
    "noise": {"regional_attention": False, "noise_estimation": True},
    "attention": {"regional_attention": True, "noise_estimation": False},
}


def during(conditioning, start, end):
    return stock.ConditioningSetTimestepRange().set_range(conditioning, start, end)[0]


def strong(conditioning, strength):
    return stock.ConditioningSetAreaStrength().append(conditioning, strength)[0]


def masked(conditioning, left=True):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    mask = mask if left else 1 - mask
    return stock.ConditioningSetMask().append(conditioning, mask, "default", 1.0)[0]


def halves(conditioning):
    return during(conditioning, 0.0, 0.5) + during(conditioning, 0.5, 1.0)


def draw(positive=PICTURE, regions=(ONE, TWO), mode="attention and noise", negative=NEGATIVE):
    placed = tuple(
        RegionPrompt(Region("r", box=box), each) for box, each in zip(BOXES, regions, strict=False)
    )
    settings = {"alpha": 0.1, "feather": 0.05, "region_mode": "partition", **MODES[mode]}
    settings["region_weights"] = "per_region"
    made = Guider.execute(taught, positive, negative, placed, CFG, **settings)
    return concepts.sample(made.args[0], NOISE, SIGMAS)


found = {name: {} for name in ("halves", "order", "strength", "region halves", "region order")}
found |= {name: {} for name in ("region first half", "region strength", "masked")}
scheduled = during(PICTURE, 0.0, 0.5), during(OTHER, 0.5, 1.0)
for mode in MODES:
    plain = draw(mode=mode)
    found["halves"][mode] = differ(plain, draw(halves(PICTURE), mode=mode))
    a, b = (draw(x + y, mode=mode) for x, y in (scheduled, scheduled[::-1]))
    found["order"][mode] = [differ(a, b), differ(a, plain)]
    both = strong(PICTURE, 1.0), strong(OTHER, 0.5)
    a, b = (draw(x + y, mode=mode) for x, y in (both, both[::-1]))
    found["strength"][mode] = [differ(a, b), differ(a, draw(PICTURE + OTHER, mode=mode))]
    found["region halves"][mode] = differ(plain, draw(regions=(halves(ONE), TWO), mode=mode))
    phases = during(ONE, 0.0, 0.3), during(TWO, 0.3, 1.0)
    ways = [(x + y, during(TWO, 0.0, 0.6)) for x, y in (phases, phases[::-1])]
    a, b = (draw(regions=way, mode=mode) for way in ways)
    found["region order"][mode] = [differ(a, b), differ(a, plain)]
    # A region that ends early leaves its place to the picture: no grey box.
    early = draw(regions=(during(ONE, 0.0, 0.5),), mode=mode)
    reach = [float(early[..., part].std()) for part in (slice(0, 4), slice(4, 8))]
    found["region first half"][mode] = reach
    pair = strong(ONE, 0.5), strong(TWO, 1.0)
    a, b = (draw(regions=(x + y,), mode=mode) for x, y in (pair, pair[::-1]))
    found["region strength"][mode] = [differ(a, b), differ(a, draw(regions=(ONE,), mode=mode))]
    left, right = masked(PICTURE), masked(OTHER, left=False)
    a, b = (draw(x + y, mode=mode) for x, y in ((left, right), (right, left)))
    found["masked"][mode] = [differ(a, b), float(a.std())]

# Where the picture's prompt has a mask for a part of the time, that part is not grey.
late = during(masked(OTHER), 0.5, 1.0)
found["masked later"] = [
    differ(*(draw(x + y) for x, y in ((scheduled[0], late), (late, scheduled[0])))),
    float(draw(scheduled[0] + late).std()),
]
found["region masks"] = error_of(draw, regions=(masked(ONE) + masked(TWO, left=False),))
found["region masks, noise"] = error_of(draw, regions=(masked(ONE) + ONE,), mode="noise")
found["too many"] = error_of(draw, regions=(ONE * 9, TWO * 9), mode="attention")
found["weighed by"] = differ(draw(regions=(ONE + TWO,)), draw(regions=(TWO + ONE,)))

# Rows of every call: no more of them when prompts take turns.
calls = []
kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
taught.add_wrapper_with_key(
    kind, "count", lambda run, x, *a, **k: (calls.append(len(x)), run(x, *a, **k))[1]
)
draw(scheduled[0] + scheduled[1])
found["rows"] = calls[:]


class Net(comfy.controlnet.ControlBase):
    """A control that adds a constant to the middle block."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def get_control(self, x, *args, **kwargs):
        return {"input": [], "middle": [torch.full((len(x), 96, 4, 4), self.size)], "output": []}

    def copy(self):
        return self

    def get_models(self):
        return []


def controlled(conditioning, net):
    return [[c, {**o, "control": net, "control_apply_to_uncond": False}] for c, o in conditioning]


first, second = Net(1.0), Net(-4.0)
found["control"] = {}
for mode in MODES:
    half = (
        controlled(during(PICTURE, 0.0, 0.5), first),
        controlled(during(PICTURE, 0.5, 1.0), second),
    )
    a, b = (draw(x + y, mode=mode) for x, y in (half, half[::-1]))
    only = draw(controlled(PICTURE, first), mode=mode)
    same = controlled(during(PICTURE, 0.0, 0.5), first) + controlled(
        during(PICTURE, 0.5, 1.0), first
    )
    calls.clear()
    again = draw(same, mode=mode)
    found["control"][mode] = [differ(a, b), differ(a, only), differ(again, only)]
report(found)
