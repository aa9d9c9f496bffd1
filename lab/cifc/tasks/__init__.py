"""The benchmark's data: the mini world's suites, and a user's folder of photos and prompts."""

from .folder import folder_suite
from .long import long_suite
from .mini import mini_suite
from .suite import ScenePart, Suite, SuiteScene, SuiteTask, plain_words

__all__ = [
    "ScenePart",
    "Suite",
    "SuiteScene",
    "SuiteTask",
    "folder_suite",
    "long_suite",
    "mini_suite",
    "plain_words",
]
