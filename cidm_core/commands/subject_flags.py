"""The flags that say what is taught: photos, captions, masks, words, by which method."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..methods.base import MethodClass

DEFAULT_METHOD = "cidm"


def method_asked(words: Sequence[str]) -> tuple[str, MethodClass]:
    """The method that a command line names, and its row; of an unknown one the default's."""
    from ..methods import METHODS

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--method", nargs="?", default=DEFAULT_METHOD)
    name = early.parse_known_args(words)[0].method
    return name, METHODS.get(name, METHODS[DEFAULT_METHOD])


def unused_flags(method: MethodClass) -> list[str]:
    """Flags of subjects that a method makes no use of."""
    used = {
        "--words": method.words != "unused",
        "--prior": method.prior != "unused",
        "--subjects": method.several,
    }
    return [flag for flag, is_used in used.items() if not is_used]


def with_words_asked(usage: str, method: MethodClass) -> str:
    """A usage line with the words as the method takes them."""
    asked = {"needed": "--words WORDS ", "optional": "[--words WORDS] ", "unused": ""}[method.words]
    return usage.replace("--words WORDS ", asked)


def add_subject(group: Any, method: MethodClass) -> None:
    """--photos, --words, --class-words, --kind, --captions, --masks."""
    add_photos(group)
    if method.words != "unused":
        add_words(group)
    add_class_words(group)
    add_kind(group)
    add_captions(group)
    group.add_argument(
        "--masks", metavar="DIR", help="Folder of masks named as the photos, white on the concept."
    )


def add_photos(group: Any, *, required: bool = False) -> None:
    group.add_argument("--photos", metavar="DIR", help="Folder of photos.", required=required)


def add_words(group: Any) -> None:
    group.add_argument(
        "--words",
        metavar="WORDS",
        help='New words in angle brackets that will call it, the noun last: "<dog1> <dog2>".',
    )


def add_class_words(group: Any) -> None:
    group.add_argument("--class-words", metavar="WORDS", help='What it is in plain words: "dog".')


def add_kind(group: Any) -> None:
    group.add_argument(
        "--kind",
        choices=("object", "style", "human"),
        help="What kind of thing is learned [object].",
    )


def add_captions(group: Any) -> None:
    group.add_argument(
        "--captions", metavar="PATH", help="Folder of .txt files, or one captions file."
    )


def add_way(group: Any, method: MethodClass) -> None:
    """--prior, --subjects, --method, --options."""
    from ..methods import METHODS

    if method.prior != "unused":
        group.add_argument(
            "--prior",
            metavar="DIR",
            help="Folder of pictures of other things of the class, with captions or without. By "
            "default the model draws some (--prior-images).",
        )
    if method.several:
        group.add_argument(
            "--subjects",
            metavar="JSON",
            help="File with more subjects to learn at once, each with photos, words and class "
            "words; diffusers' concepts_list will do. Without --photos its first one leads.",
        )
    group.add_argument(
        "--method",
        choices=tuple(METHODS),
        default=DEFAULT_METHOD,
        help=f"How it is learned [{DEFAULT_METHOD}]. Together with --help it shows that method's "
        "settings.",
    )
    group.add_argument(
        "--options", metavar="YML", help="Options file of the public CIFC code. Flags override it."
    )
