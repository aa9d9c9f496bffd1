"""A prompt by ComfyUI's own executor, with a pack from any folder and without a web server."""

import asyncio
import json
import sys
from pathlib import Path
from typing import ClassVar

import execution
import folder_paths
import inside

import nodes  # the host's


class NoBrowser:
    """What the executor tells its server."""

    client_id = last_node_id = None
    sockets_metadata: ClassVar[dict] = {}

    def send_sync(self, *told):
        pass


def main(pack: str, base: str, prompt: str) -> None:
    folder_paths.models_dir = str(Path(base) / "models")
    folder_paths.set_output_directory(str(Path(base) / "output"))
    assert asyncio.run(nodes.load_custom_node(pack))
    asked = json.loads(prompt)
    valid, error, outputs, wrong = asyncio.run(execution.validate_prompt("1", asked, None))
    assert valid, error
    assert not wrong
    executor = execution.PromptExecutor(NoBrowser(), cache_args={"ram": 0, "ram_inactive": 0})
    executor.execute(asked, "1", execute_outputs=outputs)
    assert executor.success, executor.status_messages[-1]
    inside.report(executor.history_result["outputs"])


main(*sys.argv[1:])
