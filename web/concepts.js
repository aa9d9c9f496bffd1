// The sidebar tab "Concepts": banks with their concepts as cards. What it shows and changes is the
// server's (nodes/gallery); it keeps nothing itself but which bank was open and how it was sorted.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SLICE = 60; // cards that are there at once; the others follow in slices
const OUTPUTS = 24; // drawn pictures to choose a preview from
const TINY_PX = 64; // a picture up to here is shown as sharp squares
const MEMORY = "cidm.concepts";
const CHANGED = "cidm_bank_changed"; // the server's event

const language = () => (app.extensionManager.setting.get("Comfy.Locale") ?? "en").slice(0, 2);
const remembered = JSON.parse(localStorage.getItem(MEMORY) ?? "{}");
const state = { banks: [], bank: remembered.bank ?? "", concepts: [], broken: [] };
let texts = {};
let view = { kind: "list" };
let here = null; // the card that the keyboard is at
let target = null; // the text on a node that the cursor was in last
let inside = false; // whether keyboard or mouse were in the tab last

const t = (key, values = {}) =>
  (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

const h = (tag, ...rest) => dress(document.createElement(tag), ...rest);
const svg = (tag, ...rest) => dress(document.createElementNS("http://www.w3.org/2000/svg", tag), ...rest);

function dress(made, attributes = {}, ...children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((each) => each !== null && each !== undefined));
  return made;
}
const button = (label, onclick, attributes = {}) => h("button", { type: "button", onclick, ...attributes }, label);
const iconButton = (icon, label, onclick) =>
  button(h("i", { class: `pi pi-${icon}`, "aria-hidden": "true" }), onclick, { title: label, "aria-label": label });

// --- the server -------------------------------------------------------------------------------

const fetched = (path, options) =>
  api.fetchApi(path, options).catch(() => { throw new Error(t("no_server")); });

async function ask(route, fields, options) {
  const answer = await fetched(`/cidm/${route}?${new URLSearchParams(fields)}`, options);
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  const { status } = answer;
  throw Object.assign(new Error(told.error ?? t("failed", { status })), { status });
}
const post = (type, body) => ({ method: "POST", headers: { "Content-Type": type }, body });
const change = (route, fields) =>
  ask(route, {}, post("application/json", JSON.stringify({ bank: state.bank, ...fields })));
const send = (route, fields, file) =>
  ask(route, { bank: state.bank, ...fields }, post("application/octet-stream", file));
const address = (route, fields) =>
  api.apiURL(`/cidm/${route}?${new URLSearchParams({ bank: state.bank, ...fields })}`);
const stampOf = (name) => state.concepts.find((each) => each.name === name)?.stamp ?? "";
const seen = (item) => ({ name: item.name, stamp: item.stamp });

/** Do something that may fail, say so, and show what is there now. */
async function act(work) {
  try {
    const said = await work();
    await refresh();
    if (said) say(...said);
  } catch (error) {
    await refresh();
    say(error.message, { error: true });
  }
}

function undo(work) {
  return () => act(async () => {
    await work();
    return [t("undone")];
  });
}

// --- what the page is made of ------------------------------------------------------------------

const said = h("div", { class: "cidm-said", role: "status", "aria-live": "polite" });
const body = h("div", { class: "cidm-body" });
const list = h("ul", { class: "cidm-cards", role: "list", onkeydown: moveAmongCards });
const count = h("div", { class: "cidm-count", "aria-live": "polite" });
const bankChoice = h("select", { class: "cidm-wide", onchange: () => openBank(bankChoice.value) });
const find = h("input", { class: "cidm-wide", type: "search", oninput: () => drawCards() });
const sortChoice = h("select", { onchange: () => { remember(); drawCards(); } });
const head = h("div", {});
const root = h("section", { class: "cidm-tab", onkeydown: useKey }, head, body, said);

const file = (name) => new URL(`./${name}`, import.meta.url);
const styled = () => new Promise((loaded) => {
  document.head.append(h("link", { rel: "stylesheet", href: file("concepts.css"), onload: loaded, onerror: loaded }));
});

