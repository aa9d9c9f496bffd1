"""Training Estimate in a real ComfyUI: every preset, beside the memory of the device."""

import re


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def report(server, model, **more):
    prompt = {
        **model,
        "estimate": node("CIDM_TrainingEstimate", model=["load", 0], clip=["load", 1], **more),
    }
    result = server.run(prompt)
    assert result.status == "success", result.error
    return "".join(result.outputs["estimate"]["text"])


def test_it_says_what_each_preset_needs(server):
    lines = report(server, {"load": node("CIDM_LoadMiniModel")}).splitlines()
    assert re.fullmatch(r"[\d.]+ GB of memory, [\d.]+ free for learning", lines[0])
    named = [line.partition(":")[0] for line in lines[1:5]]
    assert named == ["Least VRAM", "Low VRAM", "Balanced", "Best"]
    assert all(": about 0." in line and ", fits (weights 0." in line for line in lines[1:5])


def test_a_method_node_counts(server):
    model = {"load": node("CIDM_LoadMiniModel"), "method": node("CIDM_MethodCidm", batch_size=64)}
    small = report(server, {"load": node("CIDM_LoadMiniModel")})
    large = report(server, model, method=["method", 0])
    work = [float(re.findall(r"activations ([\d.]+)", text)[-1]) for text in (small, large)]
    assert work[1] > 4 * work[0]
