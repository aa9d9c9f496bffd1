"""The sidebar tab *Concepts*: what its page (web/concepts.js) asks ComfyUI's server for."""
