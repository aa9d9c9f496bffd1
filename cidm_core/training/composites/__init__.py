"""Pictures of two cut-outs side by side, whose captions say which is where.

CLIF (Lin et al. 2024, https://arxiv.org/abs/2405.06914) contrasts its words with them. Neither its
data nor what made them were published: what the paper's method figure shows is followed, and the
numbers are ours.
"""
