"""`accelerate launch` with two processes on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]


def launch_two(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or with "-m" a module, in two processes; fails with what they said."""
    # With --cpu, `accelerate launch` starts one process only, unless there is MPI. --multi_gpu
    # means torchrun; without a GPU the processes meet on the CPU all the same.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    # Port 0: one of its own choice, so that several test runs do not meet.
    launcher += ["--dynamo_backend", "no", "--main_process_port", "0"]
    folders = [str(Path(__file__).parent), str(REPO / "tests"), str(REPO)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [*launcher, *command], env=surroundings, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done
