"""What sampling with concepts costs, beside the bare model and the released way.

    python -m lab.speed.sampling [--rounds N] [--out FILE] [--quick]

One guided noise estimate (all UNet rows of one step) of a small SD-topology UNet with random
weights: 37.5 M parameters, 16 cross-attention layers, latents of 16 x 16. Concepts have rank 4 on
all 64 linear layers, and dense weights, so that every one of them takes part.
"""

import argparse
from collections.abc import Mapping

import torch

from cidm_core.concept import Concept
from cidm_core.diffusers_host.patches import attach
from cidm_core.regions import Region
from cidm_core.sampling.plan import Plan

from .estimates import Estimates, counters, differing_bytes, sampling_agreement
from .measure import Way, always, as_table, interleave, parse, summary, target, verdict, write
from .models import RANK, make_base, make_concepts

_BARE = "bare model"
_NOTHING = "plan without concepts"


Ways = dict[str, Way]


def merged(bench: Estimates, plans: Mapping[int, Plan]) -> Ways:
    """Part a: the weights folded into the model."""
    return {_BARE: bench.bare(), _NOTHING: bench.ours(plans[0], "merged")} | {
        f"merged, {n} concepts": bench.ours(plan, "merged") for n, plan in plans.items() if n
    }


def per_sample(bench: Estimates, plans: Mapping[int, Plan]) -> Ways:
    """Part b: one concatenated low-rank branch, weighed per batch row."""
    return {_BARE: bench.bare()} | {
        f"per sample, {n} concepts": bench.ours(plan, "per_sample")
        for n, plan in plans.items()
        if n
    }


def released_way(bench: Estimates, concepts: Mapping[str, Concept], sizes: list[int]) -> Ways:
    """Part c: one branch per concept, weights found anew in each layer of each step."""
    return {_BARE: bench.bare()} | {
        f"released way, {n} concepts": bench.released(first(concepts, n)) for n in sizes
    }


def first(concepts: Mapping[str, Concept], count: int) -> dict[str, Concept]:
    return dict(list(concepts.items())[:count])


def two_prompts(bench: Estimates, concepts: Mapping[str, Concept], active: int) -> Ways:
    """Part b as used: two prompts in one batch, each naming its own half of the concepts."""
    bank = first(concepts, active)
    triggers = [concept.trigger for concept in bank.values()]
    half = max(1, active // 2)
    prompts = [" and ".join(triggers[:half]), " and ".join(triggers[half:] or triggers)]
    plan = bench.plan(bank, prompt=prompts, weights="gate", top_k=half)
    return {
        _BARE + ", 4 rows": bench.bare(4),
        f"per sample, {active} concepts in 2 prompts": bench.ours(plan, "per_sample"),
    }


def regional(bench: Estimates, concepts: Mapping[str, Concept], most: int) -> Ways:
    """Part d: 1 to `most` regions side by side, each with its own concept."""
    variants: Ways = {_BARE: bench.bare()}
    for count in range(1, most + 1):
        boxes = [(u / count, 0.0, (u + 1) / count, 1.0) for u in range(count)]
        held = list(concepts.values())[:count]
        regions = [Region(c.trigger, box=b) for c, b in zip(held, boxes, strict=True)]
        plan = bench.plan(concepts, regions, weights="gate")
        variants[f"{_BARE}, {count + 2} rows"] = bench.bare(count + 2)
        variants[f"{count} regions"] = bench.ours(plan, "per_sample")
    return variants


def once_per_prompt(
    bench: Estimates, plans: Mapping[int, Plan], concepts: Mapping[str, Concept]
) -> Ways:
    """Part e: finding the weights, and putting a merged plan on the UNet and off again.

    Without concepts, attaching is projecting keys and values, as the bare model does in every
    step; what concepts add to that is the price of merging.
    """
    group: Ways = {_BARE: bench.bare()}
    for size, plan in plans.items():

        def attaching(plan: Plan = plan) -> None:
            with attach(bench.base, plan, "merged"):
                pass

        group[f"attach, {size} concepts"] = always(attaching)
        if size:
            group[f"weigh, {size} concepts"] = always(bench.weighing(first(concepts, size)))
    return group


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="sampling", description=__doc__.splitlines()[0])
    options, command = parse(parser, argv)
    size, cells, large = ("tiny", 8, 8) if options.quick else ("small", 16, 64)
    sizes, most = ([1, 2], 1) if options.quick else ([1, 10, 100], 4)
    bench = Estimates(make_base(size), cells)
    concepts = make_concepts(bench.base, sizes[-1])
    with torch.no_grad():
        plans = {n: bench.plan(first(concepts, n)) for n in sizes}
        plans = {0: bench.plan({}, prompt="a photo of a dog in a house"), **plans}
        groups = {
            "merged": merged(bench, plans),
            "per sample": per_sample(bench, plans),
            "two prompts": two_prompts(bench, concepts, sizes[1]),
            "released way": released_way(bench, concepts, sizes),
            "regions": regional(bench, concepts, most),
            "once per prompt": once_per_prompt(Estimates(bench.base, large), plans, concepts),
        }
        raw, rows = measure_groups(groups, options.rounds)
        facts = facts_without_clock(bench, plans, first(concepts, sizes[1]), min(most, 2))
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    targets = sampling_targets(rows, facts, sizes)
    print("\n" + verdict(targets))
    model = {
        "unet_parameters": sum(p.numel() for p in bench.base.unet.parameters()),
        "cross_attention_layers": len(bench.base.layers),
        "latent_cells": cells,
        "latent_cells_once_per_prompt": large,
        "rank": RANK,
    }
    body = {"model": model, "rounds": options.rounds, "targets": targets, "facts": facts}
    write(options.out, "sampling", command, {**body, "results": rows, "raw_seconds": raw})