/** Everything in the language of the settings. */
async function build(inLanguage) {
  const answer = await fetch(file(`concepts/${inLanguage === "zh" ? "zh" : "en"}.json`), { cache: "no-cache" });
  texts = await answer.json();
  cards.clear();
  const labels = [[root, "concepts"], [list, "concepts"], [bankChoice, "bank"], [find, "find"], [sortChoice, "sort"]];
  for (const [made, key] of labels) made.setAttribute("aria-label", t(key));
  find.placeholder = t("find");
  choices(sortChoice, Object.keys(SORTS), remembered.sort, (key) => t(`sort_${key}`));
  head.replaceChildren(
    h("div", { class: "cidm-bar" }, bankChoice,
      iconButton("refresh", t("refresh"), () => refresh()),
      iconButton("trash", t("removed_list"), () => show({ kind: "removed" }))),
    h("div", { class: "cidm-bar" }, find, sortChoice),
    count,
  );
}

function say(text, { again, error } = {}) {
  said.classList.toggle("cidm-error", !!error);
  said.replaceChildren(...(text ? [h("span", {}, text), again ? button(t("undo"), again) : ""] : []));
  holdFocus();
}

/** The keyboard stays in the tab when what it was at has gone. */
function holdFocus() {
  if (!inside || document.activeElement !== document.body) return;
  const at = view.kind === "list" ? cardOf(here)?.querySelector("button") : body.querySelector("h2");
  at?.focus({ preventScroll: true });
}

const choices = (select, values, chosen, label) =>
  select.replaceChildren(...values.map((value) => h("option", { value, selected: value === chosen }, label(value))));
const remember = () =>
  localStorage.setItem(MEMORY, JSON.stringify({ bank: state.bank, sort: sortChoice.value }));

async function openBank(name) {
  state.bank = name;
  here = null;
  view = { kind: "list" };
  say(""); // an undo would act on this bank
  remember();
  await refresh();
}

