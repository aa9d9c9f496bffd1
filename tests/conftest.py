"""Threads are shared out, and shapes are executed: annotated mathematics checks its arguments."""

import gc
import os


def share_threads() -> None:
    """Give every worker its share of the cores; more threads than cores only wait for each other.

    OpenMP reads the variable when torch is imported; programs started by a test inherit it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // workers)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that spins takes a core's time


share_threads()  # before anything imports torch

import shape_checks  # noqa: E402

shape_checks.install()  # before anything imports cidm_core

from fixtures import (  # noqa: E402, F401
    clip_folder,
    encoded_once,
    tiny_base,
    tiny_checkpoint,
    tiny_folder,
    xl_base,
    xl_checkpoint,
    xl_folder,
)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look at it over and over."""
    gc.freeze()


def pytest_xdist_make_scheduler(config, log):
    """A file stays with one worker, and so do all of the host: it is started once."""
    from xdist.scheduler import LoadFileScheduling

    class OneHost(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "host" if file.startswith("tests/host/") else file

    return OneHost(config, log)
