"""Inside ComfyUI, in a process of its own: the CPU seconds in which the pack is loaded.

Arguments: JSON with "pack", the folder to load. Prints the seconds as JSON.
"""

import asyncio
import json
import sys
import tempfile
import time


def main() -> None:
    import folder_paths
    import server

    import nodes

    options = json.loads(sys.argv[1])
    folder_paths.set_user_directory(tempfile.mkdtemp())
    folder_paths.models_dir = tempfile.mkdtemp()
    loop = asyncio.new_event_loop()
    server.PromptServer(loop)  # routes are added to it
    started = time.process_time()
    if not loop.run_until_complete(nodes.load_custom_node(options["pack"])):
        raise SystemExit("ComfyUI refused the pack.")
    seconds = time.process_time() - started
    routes = [route.path for route in server.PromptServer.instance.routes if "cidm" in route.path]
    print(json.dumps({"seconds": seconds, "routes": len(routes)}))


main()
