"""The tab *Concepts* in a browser, as a user works with it: classic canvas and Nodes 2.0."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
from bank_samples import make_concept
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.storage.concept_file import concept_to_bytes
from cidm_core.upkeep.versions import versions

NODES_2 = {"nodes-2": True, "classic": False}
TAB = ".cidm-concepts-tab-button"
SAID = "() => document.querySelector('.cidm-said > span')?.textContent ?? ''"
NAMES = "() => [...document.querySelectorAll('.cidm-card')].map((each) => each.dataset.name)"
OFFERED = (
    "(name) => [...document.querySelectorAll('.cidm-tab option')].some((o) => o.value === name)"
)
CHOOSE = """(name) => {
  const choice = document.querySelector(".cidm-bar select");
  choice.value = name;
  choice.dispatchEvent(new Event("change"));
}"""
SHOW_GRAPH = """async (api) => {
  await app.loadApiJson(api, "gallery");
  app.graph.arrange();
  const heard = { done: 0, error: null };
  window.heard = heard;
  app.api.addEventListener("execution_success", () => heard.done++);
  app.api.addEventListener("execution_error", (event) => { heard.error = event.detail; });
}"""
SET = """([id, name, value]) => {
  app.graph.getNodeById(id).widgets.find((each) => each.name === name).value = value;
}"""
RUN = """() => {
  window.heard.done = 0;
  document.querySelector('[data-testid="queue-button"]').click();
}"""
DONE = "() => window.heard.done || window.heard.error || !!app.lastNodeErrors"
DRAWN = "(id) => app.nodeOutputs[id]?.images?.[0]"
# A node is moved to where nothing lies on it, and its text marked for the mouse.
TEXT = """([id, name]) => {
  const node = app.graph.getNodeById(id), { ds } = app.canvas;
  ds.scale = 1;
  ds.offset = [900 - node.pos[0], 200 - node.pos[1]];
  app.canvas.setDirty(true, true);
  document.querySelectorAll("[data-aim]").forEach((each) => each.removeAttribute("data-aim"));
  const inNode = document.querySelector(`[data-node-id="${id}"] textarea`);
  (inNode ?? node.widgets.find((each) => each.name === name).element).dataset.aim = "";
}"""
PROMPT = "async (id) => (await app.graphToPrompt()).output[id].inputs"
FOCUSED = """() => {
  const at = document.activeElement, style = getComputedStyle(at);
  const name = at.closest("[data-name]")?.dataset.name ?? at.textContent;
  return [at.tagName, name, style.outlineStyle !== "none" && style.outlineWidth !== "0px"];
}"""
NAMELESS = """() => {
  const all = (selector) => [...document.querySelectorAll(`.cidm-tab ${selector}`)];
  const named = (each) => each.textContent.trim() || each.ariaLabel || each.closest("label");
  return [...all(":is(button, select, input)").filter((each) => !named(each)),
    ...all("img").filter((each) => !each.alt)].map((each) => each.outerHTML);
}"""
DEAF = "() => { app.api.fetchApi = () => Promise.reject(new TypeError('Failed to fetch')); }"
HEARS = """() => {
  delete app.api.fetchApi;
  app.api.dispatchEvent(new CustomEvent("reconnected"));
}"""
SELECT_A_NODE = """() => {
  window.selected = LiteGraph.createNode("CLIPTextEncode");
  app.graph.add(selected);
  app.canvas.selectItems([selected]);
}"""
SPEAK = """async (language) => {
  app.graph.nodes.forEach((each) => { each.isOld = true; });
  await app.extensionManager.setting.set("Comfy.Locale", language);
}"""
TITLE = "(name) => document.querySelector('.cidm-tab h2')?.textContent === name"


@pytest.fixture(scope="module", params=NODES_2)
def kind(request, page, server):
    """ "nodes-2", with which the page is loaded, then "classic", to which it is switched."""
    page.open(server, **{"Comfy.VueNodes.Enabled": NODES_2[request.param]})
    page.errors()
    yield request.param
    if page.evaluate("() => !!document.querySelector('.cidm-tab')"):
        page.click_on(TAB)  # it would lie on the nodes of other tests


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def training(bank, photos, name):
    """Inputs that teach one of the cats in a few steps."""
    return {
        "model": ["1", 0],
        "clip": ["1", 1],
        "vae": ["1", 2],
        "bank": bank,
        "images": [photos, 0],
        "captions": [photos, 1],
        "method": ["9", 0],
        "words": f"<{name}1> <{name}2>",
        "class_words": "cat",
        "kind": "object",
        "preset": "Balanced",
        "photo_folder": "",
        "name": name,
        "steps": 4,
        "seed": 1,
    }


def workflow(bank):
    """Two concepts taught one after the other, and a picture drawn with the bank."""
    quick = {"batch_size": 1, "variants": 1, "save_every": 0, "preview_every": 0}
    return {
        "1": node("CIDM_LoadMiniModel", model="mini-sd"),
        "2": node("CIDM_LoadConceptBank", bank="(new bank)", new_name=bank),
        "3": node("CIDM_MiniPhotos", look="purple cat"),
        "4": node("CIDM_MiniPhotos", look="teal cat"),
        "5": node("CIDM_TrainConcept", **training(["2", 0], "3", "pip")),
        "6": node("CIDM_TrainConcept", **training(["5", 0], "4", "tia")),
        "7": node("CIDM_ConceptStrengths", bank=["6", 0], strengths=""),
        "8": node("CIDM_ApplyConceptBank", model=["1", 0], clip=["1", 1], bank=["7", 0]),
        "9": node("CIDM_MethodCidm", **quick),
        "10": node("CLIPTextEncode", clip=["8", 1], text="a photo of a"),
        "11": node("CLIPTextEncode", clip=["8", 1], text=""),
        "12": node("EmptyLatentImage", width=32, height=32, batch_size=1),
        "13": node(
            "KSampler",
            model=["8", 0],
            positive=["10", 0],
            negative=["11", 0],
            latent_image=["12", 0],
            seed=1,
            steps=3,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "14": node("VAEDecode", samples=["13", 0], vae=["1", 2]),
        "15": node("SaveImage", images=["14", 0], filename_prefix="gallery"),
    }


@dataclass
class Tab:
    """The tab, worked with by mouse and keyboard."""

    page: object
    server: object
    bank: Bank

    def open(self):
        if self.page.evaluate("() => !!document.querySelector('.cidm-tab')"):
            self.page.click_on(TAB)
        self.page.click_on(TAB)
        self.page.wait(OFFERED, self.bank.path.name)
        self.page.evaluate(CHOOSE, self.bank.path.name)
        self.until_listed(list(self.bank))

    def until_listed(self, names):
        same = f"(names) => JSON.stringify(({NAMES})()) === JSON.stringify(names)"
        self.page.wait(same, names)

    def until_said(self, text):
        try:
            self.page.wait(f"(text) => ({SAID})().includes(text)", text)
        except RuntimeError as error:
            raise AssertionError(f"{self.page.evaluate(SAID)!r}, not {text!r}") from error

    def press(self, label, inside=".cidm-tab"):
        self.page.click_on(f'{inside} :is(button, a):text-is("{label}")')

    def confirm(self, label):
        self.press(label, "[role=dialog]")

    def show(self, name):
        self.page.click_on(f'[data-name="{name}"] .cidm-open')
        self.page.wait(
            "(name) => document.querySelector('.cidm-tab h2')?.textContent === name", name
        )

    def run(self):
        """Press Run; the picture that is drawn."""
        self.page.evaluate(RUN)
        self.page.wait(DONE, timeout=90)
        assert not self.page.evaluate("() => window.heard.error ?? app.lastNodeErrors")
        time.sleep(0.1)
        return np.asarray(self.server.picture(self.page.evaluate(DRAWN, "15")), float)

    def into_text(self, node, name):
        """Put the cursor to the end of a text on a node."""
        self.page.evaluate(TEXT, [node, name])
        time.sleep(0.6)  # the canvas moves there
        self.page.click_on("[data-aim]")
        self.page.press("Control+End")

    def prompt(self, node):
        return self.page.evaluate(PROMPT, node)


@pytest.fixture(scope="module")
def taught(kind, page, server):
    """Two concepts taught through nodes, while the tab is open on another bank."""
    folder = server.base / "models" / "concept_banks"
    Bank(folder / "others").path.mkdir(parents=True, exist_ok=True)
    tab = Tab(page, server, Bank(folder / f"taught {kind}"))
    page.evaluate(SHOW_GRAPH, workflow(tab.bank.path.name))
    tab.run()
    tab.open()
    return tab


def test_the_taught_concepts_are_found_by_their_words(taught, page):
    assert page.evaluate(NAMES) == ["pip", "tia"]
    page.wait("() => [...document.querySelectorAll('.cidm-card img')].every((i) => i.naturalWidth)")
    page.click_on(".cidm-tab input[type=search]")
    page.type("TIA2 cidm obj")
    taught.until_listed(["tia"])
    assert page.evaluate("() => document.querySelector('.cidm-count').textContent") == (
        "1 of 2 concepts"
    )
    page.press("Escape")
    taught.until_listed(["pip", "tia"])
    assert not page.errors()


def test_words_go_into_a_text_by_a_click_and_a_strength_acts(taught, page):
    taught.into_text("10", "text")
    page.click_on('[data-name="pip"] .cidm-words button')
    taught.until_said("“<pip1> <pip2>” is in the text")
    assert taught.prompt("10")["text"] == "a photo of a <pip1> <pip2>"
    page.type(", a ")
    page.click_on('[data-name="tia"] .cidm-words button')
    assert taught.prompt("10")["text"] == "a photo of a <pip1> <pip2>, a <tia1> <tia2>"
    page.press("Control+A")
    page.click_on('[data-name="tia"] .cidm-words button')
    assert taught.prompt("10")["text"] == "<tia1> <tia2>"
    page.press("Control+Z")
    assert taught.prompt("10")["text"] == "a photo of a <pip1> <pip2>, a <tia1> <tia2>"
    drawn = taught.run()
    taught.into_text("7", "strengths")
    page.type("pip = 0\ntia = 3.5")
    assert taught.prompt("7")["strengths"] == "pip = 0\ntia = 3.5"
    assert np.abs(taught.run() - drawn).mean() > 0.5
    assert not page.errors()


def test_words_go_into_no_text_that_cannot_be_seen(taught, page):
    taught.into_text("10", "text")
    before = taught.prompt("10")["text"]
    page.evaluate("() => { document.querySelector('[data-aim]').style.display = 'none'; }")
    page.click_on('[data-name="pip"] .cidm-words button')
    page.wait(f"() => !({SAID})().includes('is in the text')")
    page.evaluate("() => { document.querySelector('[data-aim]').style.display = ''; }")
    assert taught.prompt("10")["text"] == before


def test_one_is_replaced_by_training_and_comes_back(taught, page):
    for name, value in (("steps", 6), ("again", "replace")):
        page.evaluate(SET, ["6", name, value])
    taught.run()
    (former,) = versions(taught.bank, "tia")
    taught.show("tia")
    page.wait("() => !!document.querySelector('.cidm-loss')")
    facts = page.evaluate("() => document.querySelector('.cidm-facts').innerText")
    assert "steps\n6" in facts
    taught.press("Compare")
    page.wait("() => document.querySelectorAll('.cidm-pair img').length === 2")
    taught.press("Go back to it")
    taught.until_said("“tia” is version 1 again")
    assert taught.bank["tia"].facts["steps"] == former.entry.facts["steps"] == 4
    taught.press("Undo")
    taught.until_said("Undone")
    assert taught.bank["tia"].facts["steps"] == 6
    page.press("Escape")
    taught.until_listed(["pip", "tia"])
    assert not page.errors()


@pytest.fixture
def pets(kind, page, server, tmp_path):
    """The tab on a bank of three concepts and a damaged file."""
    bank = Bank(server.base / "models" / "concept_banks" / f"pets {kind} {tmp_path.name}")
    for i, name in enumerate(("dog", "cat", "<b>owl</b> & 王")):
        words = (f"<w{i}a>", f"<w{i}b>")
        bank.add(make_concept(name, words), Image.new("RGB", (90, 90), (90 * i, 60, 200)))
    tab = Tab(page, server, bank)
    tab.open()
    yield tab
    assert not page.errors()


def test_it_is_used_by_keyboard_alone(pets, page):
    page.click_on(".cidm-tab input[type=search]")
    for _ in range(2):
        page.press("Tab")
    assert page.evaluate(FOCUSED) == ["BUTTON", "dog", True]
    page.press("End")
    assert page.evaluate(FOCUSED)[1] == "<b>owl</b> & 王"
    page.press("Home")
    page.evaluate(SELECT_A_NODE)
    page.press("Delete")
    assert page.evaluate("() => app.graph.nodes.includes(selected)")
    page.evaluate("() => app.graph.remove(selected)")
    page.press("ArrowRight")
    assert page.evaluate(FOCUSED) == ["BUTTON", "cat", True]
    page.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "<w1a> <w1b>"
    page.press("Shift+Tab")
    page.press("Enter")
    page.wait("() => document.activeElement.tagName === 'H2'")
    assert page.evaluate(FOCUSED)[1] == "cat"
    assert not page.evaluate(NAMELESS)
    page.press("Escape")
    page.wait("() => document.activeElement.matches('.cidm-open')")
    assert page.evaluate(FOCUSED)[1] == "cat"
    assert not page.evaluate(NAMELESS)


def test_a_concept_is_renamed_removed_and_restored(pets, page):
    pets.show("dog")
    pets.press("Rename")
    page.click_on("[role=dialog] input")
    page.press("Control+A")
    page.type("Rex ..")
    page.press("Enter")
    pets.until_said("“dog” is now called “Rex ..”")
    assert next(iter(pets.bank)) == "Rex .."
    pets.press("Undo")
    pets.until_said("Undone")
    assert next(iter(pets.bank)) == "dog"
    pets.press("Remove")
    pets.confirm("Delete")
    pets.until_said("Removed “dog”")
    pets.until_listed(["cat", "<b>owl</b> & 王"])
    assert list(pets.bank) == ["cat", "<b>owl</b> & 王"]
    pets.press("Undo")
    pets.until_listed(["dog", "cat", "<b>owl</b> & 王"])
    assert next(iter(pets.bank)) == "dog"


def test_an_undo_is_not_offered_for_another_bank(pets, page):
    (pets.bank.path.parent / "others").mkdir(exist_ok=True)
    pets.show("dog")
    pets.press("Remove")
    pets.confirm("Delete")
    pets.until_said("Removed “dog”")
    page.evaluate(CHOOSE, "others")
    pets.until_listed([])
    assert page.evaluate(SAID) == ""


def test_without_an_answer_of_the_server_all_stays_as_it_is(pets, page):
    page.evaluate(DEAF)
    page.click_on('[data-name="dog"] .cidm-open')
    pets.until_said("ComfyUI does not answer")
    page.click_on(".cidm-tab .pi-trash")
    assert page.evaluate(NAMES) == list(pets.bank)
    page.evaluate(HEARS)
    page.wait(f"() => !({SAID})()")
    pets.show("dog")
    page.click_on(".cidm-tab summary")
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    time.sleep(0.3)
    assert page.evaluate("() => document.querySelector('.cidm-tab details').open")


def test_a_file_takes_its_place_and_a_picture_is_chosen(pets, page, tmp_path):
    other = make_concept("hound", ("<w0a>", "<w0b>"), facts={"steps": 77})
    (tmp_path / "hound.safetensors").write_bytes(concept_to_bytes(other))
    Image.new("RGB", (200, 100), "lime").save(tmp_path / "lime.webp", lossless=True)
    pets.show("dog")
    page.choose(".cidm-file input", tmp_path / "hound.safetensors")
    pets.confirm("Overwrite")
    pets.until_said("“dog” was replaced")
    assert pets.bank["dog"].facts["steps"] == 77
    pets.press("Undo")
    pets.until_said("Undone")
    assert pets.bank["dog"].config["steps"] == 800
    pets.press("New picture")
    page.wait(TITLE, "A new picture for “dog”")
    page.choose(".cidm-file input", tmp_path / "lime.webp")
    pets.until_said("“dog” has a new picture")
    with Image.open(pets.bank.path / "dog.png") as picture:
        assert picture.convert("RGB").getpixel((9, 9)) == (0, 255, 0)


def test_a_drawn_picture_becomes_the_preview(taught, pets, page):
    pets.show("cat")
    pets.press("New picture")
    page.click_on(".cidm-outputs button")
    pets.until_said("“cat” has a new picture")
    with Image.open(pets.bank.path / "cat.png") as picture:
        assert picture.size == (32, 32)


def test_what_changed_elsewhere_is_not_changed_here(pets, page):
    pets.show("dog")
    pets.bank.add(
        make_concept("dog", ("<w0a>", "<w0b>"), facts={"steps": 5}),
        replaces=pets.bank.entries()[0],
    )
    pets.press("Remove")
    pets.confirm("Delete")
    pets.until_said("'dog' was changed meanwhile")
    assert pets.bank["dog"].facts["steps"] == 5
    page.wait("() => document.querySelector('.cidm-facts').innerText.includes('steps\\n5')")


def test_a_damaged_file_and_an_empty_bank_are_told(pets, page):
    (pets.bank.path / "duck.safetensors").write_bytes(b"no concept")
    page.click_on(".cidm-tab .pi-refresh")
    pets.until_listed([*pets.bank, "duck"])
    reason = page.evaluate("() => document.querySelector('.cidm-reason').textContent")
    assert "duck.safetensors" in reason
    pets.press("Remove", '[data-name="duck"]')
    pets.confirm("Delete")
    pets.until_said("Removed “duck”")
    assert not pets.bank.broken()


def speak(page, language):
    """Change the page's language; until it has loaded the workflow anew, over all that is there."""
    page.evaluate(SPEAK, language)
    page.wait("() => app.graph.nodes.length && !app.graph.nodes.some((each) => each.isOld)")


def test_it_speaks_chinese(pets, page):
    page.evaluate(SHOW_GRAPH, workflow("any"))
    try:
        speak(page, "zh")
        page.click_on(TAB)
        page.click_on(TAB)
        page.wait("() => document.querySelector('.cidm-count')?.textContent === '3 个概念'")
    finally:
        speak(page, "en")
        page.click_on(TAB)
