"""Configurations of the models that `make_checkpoint` writes, as diffusers has them."""


def unet_config(widths, depths, layers):
    return {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    }


def sdxl_unet_config(widths, depths, layers):
    """As published with SDXL 1.0: pooled text and six numbers beside the time, linear projections.

    The middle block has the attention of the last level.
    """
    return {
        **unet_config(widths, depths, layers),
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": 2048,
        "attention_head_dim": [max(1, width // 64) for width in widths],  # the number of heads
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    }


def vae_config(widths, layers):
    return {
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def sdxl_vae_config(widths, layers):
    return {**vae_config(widths, layers), "scaling_factor": 0.13025, "sample_size": 1024}


def clip_config(layers, intermediate, vocabulary):
    return {
        "vocab_size": vocabulary,
        "hidden_size": 768,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


def bigg_config(layers, intermediate, vocabulary):
    """OpenCLIP's ViT-bigG, SDXL's second text encoder."""
    return {
        **clip_config(layers, intermediate, vocabulary),
        "hidden_size": 1280,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    }


def sdxl_preset(unet, vae, layers, intermediate, vocabulary):
    """UNet, VAE and both text encoders; numbers of the two encoders as pairs."""
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": clip_config(layers[0], intermediate[0], vocabulary),
        "text_encoder_2": bigg_config(layers[1], intermediate[1], vocabulary),
    }


_FULL_VAE = vae_config((128, 256, 512, 512), 2)
_FULL_CLIP = clip_config(12, 3072, 49408)
_FULL_SDXL_VAE = sdxl_vae_config((128, 256, 512, 512), 2)
_FULL_SDXL_TEXT = ((12, 32), (3072, 5120), 49408)
PRESETS = {
    "tiny": {
        "unet": unet_config((32, 64), (1, 1), 1),
        "vae": vae_config((32, 32, 32, 32), 1),
        "text_encoder": clip_config(1, 64, 768),
    },
    "slim": {
        "unet": unet_config((32, 64, 64, 64), (1, 1, 1, 0), 2),
        "vae": vae_config((32, 32, 64, 64), 2),
        "text_encoder": clip_config(2, 64, 768),
    },
    "mini": {
        "unet": {
            **unet_config((32, 32), (1, 1), 1),
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": 128,
            "attention_head_dim": 4,
        },
        "vae": {**vae_config((32, 32, 32), 1), "latent_channels": 8, "scaling_factor": 1.0},
        "text_encoder": {
            **clip_config(1, 64, 768),
            "hidden_size": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 48,
        },
    },
    "host": {
        "unet": unet_config((320,), (1,), 1),
        "vae": _FULL_VAE,
        "text_encoder": _FULL_CLIP,
    },
    "words": {
        "unet": unet_config((32,), (1,), 1),
        "vae": vae_config((32, 32, 32, 32), 1),
        "text_encoder": clip_config(1, 64, 49408),
    },
    "l16": {
        "unet": unet_config((320,) * 4, (1, 1, 1, 0), 2),
        "vae": _FULL_VAE,
        "text_encoder": _FULL_CLIP,
    },
    "full": {
        "unet": unet_config((320, 640, 1280, 1280), (1, 1, 1, 0), 2),
        "vae": _FULL_VAE,
        "text_encoder": _FULL_CLIP,
    },
    "sdxl-tiny": sdxl_preset(
        sdxl_unet_config((32, 64), (0, 2), 1),
        sdxl_vae_config((32, 32, 32, 32), 1),
        *((2, 2), (64, 64), 768),
    ),
    "sdxl-slim": sdxl_preset(
        sdxl_unet_config((32, 64, 64), (0, 2, 10), 2),
        sdxl_vae_config((32, 32, 64, 64), 2),
        *((2, 2), (64, 64), 768),
    ),
    "sdxl-words": sdxl_preset(
        sdxl_unet_config((32, 64), (0, 2), 1),
        sdxl_vae_config((32, 32, 32, 32), 1),
        *((3, 3), (64, 64), 49408),
    ),
    "sdxl-host": sdxl_preset(
        sdxl_unet_config((320, 320, 320), (0, 1, 2), 2), _FULL_SDXL_VAE, *_FULL_SDXL_TEXT
    ),
    "sdxl-full": sdxl_preset(
        sdxl_unet_config((320, 640, 1280), (0, 2, 10), 2), _FULL_SDXL_VAE, *_FULL_SDXL_TEXT
    ),
}
