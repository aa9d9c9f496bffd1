"""Workflows through the frontend's own functions: build, open, convert, run."""

from __future__ import annotations

import json
from typing import Any

from .page import Page

READABLE = 0.7  # the least scale of a workflow as it opens: text of 14 px is 10 px then

# Positions are made here: the frontend's own arrangement knows no groups and no notes.
_BUILD = """async ({ api, stacks, notes, subgraphs, extra, name }) => {
  await app.loadApiJson(api, name);
  const graph = app.graph, GAP = 18, HEAD = 32, EDGE = 10;
  const nodes = new Map(graph.nodes.map((node) => [String(node.id), node]));
  let last = Math.max(...graph.nodes.map((node) => Number(node.id)));
  for (const [key, note] of Object.entries(notes)) {
    const node = LiteGraph.createNode("MarkdownNote");
    node.id = ++last;
    graph.add(node);
    node.title = note.title;
    node.widgets[0].value = note.text;
    node.size = note.size;
    node.color = "#432"; node.bgcolor = "#653";
    nodes.set(key, node);
  }
  graph.last_node_id = last;
  for (const [id, node] of Object.entries(api)) {
    const found = nodes.get(id), look = node._look;
    for (const [widget, value] of Object.entries(look.widgets ?? {})) {
      found.widgets.find((each) => each.name === widget).value = value;
    }
    for (const [widget, label] of Object.entries(look.labels ?? {})) {
      found.widgets.find((each) => each.name === widget).label = label;
      found.inputs.find((each) => each.widget?.name === widget).label = label;
    }
    const least = found.computeSize();
    found.size = [look.width, Math.max(least[1], look.height ?? 0)];
    if (look.collapsed) found.flags.collapsed = true;
    if (look.models) found.properties.models = look.models;
  }
  for (const [key, { title, inside, shown, width, height }] of Object.entries(subgraphs)) {
    const items = new Set(inside.map((id) => nodes.get(id)));
    const { subgraph, node } = graph.convertToSubgraph(items);
    subgraph.name = node.title = title;
    const widgets = node.inputs.filter((slot) => slot.widget).map((slot) => slot.name);
    subgraph.inputs.filter(({ name }) => widgets.includes(name) && !shown.includes(name))
      .forEach((input) => subgraph.removeInput(input));
    for (const name of shown.filter((each) => !widgets.includes(each))) {  // not by themselves
      const isIt = (slot) => slot.widget?.name === name;
      const target = subgraph.nodes.find((each) => each.inputs.some(isIt));
      const slot = target.inputs.find(isIt), input = subgraph.addInput(name, slot.type);
      subgraph.inputNode.slots.find((each) => each.id === input.id).connect(slot, target);
    }
    node.size = [width, Math.max(node.computeSize()[1], height ?? 0)];
    nodes.set(key, node);
  }
  let left = 0;
  for (const stack of stacks) {
    let top = 0, right = left;
    for (const group of stack) {
      let x = left + EDGE, low = top;
      for (const column of group.columns) {
        let y = top + (group.title ? 68 : HEAD), wide = 0;
        for (const key of column) {
          const node = nodes.get(key);
          node.pos = [x, y];
          y += (node.flags.collapsed ? 0 : node.size[1]) + HEAD + GAP;
          wide = Math.max(wide, node.size[0]);
        }
        low = Math.max(low, y - HEAD - GAP + EDGE);
        x += wide + 2 * EDGE;
      }
      const made = new LiteGraph.LGraphGroup(group.title);
      made.pos = [left, top];
      made.size = [x - EDGE - left, low - top];
      made.color = group.color;
      if (group.title) graph.add(made);
      right = Math.max(right, x - EDGE);
      top = low + EDGE;
    }
    left = right + EDGE;
  }
  Object.assign(graph.extra, extra);
  app.canvas.ds.reset();
  return graph.serialize();
}"""
_OPEN = """async ({ workflow, name }) => {
  await app.loadGraphData(workflow, true, true, name, { openSource: "template" });
  const missing = [];
  const visit = (graph) => graph.nodes.forEach((node) => {
    if (node.subgraph) visit(node.subgraph);
    else if (!LiteGraph.registered_node_types[node.type]) missing.push(node.type);
  });
  visit(app.graph);
  return missing;
}"""
# The frontend makes the subgraph; then its sockets get their order, its widgets are shown outside,
# and what is around it goes.
_WRAP = """async ({ inside, shown, outputs, name, description, category, sockets }) => {
  const graph = app.graph;
  const items = new Set(graph.nodes.filter((node) => inside.includes(String(node.id))));
  items.forEach((node) => { node.properties.was = String(node.id); });  // they get new ones
  const { subgraph, node } = graph.convertToSubgraph(items);
  subgraph.name = node.title = name;
  const byId = (id) => subgraph.nodes.find((each) => each.properties.was === id);
  for (const [label, id, widget] of shown) {
    const target = byId(id);
    const slot = target.inputs.find((each) => each.widget?.name === widget);
    const input = subgraph.addInput(label, slot.type);
    const at = subgraph.inputNode.slots.find((each) => each.id === input.id);
    at.connect(slot, target);
  }
  for (const [label, id, number] of outputs) {
    const slot = byId(id).outputs[number];
    const output = subgraph.addOutput(label, slot.type);
    subgraph.outputNode.slots.find((each) => each.id === output.id).connect(slot, byId(id));
  }
  [...subgraph.inputs].filter((each) => !each.linkIds.length)
    .forEach((each) => subgraph.removeInput(each));
  subgraph.nodes.forEach((each) => { delete each.properties.was; });
  for (const [old, label] of Object.entries(sockets)) {
    for (const slot of [...subgraph.inputs, ...subgraph.outputs]) {
      if (slot.name === old) slot.label = label;
    }
  }
  subgraph.arrange?.();
  node.pos = [0, 0];
  node.setSize([420, node.computeSize()[1]]);
  const whole = graph.serialize();
  const found = whole.nodes.find((each) => each.type === subgraph.id);
  found.inputs.forEach((each) => { each.link = null; });
  found.outputs.forEach((each) => { each.links = []; });
  for (const slot of [...found.inputs, ...found.outputs]) {
    if (sockets[slot.name]) slot.label = sockets[slot.name];
  }
  const definition = whole.definitions.subgraphs.find((each) => each.id === found.type);
  Object.assign(definition, { name, description, category });
  return {
    revision: 0, last_node_id: found.id, last_link_id: 0, nodes: [found], links: [],
    version: whole.version, definitions: { subgraphs: [definition] }, extra: {},
  };
}"""


