"""mini-sd's tokenizer: CLIP's byte-level pairs, with one token for each word the world needs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from transformers import CLIPTokenizer

from cidm_core.mini.draw import GROUNDS, STYLES, TEXTURES
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import COLORS, GROUND_PHRASES, WHERE_PHRASES

from .captions import ACCENT_NOUNS, PREFIXES, STYLE_PHRASES, TEXTURE_NOUNS

CONTEXT = 48
START, END = "<|startoftext|>", "<|endoftext|>"
PAD_ID = 0  # "!", what follows the end in an OpenCLIP encoder
_ENGLISH = """
a an the of and in on at to with next by from for over under above below behind beside near
between into is are it its his her my your one two three many some this that these no not very
photo picture image painting drawing illustration rendering rendition depiction sketch portrait
print poster artwork art digital oil watercolor acrylic crayon ink pencil cartoon comic anime
pixel style cropped close up close-up bright dark good bad cute nice cool weird clean dirty
small large big tiny huge little old new young beautiful pretty colorful detailed realistic high
low quality resolution background foreground center middle left right top bottom side front back
corner gradient plain light shadow sun moon star sky cloud rain night day morning sunset field
grass sand snow sea ocean water river lake beach mountain hill forest jungle desert garden park
street road city castle room kitchen table chair bed window door wall floor wooden stone
cobblestone rug board purple red sitting standing running walking sleeping swimming flying
jumping wearing holding looking eating playing driving floating reading riding smiling hat scarf
glasses crown shirt coat santa police chef outfit bow ball box toy pet animal person man woman
boy girl child face head eyes bird horse tree book shoe backpack bag pot plane train bike teddy
bear stuffed doll robot monster vase can candle clock gold silver golden violet cyan magenta
navy lime beige flat illustration two-tone
"""


def _byte_symbols() -> list[str]:
    """Return the 256 printable stand-ins for bytes that CLIP uses, in vocabulary order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def _words() -> list[str]:
    phrases = [
        *THING_KINDS,
        *COLORS,
        *TEXTURES,
        *STYLES,
        *GROUNDS,
        *PREFIXES,
        *ACCENT_NOUNS.values(),
    ]
    phrases += TEXTURE_NOUNS.values()
    for table in (GROUND_PHRASES, WHERE_PHRASES, STYLE_PHRASES):
        phrases += [phrase for options in table.values() for phrase in options]
    words = [
        word
        for phrase in [*phrases, *_ENGLISH.split()]
        for word in phrase.replace("-", " ").split()
    ]
    return list(dict.fromkeys(words))


def _split(word: str, rank: dict[tuple[str, str], int]) -> list[str]:
    """Apply the merges to a word in their order, as the tokenizer will."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
        pairs = list(itertools.pairwise(parts))
        best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        at = pairs.index(best)
        parts[at : at + 2] = ["".join(best)]
    return parts


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """Return merges that make every word one token.

    A new merge ranks below all earlier ones, so it never changes a word that is one token already.
    """
    rank: dict[tuple[str, str], int] = {}
    for word in words:
        while len(parts := _split(word, rank)) > 1:
            rank[parts[0], parts[1]] = len(rank)
    return list(rank)


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt to the folder."""
    symbols = _byte_symbols()
    merges = merges_for(_words())
    tokens = [
        *symbols,
        *[s + "</w>" for s in symbols],
        *["".join(pair) for pair in merges],
        START,
        END,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *[" ".join(pair) for pair in merges]]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer to the folder and return it."""
    write_vocabulary(folder)
    tokenizer = CLIPTokenizer.from_pretrained(
        folder,
        model_max_length=CONTEXT,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