def measure_groups(groups: Mapping[str, Ways], rounds: int) -> tuple[dict, dict]:
    """Raw seconds and summaries of each group, beside the first variant of the group."""
    raw, rows = {}, {}
    for name, variants in groups.items():
        baseline = next(iter(variants))
        raw[name] = interleave(variants, rounds)
        rows[name] = summary(raw[name], baseline)
        print(as_table(name, rows[name], baseline), end="\n\n", flush=True)
    return raw, rows


def facts_without_clock(
    bench: Estimates, plans: Mapping[int, Plan], bank: dict[str, Concept], count: int
) -> dict:
    """What needs no clock: agreement, restoration, calls."""
    triggers = [concept.trigger for concept in bank.values()]
    regions = [Region(triggers[u], box=(u / count, 0, (u + 1) / count, 1)) for u in range(count)]
    return {
        "agreement": sampling_agreement(bench, bank),
        "differing_bytes_after_unmerging": {
            str(n): differing_bytes(bench, plan) for n, plan in plans.items()
        },
        "calls_merged": counters(bench, lambda: bench.plan(bank), "merged"),
        "calls_per_sample": counters(bench, lambda: bench.plan(bank), "per_sample"),
        "calls_regions": {"regions": count}
        | counters(bench, lambda: bench.plan(bank, regions, weights="gate"), "per_sample"),
    }


def sampling_targets(rows: dict, facts: dict, sizes: list[int]) -> list[dict[str, object]]:
    active = sizes[1]
    loops = [facts[k] for k in ("calls_merged", "calls_per_sample", "calls_regions")]
    regions, steps = facts["calls_regions"], facts["calls_regions"]["steps"]
    once = {name: row["ms"] for name, row in rows["once per prompt"].items()}
    merging = once[f"attach, {active} concepts"] - once["attach, 0 concepts"]
    share = (once[f"weigh, {active} concepts"] + merging) / once[_BARE]

    def ratio(group: str, name: str) -> float:
        return rows[group][name]["ratio"]

    def in_loop(what: str) -> int:
        return sum(calls[f"{what}_in_loop"] for calls in loops)

    one, two = f"per sample, {active} concepts", f"per sample, {active} concepts in 2 prompts"
    changed = max(facts["differing_bytes_after_unmerging"].values())
    return [
        *(
            target(f"{name} vs bare model", ratio("merged", name), 1.02)
            for name in (f"merged, {n} concepts" for n in sizes)
        ),
        target("bytes changed by merging and un-merging", changed, 0),
        target(f"{one} vs bare model", ratio("per sample", one), 1.10),
        target(f"{two} vs bare model, 4 rows", ratio("two prompts", two), 1.10),
        target("aggregations in the step loop", in_loop("aggregation_evaluations"), 0),
        target("key/value projections in the step loop", in_loop("key_value_projections"), 0),
        target(
            f"UNet rows per step, {regions['regions']} regions",
            regions["unet_rows"] / steps,
            regions["regions"] + 2,
        ),
        target("UNet calls per step with regions", regions["unet_calls"] / steps, 1),
        target(f"weigh and merge {active} concepts, share of one step", share, 0.10),
    ]


if __name__ == "__main__":
    main()