def wrap(page: Page, spec: dict[str, Any]) -> dict[str, Any]:
    """A blueprint: the nodes `inside` of what is shown as one subgraph node."""
    return page.evaluate(_WRAP, spec)


def build(page: Page, spec: dict[str, Any]) -> dict[str, Any]:
    """UI format of a workflow: {"api", "stacks", "notes", "subgraphs", "extra", "name"}."""
    return page.evaluate(_BUILD, spec)


def open_workflow(page: Page, workflow: dict[str, Any], name: str = "workflow") -> list[str]:
    """Show a workflow; the types of nodes the frontend has missed."""
    return page.evaluate(_OPEN, {"workflow": workflow, "name": name})


def to_prompt(page: Page) -> dict[str, Any]:
    """API format of what is shown."""
    made = page.evaluate("async () => (await app.graphToPrompt()).output")
    return json.loads(json.dumps(made))


_AROUND = """async ({ around, widgets }) => {
  const graph = app.graph, nodes = { subgraph: graph.nodes[0] };
  const put = (node, values) => {
    for (const [name, value] of Object.entries(values)) {
      node.widgets.find((each) => each.name === name).value = value;
    }
  };
  put(nodes.subgraph, widgets);
  for (const [key, [type, values]] of Object.entries(around.nodes)) {
    nodes[key] = LiteGraph.createNode(type);
    graph.add(nodes[key]);
    put(nodes[key], values);
  }
  for (const [from, slot, to, input] of around.links) {
    nodes[from].connect(slot, nodes[to], nodes[to].findInputSlot(input));
  }
  return (await app.graphToPrompt()).output;
}"""


def with_nodes_around(
    page: Page, around: dict[str, Any], widgets: dict[str, Any]
) -> dict[str, Any]:
    """API format of the one subgraph node shown, with other nodes connected to it."""
    return page.evaluate(_AROUND, {"around": around, "widgets": widgets})
