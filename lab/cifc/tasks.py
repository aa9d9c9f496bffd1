"""The benchmark's data: the mini world's suites, and a user's folder of photos and prompts."""

from .folder_tasks import folder_suite
from .long_tasks import long_suite
from .mini_tasks import mini_suite
from .suite import Part, Scene, Suite, Task, plain_words

__all__ = [
    "Part",
    "Scene",
    "Suite",
    "Task",
    "folder_suite",
    "long_suite",
    "mini_suite",
    "plain_words",
]
