"""What ComfyUI is and has, in the words of `cidm_core`."""