/** What is in the bank now, or in the first one if it is gone. */
async function lookUp() {
  try {
    if (state.bank) return await ask("concepts", { bank: state.bank });
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  const { banks } = await ask("banks", {});
  return banks.length ? ask("concepts", { bank: banks[0] }) : { banks, bank: "", concepts: [], broken: [] };
}

/** Ask the server what is there, and show it. */
async function refresh(looking = lookUp()) {
  try {
    const { banks, bank, concepts, broken } = await looking;
    if (bank !== state.bank || said.textContent === t("no_server")) say("");
    Object.assign(state, { banks, bank, concepts, broken });
  } catch (error) {
    say(error.message, { error: true });
  }
  choices(bankChoice, state.banks, state.bank, (name) => name);
  bankChoice.disabled = head.querySelector(".pi-trash").parentNode.disabled = !state.banks.length;
  await show(view);
}

const VIEWS = { list: drawCards, concept: drawConcept, removed: drawRemoved, outputs: drawOutputs };

async function show(next) {
  const former = view;
  const other = next.kind !== former.kind || next.name !== former.name;
  view = next;
  try {
    await VIEWS[next.kind](next);
    if (view !== next) return; // one has gone elsewhere meanwhile
  } catch (error) {
    if (view !== next) return;
    view = error.status === 404 ? { kind: "list" } : former; // gone meanwhile, or as it was
    if (error.status === 404) await refresh();
    return say(error.message, { error: true });
  }
  head.hidden = next.kind !== "list";
  if (other && next.kind !== "list") {
    body.scrollTop = 0;
    body.querySelector("h2")?.focus();
  }
  holdFocus();
}

/** The body of a view, if it is still wanted. */
function fill(of, title, ...parts) {
  if (view !== of) return;
  const bar = h("div", { class: "cidm-title" },
    iconButton("arrow-left", t("back"), leave), h("h2", { tabindex: -1, title }, title));
  const top = body.scrollTop;
  body.replaceChildren(bar, ...parts.filter(Boolean));
  body.scrollTop = top;
}

async function leave() {
  const { name } = view;
  await show(view.kind === "outputs" ? { kind: "concept", name } : { kind: "list" });
  if (view.kind === "list") cardOf(name ?? here)?.querySelector("button").focus();
}

function useKey(event) {
  if (/^(Delete|Backspace)$/.test(event.key)) event.stopPropagation(); // the selected nodes are not meant
  if (event.key !== "Escape") return;
  if (view.kind !== "list") leave();
  else if (find.value) { find.value = ""; drawCards(); }
  else return;
  event.stopPropagation();
  event.preventDefault();
}

// --- cards -------------------------------------------------------------------------------------

const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
const SORTS = {
  order: (a, b) => a.order - b.order,
  name: byName,
  created: (a, b) => b.created.localeCompare(a.created) || b.order - a.order,
  bytes: (a, b) => b.bytes - a.bytes || byName(a, b),
};
const cards = new Map(); // made once, by what they show
let filling = 0;
let listTop = 0;

function drawCards() {
  const terms = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (item) => {
    const { name, words = [], class_words, kind, method, family, error } = item;
    const text = [name, ...words, class_words, kind, method, family, error].join("\n").toLowerCase();
    return terms.every((term) => text.includes(term));
  };
  const found = [...state.concepts].sort(SORTS[sortChoice.value] ?? SORTS.order).filter(fits);
  const broken = state.broken.filter(fits);
  const n = state.concepts.length;
  count.textContent = terms.length ? t("concepts_found", { found: found.length, n }) : t("concepts_count", { n });
  if (view.kind !== "list") return;
  const empty = !state.bank ? "no_bank" : !n && !state.broken.length ? "empty_bank" : "nothing_found";
  if (!found.length && !broken.length) return body.replaceChildren(h("p", { class: "cidm-empty" }, t(empty)));
  const back = list.parentNode !== body;
  if (back) body.replaceChildren(list);
  const items = [...found, ...broken];
  if (!items.some((item) => item.name === here)) here = items[0].name;
  place(items);
  if (back) body.scrollTop = listTop;
}

/** Put cards into the list: what is seen at once, the rest in slices. */
function place(items) {
  const turn = ++filling, focused = list.contains(document.activeElement) ? document.activeElement : null;
  const first = Math.max(SLICE, list.childElementCount);
  list.replaceChildren(...items.slice(0, first).map(card));
  focused?.isConnected && focused.focus({ preventScroll: true });
  const more = (from) => {
    if (turn !== filling || from >= items.length) return;
    list.append(...items.slice(from, from + SLICE).map(card));
    setTimeout(more, 0, from + SLICE);
  };
  setTimeout(more, 0, first);
}

function card(item) {
  const key = JSON.stringify([state.bank, item]);
  if (!cards.has(key)) {
    if (cards.size > 5000) cards.clear();
    cards.set(key, item.error ? brokenCard(item) : soundCard(item));
  }
  const made = cards.get(key);
  reach(made, item.name === here);
  return made;
}

function soundCard(item) {
  const { name, words, kind, method, family } = item;
  const label = t("open", { name, words: words.join(", "), kind, method, family });
  const facts = [[item.class_words, kind], [method, family], [steps(item), size(item.bytes)], [day(item.created)]];
  return h("li", { class: "cidm-card", "data-name": name },
    h("button", { type: "button", class: "cidm-open", "aria-label": label, title: name, onclick: () => open(name) },
      picture(item, { name }), h("span", { class: "cidm-name" }, name)),
    wordButtons(words),
    h("div", { class: "cidm-meta" }, facts.map((line) => h("div", {}, line.filter(Boolean).join(" · ")))));
}

function brokenCard(item) {
  return h("li", { class: "cidm-card cidm-broken", "data-name": item.name },
    h("span", { class: "cidm-name", title: item.name }, item.name),
    h("div", { class: "cidm-reason" }, `${t("broken")}: ${item.error}`),
    button(t("remove"), () => remove(item)));
}

const open = (name) => {
  here = name;
  return show({ kind: "concept", name });
};
const cardOf = (name) => [...list.children].find((each) => each.dataset.name === name);
const reach = (made, on) => made.querySelectorAll("button").forEach((each) => { each.tabIndex = on ? 0 : -1; });

function moveAmongCards(event) {
  const all = [...list.children], at = all.indexOf(event.target.closest("li"));
  const columns = all.findIndex((each) => each.offsetTop > all[0].offsetTop);
  const wide = columns < 0 ? all.length : columns;
  const last = all.length - 1;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide, Home: -at, End: last - at };
  if (!(event.key in moves) || at < 0) return;
  event.preventDefault();
  event.stopPropagation();
  const next = all[at + moves[event.key]];
  if (!next) return;
  reach(all[at], false);
  reach(next, true);
  here = next.dataset.name;
  next.querySelector("button").focus();
}

function picture(item, fields, large = false) {
  const box = h("span", { class: large ? "cidm-picture cidm-large" : "cidm-picture" });
  const none = () => box.replaceChildren(h("span", {}, t("no_picture")));
  if (!item.picture) none();
  else {
    const asked = { ...fields, v: item.picture, ...(large ? { large: 1 } : {}) };
    const image = h("img", {
      loading: "lazy",
      decoding: "async",
      alt: t("picture_of", { name: item.name }),
      onerror: none,
      onload: () => image.classList.toggle("cidm-tiny", image.naturalWidth <= TINY_PX),
      src: address("picture", asked),
    });
    box.append(image);
  }
  return box;
}

