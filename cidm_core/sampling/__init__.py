"""What both hosts share in drawing: the plan, the concepts' weights, what acts on a layer."""
