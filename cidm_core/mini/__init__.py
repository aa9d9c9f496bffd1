"""mini-sd: a tiny latent diffusion model, the drawn world it learned, and a probe that reads it."""
