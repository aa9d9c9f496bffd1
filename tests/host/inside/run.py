"""Runs a script inside ComfyUI's python: run.py COMFY SCRIPT [ARGS]. See `server.in_host`.

A folder of its own, because tests/host/server.py would hide ComfyUI's `server` module.
"""

import runpy
import sys

here, (comfy, script, *args) = sys.path[0], sys.argv[1:]
sys.path[:1] = [comfy, here]
sys.argv = [script, *args]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing(False)
from comfy.cli_args import args as settings  # noqa: E402

settings.cpu = True
runpy.run_path(script, run_name="__main__")
