"""mini-sd and mini-sdxl, tiny latent diffusion models, and the drawn world they learned."""
