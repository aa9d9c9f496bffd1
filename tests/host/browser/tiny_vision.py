"""A node for the tests' ComfyUI only: a CLIP vision model of two layers, for real ones are slow."""

import torch
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import ComfyExtension, io

SHAPE = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_act": "quick_gelu"}
SIZES = {"hidden_size": 64, "intermediate_size": 128, "projection_dim": 32}
PICTURE = {"image_size": 32, "patch_size": 8, "num_channels": 3}


class TinyVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        outputs = [io.ClipVision.Output()]
        return io.Schema(node_id="TestTinyVision", category="test", outputs=outputs)

    @classmethod
    def execute(cls):
        model = ClipVisionModel({**SHAPE, **SIZES, **PICTURE, "model_type": "clip_vision_model"})
        rand = torch.Generator().manual_seed(0)
        for weight in model.model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rand) * 0.3)
        return io.NodeOutput(model)


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [TinyVision]


async def comfy_entrypoint():
    return Extension()
