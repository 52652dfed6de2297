"use strict";
// The graph: modules as a tree, what is open of it laid out by Graphviz in a worker, drawn as SVG.
(() => {
const nodes = data.graph ?? [];
if (!nodes.length) return;
const SHORT = { FLOAT: "FP32", FLOAT32: "FP32", FLOAT16: "FP16", BFLOAT16: "BF16", DOUBLE: "FP64", FLOAT8E4M3FN: "FP8", FLOAT8E5M2: "FP8" };
const KNOWN = ["INT8", "INT4", "FP8", "FP16", "BF16", "FP32"];
const MANY = 60; // children that a module shows at once; more are put into parts in their order
const AT_FIRST = 60; // boxes that are shown at first
const MOST = 1200; // boxes that are laid out at most

// --- what is known of a node -------------------------------------------------------------------

const byName = new Map();
nodes.forEach((one, id) => { one.id = id; one.holds = []; one.after = []; if (!byName.has(one.name)) byName.set(one.name, id); });
for (const one of nodes) {
  if (one.host !== null) nodes[one.host].holds.push(one);
  for (const id of one.reads) nodes[id].after.push(one.id);
}
const told = nodes.map(() => ({ kernel: null, aside: null, findings: [], product: null, errors: [], parity: null, rewrites: [], declined: [] }));
const at = (name, use) => { const id = byName.get(name); if (id !== undefined) use(told[id]); };
for (const one of data.explanation?.kernels ?? []) for (const name of one.nodes) at(name, (it) => { it.kernel = one; });
for (const one of data.explanation?.asides ?? []) for (const name of one.nodes) at(name, (it) => { it.aside = one; });
for (const one of [...(data.check?.findings ?? []), ...(data.explanation?.refusals ?? [])])
  for (const name of one.nodes) at(name, (it) => { if (!it.findings.some((known) => known.rule === one.rule && known.message === one.message)) it.findings.push(one); });
for (const one of data.compilations ?? []) for (const product of one.products) at(product.node, (it) => { it.product ??= product; });

// Rows that name a module stand at the nodes of that module.
const byPath = new Map();
for (const one of nodes) {
  const path = one.path.join(".");
  if (!byPath.has(path)) byPath.set(path, []);
  byPath.get(path).push(one.id);
}
const ofModule = (path, use) => { for (const id of byName.has(path) ? [byName.get(path)] : byPath.get(path) ?? []) use(told[id]); };
for (const row of data.analysis?.rows ?? []) ofModule(row.path, (it) => it.errors.push(row));
for (const row of data.parity?.layers ?? []) ofModule(row.path, (it) => { it.parity = row; });
for (const one of [...(data.summary?.fusions ?? []), ...(data.summary?.conversions ?? [])])
  for (const path of new Set([one.path, ...one.operations])) ofModule(path, (it) => it.rewrites.push(one));
for (const one of data.summary?.declined ?? []) ofModule(one.path, (it) => it.declined.push(one));
for (const one of data.summary?.unfused ?? []) ofModule(one.path, (it) => it.declined.push({ pattern: "not fused", reason: one.reason, instead: "" }));

function typeOf(one) {
  const it = told[one.id];
  const said = it.product?.computed || it.kernel?.dtype || one.computes || one.dtype || "";
  return SHORT[said] ?? said;
}
const typeClass = (type) => (KNOWN.includes(type) ? `t-${type}` : type === "mixed" ? "t-mixed" : "t-other");
const lowest = (rows) => rows.reduce((least, row) => (row.sqnr_db !== null && row.sqnr_db < least ? row.sqnr_db : least), Infinity);

// --- the tree of modules -----------------------------------------------------------------------

let count = 0;
const group = (name, parent) => ({ key: `g${count++}`, name, parent, children: [], open: false, group: true });
const root = group("", null);
root.open = true;
const leaves = new Map();

// A function that names no module stands in what the modules before and after it have in common.
const [before, after] = [[], []];
for (const one of nodes) before[one.id] = one.path.length || !one.reads.length ? one.path : before[Math.max(...one.reads)];
for (const one of nodes.toReversed()) after[one.id] = one.path.length || !one.after.length ? one.path : after[Math.min(...one.after)];
function between(id) {
  const [first, last] = [before[id], after[id]];
  const differ = first.findIndex((part, index) => part !== last[index]);
  return differ < 0 ? first : first.slice(0, differ);
}

for (const one of nodes) {
  if (one.host !== null) continue;
  let place = root;
  for (const part of one.path.length ? one.path : between(one.id)) {
    place.inner ??= new Map();
    if (!place.inner.has(part)) {
      const made = group(part, place);
      place.inner.set(part, made);
      place.children.push(made);
    }
    place = place.inner.get(part);
  }
  const leaf = { key: `n${one.id}`, node: one, parent: place, group: false };
  leaves.set(one.id, leaf);
  place.children.push(leaf);
}

function tidy(place) {
  place.children = place.children.map((child) => {
    if (!child.group) return child;
    tidy(child);
    if (child.children.length > 1) return child;
    const [only] = child.children; // a module of one thing is that thing
    only.parent = place;
    if (only.group) only.name = `${child.name}.${only.name}`;
    return only;
  });
  for (let last = Infinity; place.children.length > MANY && place.children.length < last;) { last = place.children.length; place.children = parts(place); }
  place.size = place.children.reduce((sum, child) => sum + (child.group ? child.size : 1), 0);
}

function parts(place) {
  const alone = place.children.filter((child) => !child.group).length > MANY / 2; // modules stay as they are
  const size = Math.max(2, Math.min(40, Math.ceil(place.children.length / 20)));
  const made = [];
  let part = null;
  let number = 0;
  for (const child of place.children) {
    if (alone && child.group) { made.push(child); part = null; continue; }
    if (!part || part.children.length >= size) { part = group(`part ${++number}`, place); part.size = 0; made.push(part); }
    part.children.push(child);
    part.size += child.group ? child.size : 1;
    child.parent = part;
  }
  return made.map((one) => {
    if (one.children?.length !== 1) return one;
    one.children[0].parent = place;
    return one.children[0];
  });
}
tidy(root);

const within = (place) => (place.group ? place.children.flatMap(within) : [place]);
function pathOf(place) {
  const names = [];
  for (let one = place; one && one !== root; one = one.parent) names.unshift(one.name ?? one.node.name);
  return names.join(".");
}

function openAtFirst() {
  let shown = root.children.length;
  const depth = (one) => (one.parent ? 1 + depth(one.parent) : 0);
  const all = [...walk(root)].filter((one) => one.group).sort((a, b) => depth(a) - depth(b) || a.size - b.size);
  for (const one of all) {
    if (!opened(one.parent) || shown + one.children.length - 1 > AT_FIRST) continue;
    shown += one.children.length - 1;
    one.open = true;
  }
}
function* walk(place) {
  for (const child of place.children) { yield child; if (child.group) yield* walk(child); }
}
const opened = (place) => place === null || (place.open && opened(place.parent));
function visible(id) {
  const host = nodes[id].host;
  if (host !== null) return visible(host);
  const leaf = leaves.get(id);
  let found = leaf;
  for (let one = leaf.parent; one; one = one.parent) if (!one.open) found = one;
  return found;
}

// --- layout ------------------------------------------------------------------------------------

const pairs = (one) => one.op === "QuantizeLinear" && one.holds.some((held) => held.op === "DequantizeLinear");
const title = (place) => (place.group ? place.name : pairs(place.node) ? "Q/DQ" : place.node.op);
function subtitle(place) {
  if (place.group) return `${place.size} operators`;
  return [typeOf(place.node), place.node.shape].filter(Boolean).join(" · ");
}
function groupType(place) {
  const weighted = within(place).filter((one) => one.node.weighted);
  const types = new Set((weighted.length ? weighted : within(place)).map((one) => typeOf(one.node)).filter((type) => KNOWN.includes(type)));
  return types.size > 1 ? "mixed" : [...types][0] ?? "";
}
const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const pen = document.createElement("canvas").getContext("2d");
const wide = (text, font) => { pen.font = `${font} ${getComputedStyle(document.body).fontFamily}`; return pen.measureText(text).width; };
function widthOf(place) {
  place.width ??= Math.ceil(Math.max(wide(`${place.group ? "+ " : ""}${cut(title(place), 28)}`, "600 12px"), wide(cut(subtitle(place), 32), "10.5px"))) + 22;
  return place.width;
}
const HEIGHT = 38;

function dot() {
  const lines = ["digraph {", "graph [ranksep=0.3 nodesep=0.2 nslimit=4 nslimit1=4 mclimit=0.5];", "node [shape=box fixedsize=true label=\"\"];"];
  const write = (place) => {
    for (const child of place.children) {
      if (child.group && child.open) {
        lines.push(`subgraph cluster_${child.key} { margin=14; label="${"m".repeat(Math.min(20, child.name.length + 4))}"; fontsize=12;`);
        write(child);
        lines.push("}");
      } else lines.push(`${child.key} [width=${(widthOf(child) / 72).toFixed(3)} height=${(HEIGHT / 72).toFixed(3)}];`);
    }
  };
  write(root);
  const edges = new Map();
  for (const one of nodes) {
    const to = visible(one.id);
    for (const id of one.reads) {
      const from = visible(id);
      if (from !== to) edges.set(`${from.key} -> ${to.key}`, (edges.get(`${from.key} -> ${to.key}`) ?? new Set()).add(typeOf(nodes[id])));
    }
  }
  for (const edge of edges.keys()) lines.push(`${edge};`);
  if (edges.size > 500) lines.push("splines=line;");
  lines.push("}");
  return { text: lines.join("\n"), edges };
}

const WORK = `
const ready = Viz.instance();
onmessage = async (event) => {
  try {
    const viz = await ready;
    postMessage({ id: event.data.id, json: JSON.parse(viz.renderString(event.data.text, { format: "json0" })) });
  } catch (error) { postMessage({ id: event.data.id, error: String(error) }); }
};`;
let worker = null;
let request = 0;
async function start() {
  const packed = Uint8Array.from(atob($("viz").textContent.trim()), (one) => one.charCodeAt(0));
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  worker = new Worker(URL.createObjectURL(new Blob([text, WORK], { type: "text/javascript" })));
}
function layOut(text) {
  const id = ++request;
  return new Promise((resolve, reject) => {
    const hear = (event) => {
      if (event.data.id !== id) return;
      worker.removeEventListener("message", hear);
      if (event.data.error) reject(new Error(event.data.error)); else resolve(id === request ? event.data.json : null);
    };
    worker.addEventListener("message", hear);
    worker.postMessage({ id, text });
  });
}

// --- drawing -----------------------------------------------------------------------------------

const svg = $("graph");
const scene = make("svg:g");
svg.append(scene);
let boxes = new Map();
let chosen = null;
const view = { x: 0, y: 0, scale: 1, width: 1, height: 1 };

async function draw(keep) {
  const { text, edges } = dot();
  const shown = text.split("[width=").length - 1;
  if (shown > MOST) { status(`${shown} boxes are too many to lay out; close some modules`); return false; }
  status("Laying out…");
  let json;
  try { json = await layOut(text); } catch (error) { status(`The graph could not be laid out: ${error.message}`); return false; }
  if (json === null) return false;
  const [, , width, height] = json.bb.split(",").map(Number);
  Object.assign(view, { width, height });
  const before = keep && boxes.get(keep);
  const anchor = before && { x: before.x * view.scale + view.x, y: before.y * view.scale + view.y };
  boxes = new Map();
  scene.replaceChildren();
  paint(json, edges, height);
  const now = anchor && boxes.get(keep);
  if (now) { view.x = anchor.x - now.x * view.scale; view.y = anchor.y - now.y * view.scale; move(); } else fit();
  status(`${boxes.size} boxes for ${nodes.length} operators, inputs and outputs`);
  mark();
  svg.dataset.ready = "yes";
  return true;
}

function paint(json, edges, height) {
  const objects = json.objects ?? [];
  const named = new Map(objects.map((one) => [one.name, one]));
  for (const place of walk(root)) {
    const found = place.group && place.open && named.get(`cluster_${place.key}`);
    if (found?.bb) scene.append(frame(place, found.bb.split(",").map(Number), height));
  }
  for (const edge of json.edges ?? []) {
    const [tail, head] = [objects[edge.tail].name, objects[edge.head].name];
    scene.append(line(edge.pos, height, tail, head, [...(edges.get(`${tail} -> ${head}`) ?? [])]));
  }
  for (const place of walk(root)) {
    const found = named.get(place.key);
    if (found?.pos) scene.append(box(place, found.pos.split(",").map(Number), height));
  }
  const first = scene.querySelector(".node");
  first?.setAttribute("tabindex", "0");
}

function frame(place, [left, low, right, high], height) {
  const close = () => toggle(place);
  const label = make("svg:text", { x: left + 8, y: height - high + 15, class: "framename" }, `− ${cut(place.name, Math.max(4, Math.floor((right - left) / 7.5) - 2))}`);
  const bar = make("svg:g", { role: "button", tabindex: "-1", class: "close", "aria-label": `close ${pathOf(place)}`, on: { click: close } }, label);
  const whole = make("svg:rect", { x: left, y: height - high, width: right - left, height: high - low, rx: 8 });
  return make("svg:g", { class: "frame" }, make("svg:title", {}, pathOf(place)), whole, bar);
}

function line(pos, height, tail, head, types) {
  const points = pos.split(" ");
  const point = (text) => { const [x, y] = text.split(",").map(Number); return `${x},${(height - y).toFixed(1)}`; };
  let end = null;
  while (/^[es],/.test(points[0])) { const [which, ...rest] = points.shift().split(","); if (which === "e") end = point(rest.join(",")); }
  const curve = points.map(point);
  const path = `M${curve[0]} C${curve.slice(1).join(" ")}${end ? ` L${end}` : ""}`;
  const type = types.length === 1 ? types[0] : "mixed";
  return make("svg:path", { d: path, class: `edge ${typeClass(type)}`, "data-from": tail, "data-to": head, "marker-end": "url(#arrow)" });
}

function box(place, [x, middle], height) {
  const y = height - middle;
  const span = widthOf(place);
  const type = place.group ? groupType(place) : typeOf(place.node);
  const found = (place.group ? within(place) : [place]).flatMap((one) => [one.node, ...one.node.holds]).flatMap((one) => told[one.id].findings);
  const worst = ["error", "warning", "info"].find((one) => found.some((it) => it.severity === one));
  const name = place.group ? pathOf(place) : `${title(place)} ${place.node.name}`;
  const said = [name, subtitle(place), type, found.length ? `${found.length} findings` : ""].filter(Boolean).join(", ");
  const kind = place.group ? "group" : pairs(place.node) || place.node.op === "stub" ? "pair" : "";
  const element = make("svg:g", { class: `node ${kind} ${typeClass(type)}`, role: "button", tabindex: "-1", "data-key": place.key, "aria-label": said, transform: `translate(${(x - span / 2).toFixed(1)} ${(y - HEIGHT / 2).toFixed(1)})` },
    make("svg:title", {}, name),
    make("svg:rect", { width: span, height: HEIGHT, rx: kind === "pair" ? 19 : 5 }),
    make("svg:text", { x: span / 2, y: 16, class: "name" }, `${place.group ? "+ " : ""}${cut(title(place), 28)}`),
    make("svg:text", { x: span / 2, y: 30, class: "sub" }, cut(subtitle(place), 32)),
    worst ? make("svg:circle", { cx: span - 2, cy: 2, r: 7, class: `mark ${worst}` }) : null,
    worst ? make("svg:text", { x: span - 2, y: 5.5, class: "marktext" }, worst === "info" ? "i" : "!") : null);
  element.addEventListener("click", () => (dragged ? null : select(place)));
  element.addEventListener("dblclick", () => place.group && toggle(place));
  boxes.set(place.key, { x, y, element, place });
  return element;
}

function mark() {
  for (const one of scene.querySelectorAll(".chosen, .along")) one.classList.remove("chosen", "along");
  if (!chosen) return;
  boxes.get(chosen.key)?.element.classList.add("chosen");
  for (const one of scene.querySelectorAll(".edge")) if (one.dataset.from === chosen.key || one.dataset.to === chosen.key) one.classList.add("along");
  if (chosen.group) return;
  for (const name of told[chosen.node.id].kernel?.nodes ?? []) {
    const id = byName.get(name);
    if (id !== undefined) boxes.get(visible(id).key)?.element.classList.add("along");
  }
}

async function toggle(place) {
  place.open = !place.open;
  if (place.open || !chosen || within(place).includes(chosen)) chosen = place;
  const done = await draw(place.key);
  if (!done && place.open) place.open = false;
  if (done && place.open) { const first = [...walk(place)].find((one) => boxes.has(one.key)); if (first) focusOn(first); }
  if (done && !place.open) focusOn(place);
  detail(chosen);
}

async function reveal(id) {
  const host = nodes[id].host;
  if (host !== null) return reveal(host);
  const leaf = leaves.get(id);
  let changed = false;
  for (let one = leaf.parent; one; one = one.parent) if (!one.open) { one.open = true; changed = true; }
  if (changed && !(await draw())) return;
  select(leaf);
  centre(leaf);
}

function select(place) {
  chosen = place;
  mark();
  detail(place);
  focusOn(place);
}

function focusOn(place) {
  const found = boxes.get(place.key);
  if (!found) return;
  for (const one of scene.querySelectorAll(".node[tabindex='0']")) one.setAttribute("tabindex", "-1");
  found.element.setAttribute("tabindex", "0");
  found.element.focus({ preventScroll: true });
}

// --- looking -----------------------------------------------------------------------------------

let dragged = false;
function move() { scene.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`); }
function fit() {
  const { width, height } = svg.getBoundingClientRect();
  const whole = Math.min(width / (view.width + 24), height / (view.height + 24));
  view.scale = Math.min(1.2, Math.max(whole, 0.75)); // where all would be too small to read, the top
  view.x = (width - view.width * view.scale) / 2;
  view.y = whole < view.scale ? 12 : (height - view.height * view.scale) / 2;
  if (view.width * view.scale > width) { const top = [...boxes.values()].reduce((a, b) => (b.y < a.y ? b : a)); view.x = width / 2 - top.x * view.scale; }
  move();
}
function whole() {
  const { width, height } = svg.getBoundingClientRect();
  view.scale = Math.min(1.2, width / (view.width + 24), height / (view.height + 24));
  view.x = (width - view.width * view.scale) / 2;
  view.y = (height - view.height * view.scale) / 2;
  move();
}
function zoom(factor, x, y) {
  const bounds = svg.getBoundingClientRect();
  [x, y] = [x ?? bounds.width / 2, y ?? bounds.height / 2];
  const scale = Math.min(4, Math.max(0.02, view.scale * factor));
  view.x = x - (x - view.x) * (scale / view.scale);
  view.y = y - (y - view.y) * (scale / view.scale);
  view.scale = scale;
  move();
}
function centre(place) {
  const found = boxes.get(place.key);
  if (!found) return;
  const { width, height } = svg.getBoundingClientRect();
  view.scale = Math.max(view.scale, 0.8);
  view.x = width / 2 - found.x * view.scale;
  view.y = height / 2 - found.y * view.scale;
  move();
}
let held = null;
svg.addEventListener("pointerdown", (event) => { held = { x: event.clientX - view.x, y: event.clientY - view.y, fromX: event.clientX, fromY: event.clientY }; dragged = false; });
window.addEventListener("pointermove", (event) => {
  if (!held) return;
  if (Math.hypot(event.clientX - held.fromX, event.clientY - held.fromY) > 4) dragged = true;
  if (dragged) { view.x = event.clientX - held.x; view.y = event.clientY - held.y; move(); }
});
window.addEventListener("pointerup", () => { held = null; });
svg.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey && !svg.contains(document.activeElement)) return; // the page scrolls
  event.preventDefault();
  const bounds = svg.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 400), event.clientX - bounds.left, event.clientY - bounds.top);
}, { passive: false });

const KEYS = { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: whole };
svg.addEventListener("keydown", (event) => {
  if (KEYS[event.key]) { KEYS[event.key](); event.preventDefault(); return; }
  const here = boxes.get(document.activeElement?.dataset?.key);
  if (!here) return;
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); if (here.place.group && chosen === here.place) toggle(here.place); else select(here.place); return; }
  if (event.key === "Escape" && here.place.parent !== root) { event.preventDefault(); toggle(here.place.parent); return; }
  const next = neighbour(here, event.key);
  if (next) { event.preventDefault(); focusOn(next.place); follow(next); }
});
function neighbour(here, key) {
  const all = [...boxes.values()].filter((one) => one !== here);
  const linked = (from, to) => [...scene.querySelectorAll(".edge")].filter((one) => one.dataset[from] === here.place.key).map((one) => boxes.get(one.dataset[to])).filter(Boolean);
  const side = (sign) => all.filter((one) => (one.x - here.x) * sign > 1).sort((a, b) => Math.abs(a.y - here.y) * 4 + Math.abs(a.x - here.x) - Math.abs(b.y - here.y) * 4 - Math.abs(b.x - here.x));
  const found = { ArrowDown: () => linked("from", "to"), ArrowUp: () => linked("to", "from"), ArrowRight: () => side(1), ArrowLeft: () => side(-1) }[key]?.();
  return found?.[0];
}
function follow(one) {
  const { width, height } = svg.getBoundingClientRect();
  const [x, y] = [one.x * view.scale + view.x, one.y * view.scale + view.y];
  if (x < 60 || y < 40 || x > width - 60 || y > height - 40) centre(one.place);
}

// --- what is said of the chosen one ------------------------------------------------------------

const link = (name) => make("button", { type: "button", class: "link", on: { click: () => reveal(byName.get(name)) } }, name);
function rows(list, entries) {
  for (const [name, ...what] of entries) {
    const said = what.filter((one) => one !== null && one !== undefined && one !== "");
    if (said.length) list.append(make("dt", {}, name), make("dd", {}, ...said));
  }
}
const amount = (value) => (value >= 1e9 ? `${(value / 1e9).toFixed(2)} G` : value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : value >= 1e3 ? `${(value / 1e3).toFixed(1)} k` : String(value));
const decibels = (value) => (value === null ? "no error" : `${value.toFixed(1)} dB`);

function detail(place) {
  const pane = $("detail");
  pane.replaceChildren();
  if (!place) return;
  if (place.group) groupDetail(place, pane); else nodeDetail(place.node, pane);
}
function groupDetail(place, pane) {
  const inside = within(place).map((one) => one.node);
  const ops = new Map();
  for (const one of inside) ops.set(one.op, (ops.get(one.op) ?? 0) + 1);
  const list = make("dl");
  const worst = lowest(inside.flatMap((one) => told[one.id].errors));
  const findings = inside.reduce((sum, one) => sum + told[one.id].findings.length, 0);
  rows(list, [
    ["Operators", [...ops].sort((a, b) => b[1] - a[1]).map(([op, times]) => `${times} ${op}`).join(", ")],
    ["Lowest SQNR", worst < Infinity ? decibels(worst) : ""],
    ["Findings", findings || ""],
  ]);
  pane.append(make("h3", {}, pathOf(place)), make("button", { type: "button", on: { click: () => toggle(place) } }, place.open ? "Close this module" : "Open this module"), list);
}
function nodeDetail(one, pane) {
  const list = make("dl");
  const parts = [one, ...one.holds];
  const it = told[one.id];
  const { kernel, aside, product } = it;
  rows(list, [
    ["Operator", one.op],
    ["Module", one.path.join(".")],
    ["Result", [SHORT[one.dtype] ?? one.dtype, one.shape].filter(Boolean).join(" ")],
    ["Quantized", one.note],
    ["With it", ...one.holds.map((held) => make("div", {}, [held.op, held.name, SHORT[held.dtype] ?? held.dtype, held.note].filter(Boolean).join(" · ")))],
  ]);
  if (kernel) rows(list, [
    ["Kernel", `${kernel.kind}, ${kernel.dtype || "type unknown"}${kernel.macs ? `, ${amount(kernel.macs)} multiply-accumulates` : ""}`],
    ["By", `${kernel.rules.join(", ")} (${kernel.basis})`],
    ["Why", kernel.reason],
    ["Fused with", ...kernel.nodes.filter((name) => name !== one.name && byName.has(name)).map((name) => make("div", {}, link(name)))],
  ]);
  else if (aside) rows(list, [["No kernel", `${aside.kind} by ${aside.rule}`]]);
  if (product) rows(list, [["Compiled", `${product.fate}: ${product.simulated || "?"} simulated, ${product.computed || "?"} computed`, product.reason ? make("div", {}, product.reason) : ""]]);
  for (const part of parts) for (const found of told[part.id].findings)
    rows(list, [[found.severity, make("strong", {}, found.rule), ` ${found.message}`, make("div", {}, found.why), make("div", {}, `Remedy: ${found.remedy}`)]]);
  for (const row of it.errors) rows(list, [["Error", `${decibels(row.sqnr_db)} ${row.points.join(", ") || row.kind}`, row.range === null ? "" : make("div", {}, `largest ${row.largest.toPrecision(3)}, range ${row.range.toPrecision(3)}, ${((row.clipped_share ?? 0) * 100).toFixed(2)} % clipped`)]]);
  if (it.parity) rows(list, [["File against simulation", `${it.parity.differing} of ${it.parity.values} numbers differ, by at most ${it.parity.largest} steps`]]);
  for (const made of it.rewrites) rows(list, [[made.kind ? "Fused" : "Converted", made.kind ? `${made.kind} by ${made.pattern}` : made.pattern, make("div", {}, made.operations.join(" → ")), made.kept_float ? make("div", {}, `stays in floating point: ${made.kept_float}`) : ""]]);
  for (const no of it.declined) rows(list, [["Refused", `${no.pattern}: ${no.reason}`, no.instead ? make("div", {}, `taken by ${no.instead}`) : ""]]);
  pane.append(make("h3", {}, one.name), list);
}

// --- search ------------------------------------------------------------------------------------

function search() {
  const wanted = $("search").value.trim().toLowerCase();
  const list = $("found");
  list.replaceChildren();
  if (!wanted) { status(`${boxes.size} boxes for ${nodes.length} operators, inputs and outputs`); return; }
  const hits = nodes.filter((one) => one.name.toLowerCase().includes(wanted) || one.op.toLowerCase().includes(wanted));
  for (const one of hits.slice(0, 50)) list.append(make("li", {}, make("button", { type: "button", class: "link", on: { click: () => reveal(one.id) } }, `${one.name}`), make("span", { class: "dim" }, ` ${one.op}`)));
  status(hits.length ? `${hits.length} found${hits.length > 50 ? ", 50 listed" : ""}` : "nothing found");
}
function status(text) { $("status").textContent = text; }
$("search").addEventListener("input", search);
$("search").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); $("found").querySelector("button")?.click(); } });
$("zoom-in").addEventListener("click", () => zoom(1.25));
$("zoom-out").addEventListener("click", () => zoom(0.8));
$("zoom-fit").addEventListener("click", whole);
$("close-all").addEventListener("click", async () => { for (const one of walk(root)) one.open = false; chosen = null; detail(null); await draw(); });
$("open-more").addEventListener("click", async () => {
  const closed = [...walk(root)].filter((one) => one.group && !one.open && opened(one.parent));
  for (const one of closed) one.open = true;
  if (!(await draw())) for (const one of closed) one.open = false;
});
document.addEventListener("click", (event) => {
  const name = event.target.closest?.("[data-node]")?.dataset.node;
  const id = name === undefined ? undefined : byName.get(name) ?? byPath.get(name)?.[0];
  if (id === undefined) return;
  svg.scrollIntoView({ block: "center" });
  reveal(id);
});

openAtFirst();
start().then(() => draw()).catch((error) => status(`The graph cannot be drawn in this browser: ${error.message}`));
})();
