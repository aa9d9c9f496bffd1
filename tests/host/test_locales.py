"""The texts of the nodes in ComfyUI's locales: English from the schemas, Chinese beside it."""

import json
import re

import pytest
from server import ROOT

RENEW = "$COMFYUI_PYTHON tests/host/inside/run.py $COMFYUI_PATH tests/tools/make_locales.py write"


def read(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def flat(texts, path=""):
    """Path -> text of every leaf."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key, value


@pytest.fixture(scope="module")
def english():
    return dict(flat(read("en")))


@pytest.fixture(scope="module")
def chinese():
    return dict(flat(read("zh")))


def test_english_is_what_the_schemas_say(in_host, english):
    found = in_host(ROOT / "tests" / "tools" / "make_locales.py")
    assert dict(flat(found)) == english, f"Renew it: {RENEW}"


def test_chinese_has_every_text(english, chinese):
    assert set(chinese) == set(english)


def test_chinese_tooltips_hold_the_same_numbers(english, chinese):
    """A default that changes in English would otherwise stay in Chinese."""
    other = {
        key: (found, wanted)
        for key, text in english.items()
        if key.endswith("tooltip") and (found := numbers(chinese[key])) != (wanted := numbers(text))
    }
    assert not other


def numbers(text):
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def test_chinese_is_chinese(chinese):
    kinds = ("tooltip", "description", "display_name")
    assert not [
        key for key, text in chinese.items()
        if key.endswith(kinds) and not re.search("[\u4e00-\u9fff]", text)
    ]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_text_is_taken_for_a_format_string(language):
    """The frontend reads names and descriptions, and older ones tooltips, as vue-i18n messages."""
    bad = [key for key, text in flat(read(language)) if re.search(r"[{}|@]", text)]
    assert not bad
