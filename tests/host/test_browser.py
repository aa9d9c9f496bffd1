"""The pack in a browser: the real frontend in Chromium, on the classic canvas and in Nodes 2.0."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from browser import canvas
from browser.small import mini_instead, photos_for
from server import PACK, ROOT

NODES_2 = {"nodes-2": True, "classic": False}
STEPS = 12
METHOD = {"preview_every": 4, "batch_size": 1, "variants": 1}
WORKFLOWS = {path.stem: json.loads(path.read_text()) for path in ROOT.glob("workflows/*.json")}
TRY, BOXES, STYLE, INPAINT = (
    next(name for name in WORKFLOWS if word in name)
    for word in ("Try it", "in its box", "Style", "inpaint")
)

# Values of widgets, by type of node; and a record of what the server tells this tab.
PREPARE = """({ values }) => {
  const graphs = [app.graph, ...app.graph.subgraphs.values()];
  for (const node of graphs.flatMap((graph) => graph.nodes))
    for (const [name, value] of Object.entries(values[node.type] ?? {}))
      node.widgets.find((each) => each.name === name).value = value;
  const heard = { done: 0, error: null };
  window.heard = heard;
  app.api.addEventListener("execution_success", () => heard.done++);
  app.api.addEventListener("execution_error", (event) => { heard.error = event.detail; });
}"""
# As a user adds the method node: by itself a run shows eight previews, which takes a while.
WITH_METHOD = """(settings) => {
  const train = app.graph.nodes.find((node) => node.type === "CIDM_TrainConcept");
  const method = LiteGraph.createNode("CIDM_MethodCidm");
  app.graph.add(method);
  for (const [name, value] of Object.entries(settings))
    method.widgets.find((each) => each.name === name).value = value;
  method.connect(0, train, train.findInputSlot("method"));
}"""
RUN = "() => document.querySelector('[data-testid=\"queue-button\"]').click()"
ID_OF = "(type) => app.graph.nodes.find((node) => node.type === type).id"
SHOW = """({ type, at }) => {
  const { ds } = app.canvas, node = app.graph.nodes.find((each) => each.type === type);
  ds.scale = 1;
  ds.offset = [at[0] - node.pos[0], at[1] - node.pos[1]];
  app.canvas.setDirty(true, true);
}"""
# The pictures on a node now (address, width), wherever this kind of canvas keeps them.
PICTURES = {
    "classic": "(id) => app.graph.getNodeById(id).imgs ?? []",
    "nodes-2": """(id) => [...document.querySelectorAll(`[data-node-id="${id}"] img`)]""",
}
# All that a run shows at a glance: a call costs more than what it looks at.
SEEN = """(id) => ({
  heard: window.heard,
  pictures: (%s)(id).map((each) => [each.src, each.naturalWidth]),
  text: app.graph.getNodeById(id).widgets
    .find((each) => each.name === "$$node-text-preview")?.value ?? "",
})"""
PRESS = """(label) => [...document.querySelectorAll("button")]
    .find((each) => each.textContent.trim() === label).click()"""
WIDGET = """([id, name]) => app.graph.getNodeById(id).widgets
    .find((each) => each.name === name).value"""
SAVED = """() => app.nodeOutputs[app.graph.nodes.find((n) => n.type === "SaveImage").id]?.images"""


@pytest.fixture(scope="module", params=NODES_2)
def kind(request, page, server):
    """ "nodes-2", with which the page is loaded, then "classic", to which it is switched."""
    photos_for(server.base)
    page.open(server, **{"Comfy.VueNodes.Enabled": NODES_2[request.param]})
    page.errors()
    return request.param


only_nodes_2 = pytest.mark.parametrize("kind", ["nodes-2"], indirect=True, scope="module")


@dataclass
class Run:
    """What was seen while a workflow ran."""

    bank: str
    live: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    saved: list[dict[str, str]] = field(default_factory=list)


def run(page, kind, watched, seen):
    """Press Run and look at one node until the job has ended."""
    page.evaluate(RUN)
    end = time.monotonic() + 90
    while not (now := page.evaluate(SEEN % PICTURES[kind], watched))["heard"]["done"]:
        assert now["heard"]["error"] is None, now["heard"]["error"]
        assert time.monotonic() < end, "the job has not ended"
        seen.live |= {src for src, width in now["pictures"] if width}
        seen.texts.append(now["text"])
        time.sleep(0.2)
    page.wait(f"() => !!({SAVED})()")
    seen.saved = page.evaluate(SAVED)


@pytest.fixture(scope="module")
def learned(kind, page, server):
    """The first workflow, shortened, as run from the browser."""
    seen = Run(bank=f"bank-{kind}")
    assert not canvas.open_workflow(page, WORKFLOWS[TRY], TRY)
    values = {
        "CIDM_LoadConceptBank": {"new_name": seen.bank},
        "CIDM_TrainConcept": {"steps": STEPS},
        "EmptyLatentImage": {"batch_size": 1},
        "KSampler": {"steps": 2},
    }
    page.evaluate(PREPARE, {"values": values})
    page.evaluate(WITH_METHOD, METHOD)
    page.evaluate(SHOW, {"type": "CIDM_TrainConcept", "at": [500, 120]})
    run(page, kind, page.evaluate(ID_OF, "CIDM_TrainConcept"), seen)
    return seen


@only_nodes_2  # on the classic canvas all are opened by test_workflows.py
@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_it_opens(name, kind, page):
    assert not canvas.open_workflow(page, WORKFLOWS[name], name)
    if not name.endswith(".app"):
        page.wait("() => document.querySelectorAll('[data-node-id]').length > 5")
        assert page.evaluate("() => app.canvas.ds.scale") >= canvas.READABLE
    assert not page.errors()


@only_nodes_2
def test_templates_are_listed_in_their_order(kind, page):
    listed = page.evaluate("() => app.api.getWorkflowTemplates()")[PACK]
    assert listed == sorted(WORKFLOWS)


def test_a_queued_workflow_ends_with_a_picture(learned, server, page):
    pictures = [server.picture(each) for each in learned.saved]
    assert pictures
    assert all(np.asarray(each, float).std() > 5 for each in pictures)
    assert not page.errors()


def test_training_is_seen_live(learned):
    steps = [text for text in learned.texts if text.startswith("Step")]
    assert len(set(steps)) > 1
    assert all(f"of {STEPS}" in text and "loss" in text for text in steps)
    assert len(learned.live) > 1


@only_nodes_2
@pytest.mark.parametrize("name", [STYLE, INPAINT])
def test_a_photo_is_drawn_on(name, kind, page, server, learned):
    assert not canvas.open_workflow(page, mini_instead(WORKFLOWS[name]), name)
    values = {
        "KSampler": {"steps": 2},
        "CIDM_LoadConceptBank": {"new_name": learned.bank},
        "ImageScaleToTotalPixels": {"megapixels": 0.01},
        "CLIPTextEncode": {"text": "a <pip1> <pip2>"},
    }
    page.evaluate(PREPARE, {"values": values})
    run(page, kind, page.evaluate(ID_OF, "SaveImage"), seen := Run(learned.bank))
    (picture,) = (server.picture(each) for each in seen.saved)
    assert np.asarray(picture, float).std() > 5
    assert not page.errors()


class Editor:
    """The core's Create Bounding Boxes, used with the mouse."""

    def __init__(self, page):
        self.page = page
        self.node = page.evaluate(ID_OF, "CreateBoundingBoxes")
        self.place = f'[data-node-id="{self.node}"] [data-testid="bounding-boxes"]'
        page.wait("(place) => !!document.querySelector(place)", f"{self.place} canvas")
        page.evaluate(SHOW, {"type": "CreateBoundingBoxes", "at": [120, 120]})
        time.sleep(0.7)  # the canvas moves there
        page.evaluate(PRESS, "Clear all")

    def draw(self, corners, prompt):
        """A box between two corners, given as shares of the canvas."""
        canvas_px = self.page.box(f"{self.place} canvas")
        (x0, y0), (x1, y1) = corners
        at = [(self._at(canvas_px, *corner)) for corner in ((x0, y0), (x1, y1))]
        self.page.drag(*at)
        text = self.page.box(f"{self.place} textarea")
        self.page.click((text["x"] + 20, text["y"] + text["height"] - 15))
        self.page.type(prompt)

    @staticmethod
    def _at(area, x, y):
        return area["x"] + x * area["width"], area["y"] + y * area["height"]

    @property
    def boxes(self):
        state = self.page.evaluate(WIDGET, [self.node, "editor_state"])
        return [
            ([box[key] for key in ("x", "y", "width", "height")], box["metadata"]["desc"])
            for box in state
        ]


