"""Prompts further down the graph, read before a training that would end in an error there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...cidm_core.bank import Bank
from ...cidm_core.errors import PromptError
from ...cidm_core.sampling.concept_weights import callers_of, check_words
from ...cidm_core.words import parse_words


def check_prompts_after(prompt: Mapping[str, Any], node: str, bank: Bank) -> None:
    """Make sure that the prompts which hang on a training node name only what will be there.

    Only constant texts can be read; where words come by a link or from a file, nothing is known.

    Args:
        prompt: The graph, in the host's API format.
        node: Key of the training node.
        bank: As it is now.

    Raises:
        PromptError: If a word is neither in the bank nor about to be taught.
    """
    kinds = ("CIDM_TrainConcept", "CIDM_Subject")
    taught = [each for kind in kinds for each in _of_kind(prompt, kind)]
    trained = [each["inputs"].get("words") for each in taught]
    imported = [each["inputs"].get("words") for each in _of_kind(prompt, "CIDM_ImportConcept")]
    if not all(isinstance(words, str) for words in (*trained, *imported)):
        return
    if not all(words.strip() for words in imported):
        return  # they are those of the file
    names = [parse_words(text) for text in (*trained, *imported) if text.strip()]
    callers = callers_of(bank) | dict.fromkeys(names, "")
    for title, text in _prompts_after(prompt, node):
        try:
            check_words([text], callers, bank)
        except PromptError as error:
            raise PromptError(f"In {title!r}: {error} Nothing was learned yet.") from error


def _prompts_after(prompt: Mapping[str, Any], node: str) -> list[tuple[str, str]]:
    """Title and text of the nodes whose CLIP knows what a node teaches."""
    after = {node}
    while more := {key for key, each in prompt.items() if _sources(each) & after} - after:
        after |= more
    return [
        (each.get("_meta", {}).get("title") or _kind(each), text)
        for key, each in prompt.items()
        if key in after and _source(each["inputs"].get("clip")) in after
        for text in each["inputs"].values()
        if isinstance(text, str)
    ]


def _of_kind(prompt: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [each for each in prompt.values() if _kind(each) == kind]


def _sources(node: Mapping[str, Any]) -> set[str]:
    return {_source(value) for value in node["inputs"].values()}


def _source(value: Any) -> str:
    """The node that a link comes from."""
    return str(value[0]) if isinstance(value, list) and len(value) == 2 else ""


def _kind(node: Mapping[str, Any]) -> str:
    return node["class_type"]
