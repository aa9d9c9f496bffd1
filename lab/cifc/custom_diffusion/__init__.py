"""Custom Diffusion beside CIDM: each concept alone, all at once, merged, compressed."""
