"""What CIDM is compared with: continual learning on low-rank weights, and two ways of merging.

Each baseline learns by a `Method` of its own that keeps tokens, factors and denoising loss of
CIDM, so all of them differ in what they are named after and in nothing else.
"""
