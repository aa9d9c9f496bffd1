"""The ComfyUI host: nodes without mathematics. The only folder that may import comfy modules."""