@only_nodes_2  # the core's box editor exists there only
def test_a_box_drawn_in_the_editor_reaches_the_sampler(kind, page, server, learned):
    assert not canvas.open_workflow(page, mini_instead(WORKFLOWS[BOXES]), BOXES)
    values = {
        "BasicScheduler": {"steps": 2},
        "CIDM_LoadConceptBank": {"new_name": learned.bank},
        "CreateBoundingBoxes": {"width": 128, "height": 64},
        "CLIPTextEncode": {"text": "green background"},
    }
    page.evaluate(PREPARE, {"values": values})
    editor = Editor(page)
    editor.draw(((0.5, 0.49), (0.76, 0.99)), "a <pip1> <pip2>")
    ((place, prompt),) = editor.boxes
    assert np.allclose(place, [64, 32, 32, 32])  # it snaps to a grid of 32 px
    assert prompt == "a <pip1> <pip2>"
    run(page, kind, editor.node, one := Run(learned.bank))
    editor.draw(((0.01, 0.02), (0.26, 0.98)), "a red house")
    page.evaluate("() => { window.heard.done = 0; }")
    run(page, kind, editor.node, two := Run(learned.bank))
    before, after = (server.picture(seen.saved[0]) for seen in (one, two))
    assert before.size == (128, 64)
    change = np.abs(np.asarray(before, float) - np.asarray(after, float)).mean((0, 2))
    assert change[4:28].mean() > 3 * change[48:].mean()  # in the new box, hardly beside it
    assert not page.errors()
