"""Runs scripts inside ComfyUI's python.

    run.py COMFY SCRIPT [ARGS]    one script
    run.py COMFY                  a script per line of JSON on stdin; see `server.in_host`

Importing ComfyUI and diffusers takes longer than most scripts do: the second form imports them
once, and every script gets a fork of that process to itself. A folder of its own, because
tests/host/server.py would hide ComfyUI's `server` module.
"""

import ctypes
import gc
import json
import os
import runpy
import signal
import sys
import traceback

here, (comfy, *given) = sys.path[0], sys.argv[1:]
sys.path[:1] = [comfy, here]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing(False)
from comfy.cli_args import args as settings  # noqa: E402

settings.cpu = True


def run(script, *args):
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


def serve():
    """Answer each order with the exit status of its script; minus the signal that ended it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever ComfyUI prints is no answer
    import accelerate  # noqa: F401
    import comfy.sd  # noqa: F401
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import nodes  # noqa: F401

    gc.freeze()  # or the first collection in a fork would copy all that was imported
    for line in sys.stdin:
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
        else:
            return _alone(**json.loads(line))


def _alone(command, out, seconds):
    """In a fork: the script, and no more; taking ComfyUI down takes longer than most of them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
    with open(out, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.alarm(seconds)
    status = 1
    try:
        run(*command)
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        else:
            status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if given:
    run(*given)
else:
    serve()
