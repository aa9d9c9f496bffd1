"""`accelerate launch` with two processes on a CPU, each a fork of this one."""

import pytest
import torch
from accelerate import PartialState
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed import run as torchrun

# With --cpu, `accelerate launch` starts one process only, unless there is MPI. --multi_gpu means
# torchrun; without a GPU the processes meet on the CPU all the same. Port 0: one of its own choice,
# so that several test runs do not meet.
ASKED = [
    *("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0", "script"),
]


def launch_two(function, *args):
    """Run a function in two processes; fails if one of them does.

    Everything is as from the command line, but the processes are forks instead of programs: those
    take three times as long to import torch and diffusers as the function takes.
    """
    read = torchrun.config_from_args

    def forking(options):
        config, *_ = read(options)
        config.start_method = "fork"
        return config, _alone, (function, args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchrun, "config_from_args", forking)
        patch.setenv("OMP_NUM_THREADS", "1")
        launch_command(launch_command_parser().parse_args(ASKED))


def _alone(function, args):
    """As in a process that has just begun."""
    PartialState._reset_state()
    torch.set_num_threads(1)
    function(*args)
