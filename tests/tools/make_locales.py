"""English texts of the nodes for ComfyUI's locales, read off their schemas.

Runs inside ComfyUI's python, where the schemas can be imported:

    $COMFYUI_PYTHON tests/host/inside/run.py $COMFYUI_PATH tests/tools/make_locales.py write

`write` renews locales/en/nodeDefs.json; without it the texts are only printed, for the test.
"""

import asyncio
import json
import sys

import inside

import nodes  # noqa: F401  the host's, first: it brings what the pack's modules expect

ENGLISH = inside.ROOT / "locales" / "en" / "nodeDefs.json"


def texts() -> dict:
    """Node id -> its texts, in the form of nodeDefs.json."""
    extension = inside.pack("nodes.extension").ConceptExtension()
    classes = asyncio.run(extension.get_node_list())
    schemas = [each.GET_SCHEMA() for each in classes]
    return {schema.node_id: _of_node(schema) for schema in schemas}


def _of_node(schema) -> dict:
    found = {"display_name": schema.display_name, "description": schema.description}
    if schema.inputs:
        found["inputs"] = {each.id: _of_field(each) for each in schema.inputs}
    outputs = {str(k): _of_field(each) for k, each in enumerate(schema.outputs)}
    return found | {"outputs": outputs}


def _of_field(field) -> dict:
    return {"name": field.display_name or field.id, "tooltip": field.tooltip}


def main(write: bool) -> None:
    found = texts()
    if write:
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        ENGLISH.write_text(text, encoding="utf-8")
    inside.report(found)


main(sys.argv[1:] == ["write"])
