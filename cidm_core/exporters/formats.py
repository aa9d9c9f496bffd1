"""The formats that a concept can be written in; apart, because it needs nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

LORA, WEBUI, PIVOTAL = "lora", "webui", "pivotal-tuning"
DIFFUSERS, COMPVIS, DELTA_BIN = "diffusers-custom-diffusion", "compvis-delta", "delta-bin"
FORMATS: Mapping[str, str] = {
    LORA: "the weights as a plain LoRA that every program reads, without the words",
    WEBUI: "a LoRA of exact weights and an embedding for each word, for ComfyUI and A1111",
    PIVOTAL: "a LoRA and an embeddings file for each subject, all its words in it, as diffusers' "
    "pivotal tuning has them; for ComfyUI, too",
    DIFFUSERS: "Custom Diffusion as diffusers loads it, and a file for each word",
    COMPVIS: "delta of the CompVis code of Custom Diffusion, for SD 1.x",
    DELTA_BIN: "delta of its diffusers scripts, for SD 1.x and SDXL",
}
NEEDS_MODEL = (DIFFUSERS, COMPVIS, DELTA_BIN)
FILE_ENDINGS: Mapping[str, str] = {
    LORA: ".safetensors",
    COMPVIS: ".ckpt",
    DELTA_BIN: ".bin",
}  # of the formats that are one file
