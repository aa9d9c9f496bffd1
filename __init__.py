"""ComfyUI's entry to the pack. Nothing heavy is imported before the host asks for the nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The V3 extension of this pack."""
    from .nodes.extension import ConceptExtension

    return ConceptExtension()