const day = (created) => created && new Date(created).toLocaleDateString(language());
const moment = (created) =>
  created && new Date(created).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });
const size = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)}\u00a0kB` : `${(bytes / 1e6).toFixed(1)}\u00a0MB`;
const steps = (item) => (item.steps ? `${item.steps}\u00a0${t("steps")}` : "");

// --- words into a text -------------------------------------------------------------------------

const TEXTS = "textarea:not(.xterm-helper-textarea), .graphdialog input, [data-node-id] input";
document.addEventListener("pointerdown", ({ target: at }) => { inside = root.contains(at); }, true);
document.addEventListener("focusin", ({ target: at }) => {
  inside = root.contains(at);
  const writable = at.matches?.(TEXTS) && !at.readOnly && (at.type === "text" || at.type === "textarea");
  if (writable && !/numeric|decimal/.test(at.inputMode)) target = at;
}, true);

const wordButtons = (words) => h("div", { class: "cidm-words" }, words.map((each) => {
  const label = t("insert", { words: each });
  const onmousedown = (event) => event.preventDefault(); // the cursor stays where it is
  return button(each, ({ detail }) => insert(each, detail > 0), { title: label, "aria-label": label, onmousedown });
}));

/** As if typed, which Ctrl+Z takes back; false where nothing can be typed, as in a text out of sight. */
function put(words) {
  target?.focus({ preventScroll: true }); // the classic canvas has taken the cursor away
  if (!target || document.activeElement !== target) return false;
  const { value, selectionStart: from, selectionEnd: to } = target;
  const before = from && !/[\s(]/.test(value[from - 1]) ? " " : "";
  const after = to < value.length && !/[\s,.;:)]/.test(value[to]) ? " " : "";
  if (!document.execCommand("insertText", false, before + words + after)) return false;
  return target.dispatchEvent(new Event("change", { bubbles: true }));
}

async function insert(words, byMouse) {
  const was = document.activeElement;
  if (put(words)) {
    if (!byMouse) was.focus({ preventScroll: true }); // with the mouse one writes on
    return say(t("inserted", { words }));
  }
  try {
    await navigator.clipboard.writeText(words);
    say(t("copied", { words }));
  } catch {
    say(t("copy_failed", { words }));
  }
}

// --- one concept -------------------------------------------------------------------------------

async function drawConcept(asked, { name, compared } = asked) {
  const item = await ask("concept", { bank: state.bank, name });
  const { class_words, kind, method, layers, file } = item;
  const facts = {
    ...{ class_words, kind, method, layers },
    model: [...new Set([item.model, item.family])].filter(Boolean).join(" · "),
    ...{ rank: item.rank || "", steps: item.steps ?? "", created: moment(item.created) },
    ...{ order: item.order + 1, bytes: size(item.bytes), file },
  };
  fill(asked, name, picture(item, { name }, true), wordButtons(item.words), actions(item), h("h3", {}, t("facts")),
    pairs({ ...labelled(facts, ""), ...labelled(item.facts, "fact_"), ...labelled(facts, "") }), ...lossCurve(item.losses),
    h("details", { open: body.querySelector("details")?.open }, h("summary", {}, h("h3", {}, t("settings"))), pairs(item.settings)),
    ...versionsOf(item, compared));
}

const labelled = (facts, kind) =>
  Object.fromEntries(Object.entries(facts).map(([key, value]) => [texts[kind + key] ?? key, value]));
const pairs = (facts) => h("dl", { class: "cidm-facts" }, Object.entries(facts).filter(([, value]) => value !== "")
  .flatMap(([key, value]) => [h("dt", {}, key.replaceAll("_", " ")), h("dd", {}, String(value))]));

function actions(item) {
  const { name, file } = item;
  const save = (as, label, download) =>
    h("a", { class: "cidm-button", href: address("file", { name, as }), download }, t(label));
  return h("div", { class: "cidm-actions" },
    button(t("rename"), () => rename(item)),
    button(t("add_picture"), () => show({ kind: "outputs", name })),
    fileButton(t("replace"), ".safetensors", (chosen) => replace(item, chosen)),
    save("concept", "download_concept", file),
    save("lora", "download_lora", file.replace(/\.safetensors$/, "_lora.safetensors")),
    button(t("remove"), () => remove(item), { class: "cidm-danger" }));
}

function fileButton(label, accept, chosen) {
  const input = h("input", { type: "file", accept, onchange: () => { chosen(input.files[0]); input.value = ""; } });
  return h("label", { class: "cidm-file" }, label, input);
}

function lossCurve(losses) {
  if (losses.length < 2) return [];
  const [xs, ys] = [losses.map(([x]) => x), losses.map(([, y]) => y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const at = ([x, y]) => [38 + (270 * (x - left)) / (right - left || 1), 112 - (100 * (y - low)) / (high - low || 1)];
  const points = losses.map((row) => at(row).map((each) => each.toFixed(1)).join()).join(" ");
  const told = t("loss_told", { first: ys[0].toPrecision(3), from: left, last: ys.at(-1).toPrecision(3), to: right });
  const label = (x, y, anchor, text) => svg("text", { x, y, "text-anchor": anchor }, String(text));
  const made = svg("svg", { class: "cidm-loss", viewBox: "0 0 312 132", role: "img", "aria-label": told },
    svg("path", { class: "cidm-axis", fill: "none", d: "M38 8V116H312" }),
    svg("polyline", { fill: "none", stroke: "currentColor", "stroke-width": 1.8, points }),
    label(34, 16, "end", high.toPrecision(2)), label(34, 115, "end", low.toPrecision(2)),
    label(38, 130, "start", left), label(312, 130, "end", right));
  return [h("h3", {}, t("loss")), made];
}

function versionsOf(item, compared) {
  const { name, versions, broken_versions } = item;
  if (!versions.length && !broken_versions.length) return [];
  const other = versions.find((each) => each.number === compared);
  const figure = (of, fields, label) =>
    h("figure", {}, picture(of, { name, ...fields }, true), h("figcaption", {}, label));
  const pair = other && h("div", { class: "cidm-pair" },
    figure(item, {}, t("current")), figure(other, { version: compared }, t("version", { n: compared })));
  return [
    h("h3", {}, t("versions")),
    pair,
    other && h("p", { class: "cidm-note" }, t("compare_note")),
    rows([...versions].reverse().map((each) => versionRow(item, each, each === other))),
    ...broken_versions.map((error) => h("p", { class: "cidm-note" }, t("broken_version", { error }))),
  ];
}

const rows = (items) => h("ul", { class: "cidm-rows", role: "list" }, items);

function versionRow(item, each, isCompared) {
  const n = each.number, { name } = item;
  const compare = () => show({ kind: "concept", name, compared: isCompared ? undefined : n });
  return h("li", { "data-version": n }, picture(each, { name, version: n }),
    h("div", { class: "cidm-told" }, t("version", { n }),
      h("small", {}, [moment(each.created), steps(each), size(each.bytes)].filter(Boolean).join(" · ")),
      h("div", { class: "cidm-actions" },
        button(t("compare"), compare, { "aria-pressed": String(isCompared) }),
        button(t("go_back"), () => goBack(item, n)),
        button(t("delete"), () => removeVersion(item, n), { class: "cidm-danger" }))));
}

// --- changes: asked once, undone by a click ----------------------------------------------------

const confirm = (type, title, message) => app.extensionManager.dialog.confirm({ type, title, message });

async function rename(item) {
  const { name } = item;
  const message = t("rename_ask", { name });
  const given = await app.extensionManager.dialog.prompt({ title: t("rename"), message, defaultValue: name });
  const to = given?.trim();
  if (!to || to === name) return;
  await act(async () => {
    const { name: now } = await change("rename", { ...seen(item), to });
    here = now;
    view = { kind: "concept", name: now };
    const again = undo(async () => {
      await change("rename", { name: now, stamp: stampOf(now), to: name });
      view = { kind: view.kind, name: here = name };
    });
    return [t("renamed", { name, to: now }), { again }];
  });
}

async function remove(item) {
  const { name } = item;
  if (!(await confirm("delete", t("remove"), t("remove_ask", { name, bank: state.bank })))) return;
  await act(async () => {
    const { removed } = await change("remove", seen(item));
    view = { kind: "list" };
    return [t("removed", { name }), { again: undo(() => change("restore", { number: removed })) }];
  });
}

async function replace(item, file) {
  const { name } = item;
  if (!file || !(await confirm("overwrite", t("replace"), t("replace_ask", { name, file: file.name })))) return;
  await act(async () => {
    const { former } = await send("replace", seen(item), file);
    return [t("replaced", { name }), { again: backTo(name, former) }];
  });
}

const backTo = (name, number) => undo(() => change("go_back", { name, stamp: stampOf(name), number }));

const goBack = (item, n) => act(async () => {
  const { former } = await change("go_back", { ...seen(item), number: n });
  return [t("version_back", { name: item.name, n }), { again: backTo(item.name, former) }];
});

async function removeVersion(item, n) {
  const { name } = item;
  if (!(await confirm("delete", t("delete"), t("version_ask", { name, n })))) return;
  await act(async () => {
    const { removed } = await change("remove_version", { ...seen(item), number: n });
    return [t("version_removed", { name, n }), { again: undo(() => change("restore", { number: removed })) }];
  });
}

async function drawRemoved(asked) {
  const { removed } = await ask("removed", { bank: state.bank });
  const restore = ({ number, name }) => act(async () => {
    await change("restore", { number });
    return [t("restored", { name })];
  });
  const empty = async () => {
    if (!(await confirm("delete", t("empty_trash"), t("empty_trash_ask", { bank: state.bank })))) return;
    await act(async () => [t("emptied", { n: (await change("empty", {})).count })]);
  };
  const row = (each) => h("li", {}, picture(each, { removed: each.number }),
    h("div", { class: "cidm-told" }, each.name, each.what === "version" ? ` (${t("removed_version")})` : "",
      h("small", {}, t("removed_when", { when: moment(each.removed) }))),
    button(t("restore"), () => restore(each), { "aria-label": `${t("restore")}: ${each.name}` }));
  fill(asked, t("removed_list"), removed.length
    ? h("div", {}, rows(removed.map(row)),
      h("div", { class: "cidm-actions" }, button(t("empty_trash"), empty, { class: "cidm-danger" })))
    : h("p", { class: "cidm-empty" }, t("nothing_removed")));
}

async function drawOutputs(asked, { name } = asked) {
  const history = await (await fetched(`/history?max_items=${OUTPUTS}`)).json();
  const drawn = Object.values(history).reverse().flatMap(({ outputs }) => Object.values(outputs))
    .flatMap(({ images = [] }) => images).slice(0, OUTPUTS);
  const take = (file) => act(async () => {
    await send("preview", { name, stamp: stampOf(name) }, await file);
    view = { kind: "concept", name };
    return [t("previewed", { name })];
  });
  const seenAt = (image, more = {}) => `/view?${new URLSearchParams({ ...image, ...more })}`;
  const choice = (image) => {
    const { filename } = image, src = api.apiURL(seenAt(image, { preview: "webp;80" }));
    const shown = h("span", { class: "cidm-picture" }, h("img", { loading: "lazy", alt: filename, src }));
    const label = t("output_picture", { name: filename });
    return button(shown, () => take(fetched(seenAt(image)).then((whole) => whole.blob())), { "aria-label": label });
  };
  fill(asked, t("choose_picture", { name }),
    h("div", { class: "cidm-actions" }, fileButton(t("choose_file"), "image/png,image/jpeg,image/webp", take)),
    drawn.length
      ? h("div", { class: "cidm-outputs" }, drawn.map(choice))
      : h("p", { class: "cidm-empty" }, t("no_output")));
}

// --- in ComfyUI --------------------------------------------------------------------------------

let style = null;
let built = null; // in which language
body.addEventListener("scroll", () => { if (list.parentNode === body) listTop = body.scrollTop; }, { passive: true });

async function render(element) {
  element.style.height = "100%";
  const looking = lookUp(); // meanwhile the page is made
  style ??= styled();
  if (built !== language()) await build((built = language()));
  await style;
  element.replaceChildren(root);
  body.scrollTop = list.parentNode === body ? listTop : 0;
  await refresh(looking);
}

app.registerExtension({
  name: "CIDM.Concepts",
  setup() {
    const title = language() === "zh" ? "概念" : "Concepts";
    const tab = { id: "cidm-concepts", icon: "pi pi-images", title, tooltip: title, type: "custom", render };
    app.extensionManager.registerSidebarTab(tab);
    const again = () => { if (root.isConnected && !document.hidden) refresh(); };
    const events = ["execution_success", "execution_error", "execution_interrupted", "reconnected", CHANGED];
    for (const event of events) api.addEventListener(event, again);
    document.addEventListener("visibilitychange", again);
  },
});
