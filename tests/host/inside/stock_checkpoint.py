"""A checkpoint by ComfyUI's own loader, which is told of nothing."""

import sys

import comfy.sd
import inside


def main(path: str) -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(path)
    layers = {
        name.partition(".attn2.")[0]
        for name, _ in model.model.diffusion_model.named_modules()
        if ".attn2." in name
    }
    context = clip.encode_from_tokens_scheduled(clip.tokenize("a dog"))[0][0]
    inside.report(
        {
            "model": type(model.model).__name__,
            "layers": len(layers),
            "context": context.shape[-1],
            "cells": vae.latent_channels,
        }
    )


main(*sys.argv[1:])
