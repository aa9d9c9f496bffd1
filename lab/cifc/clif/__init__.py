"""CLIF beside CIDM and Custom Diffusion: look-alikes in one picture, words told apart or not."""
