"""What is drawn in both hosts: prompt, regions, settings. Every option and every kind of update."""

ONE = "a photo of a <v11> <v12> in a garden"
TWO = "a photo of a <v11> <v12> and a <v21> <v22>, oil painting"
LEFT = {"prompt": "a <v11> <v12> on the left", "box": (0.0, 0.1, 0.6, 0.9)}
RIGHT = {"prompt": "a <v31> <v32> on the right", "box": (0.4, 0.0, 1.0, 1.0)}
OWN = {**RIGHT, "negative": "blurry <v21> <v22>"}
MASK = {"prompt": "a <v21> <v22>", "mask": "ramp"}  # from 0 at the left to 1 at the right
PLAIN = {"prompt": "a red house", "box": (0.0, 0.0, 0.5, 1.0)}
BOTH = (LEFT, RIGHT)
MANY = (
    "a <k1> <l1>, a <k2> and a <k3> <l3> in a <k4>, 'teddy bear', <k5> <l5>, <k7> <l7> and <v11> "
    "<v12>"
)
HALVES = (
    {"prompt": "a Teddy Bear in a <k4>", "box": (0.0, 0.0, 0.6, 1.0)},
    {"prompt": "a <k2> and a <k3> <l3>", "box": (0.4, 0.2, 1.0, 1.0), "negative": "old boat"},
    {"prompt": "a <k5> <l5>", "box": (0.2, 0.0, 0.8, 0.5)},
)
EACH = "low=0.5, full=1.5, value=0.3, around=0, encoder=2, two=1.2"
CAT = {"infuse": "infused"}
CATS = ({"prompt": "a white cat", "box": (0.0, 0.0, 0.5, 1.0)}, OWN)
SIZES = {
    **{"original_width_px": 640, "original_height_px": 512, "crop_left_px": 8, "crop_top_px": 16},
    **{"target_width_px": 96, "target_height_px": 80},
}

CASES = {
    "plain": ("a cat, best quality", (), {}),
    "one": (ONE, (), {}),
    "many": (TWO, (), {"negative_prompt": "a bad <v31> <v32>"}),
    "weighted": (r"a (<v11> <v12>:1.3) in a (garden:0.6), ((red)) \(house\)", (), {}),
    "joined": ("two <k2>s, a<k4> and a (<v11>:1.2) <v12>", (), {"negative_prompt": "(ugly:1.4)"}),
    "strength": (TWO, BOTH, {"strength": 0.5}),
    "strengths": (TWO, BOTH, {"strengths": "c1=0.5, c2=1.5"}),
    # Whose weights, and how many.
    "dense": (ONE, (), {"weights": "paper"}),
    "dense as released": (TWO, (), {"weights": "released"}),
    "top_k": (MANY, (), {"top_k": 2}),
    "joint": (TWO, (), {"encoding": "joint"}),
    "routed": (TWO, (), {"key_value_routing": "token"}),
    "routed regions": (TWO, (LEFT, OWN), {"key_value_routing": "token", "feather": 0.2}),
    # Regions.
    "regions": (TWO, BOTH, {}),
    "mask": (ONE, (LEFT, MASK), {"feather": 0.2, "alpha": 0.4}),
    "own negative": (TWO, (LEFT, OWN), {"negative_prompt": "ugly"}),
    "a region without concepts": (ONE, (PLAIN, RIGHT), {}),
    "global weights": (TWO, BOTH, {"region_weights": "global"}),
    "attention only": (TWO, BOTH, {"noise_estimation": False}),
    "noise only": (TWO, (LEFT, OWN), {"regional_attention": False}),
    "literal": (TWO, BOTH, {"region_mode": "literal"}),
    # One word for several of these.
    "paper": (TWO, BOTH, {"recipe": "paper"}),
    "released": (TWO, BOTH, {"recipe": "released"}),
    "released, but gated": (TWO, (LEFT, OWN), {"recipe": "released", "weights": "gate"}),
    # What SDXL is told of the picture's size.
    "sizes": (ONE, (), SIZES),
    # Kinds of updates (tests/update_kinds.py).
    "low": ("a photo of a <k1> <l1>", (), {}),
    "full": ("a photo of a <k2>", (), {}),
    "value": ("a photo of a <k3> <l3>", (), {}),
    "around": ("a photo of a <k4>", (), {}),
    "encoder": ("a photo of a <k5> <l5>", (), {"negative_prompt": "a <k2>"}),
    "wordless": ("a photo of a Teddy Bear, asleep", (), {}),
    "two": ("a <k6> beside an old boat", (), {}),
    "all kinds": (MANY, (), {"top_k": 9}),
    "all kinds, routed": (MANY, (), {"key_value_routing": "token", "strength": 0.7}),
    "all kinds, dense": (MANY, (), {"weights": "paper"}),
    "all kinds in regions": ("a <k1> <l1> and a <k6>", HALVES, {}),
    "attention of all kinds": ("a <k1> <l1> and a <k6>", HALVES, {"noise_estimation": False}),
    "all kinds at strengths": (MANY, HALVES, {"strengths": EACH, "strength": 0.7}),
    "routed at strengths": (MANY, (), {"strengths": EACH, "key_value_routing": "token"}),
    # Concepts that are asked for.
    "infused": ("a white cat, not a cat", (), {**CAT, "negative_prompt": "an old white cat"}),
    "by another phrase": ("a Kitten and an old lamp", (), {"infuse": "kitten=infused, keyed"}),
    "in one stream": ("a white cat", (), {**CAT, "second_stream": 0.0}),
    "no residual left": (f"a white cat and {ONE}", (), {**CAT, "residual_share": 0.0}),
    "in a part": ("a white cat", (), {**CAT, "residual_layers": "up"}),
    "values alone": ("an old lamp", (), {"infuse": "keyed", "key_residuals": False}),
    "infused among others": (f"a white cat, {MANY}", (), {**CAT, "strength": 0.8}),
    "infused at a strength": (f"a white cat and {ONE}", CATS, {**CAT, "strengths": "infused=0.5"}),
    "infused at none": (f"a white cat and {ONE}", (), {**CAT, "strengths": "infused=0"}),
    "infused in regions": (f"a white cat and {ONE}", CATS, CAT),
    "attention of infused regions": ("a garden", CATS, {**CAT, "noise_estimation": False}),
    "infused regions, one weight": ("a garden", CATS, {**CAT, "region_weights": "global"}),
}

# A second family needs each way that its text and rows take, not every option once more.
OF_FAMILY = {
    "SD15": [name for name in CASES if name != "sizes"],
    "SDXL": [
        *("one", "weighted", "regions", "own negative", "sizes", "encoder"),
        *("infused", "infused in regions", "all kinds at strengths", "infused at a strength"),
    ],
}

TEXTS = ["one", "weighted", "encoder"]  # whose text is compared too, before it is drawn with

# Concepts, regions or settings must have changed these pictures a lot.
CHANGES = [name for name in CASES if name not in ("plain", "strength")]

# Settings that are the host's own business: ComfyUI has nodes for them.
HOSTS_OWN = {
    *("steps", "seed", "num_images", "width_px", "height_px", "scheduler", "eta", "denoise"),
    *("guidance_scale", "execution", "rows_at_once", "allow_other_base"),
}
