"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS(NS, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((one) => one !== null && one !== ""));
  return element;
}

// --- tables ------------------------------------------------------------------------------------

function sortBy(table, column, button) {
  const head = button.closest("th");
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const one of table.tHead.rows[0].cells) if (one.hasAttribute("aria-sort")) one.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const numeric = head.classList.contains("number");
  const compare = (a, b) => {
    if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known stays last
    return down ? Number(b) - Number(a) : Number(a) - Number(b);
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort((a, b) => (numeric || !down ? compare(a[0], b[0]) : compare(b[0], a[0])));
  table.tBodies[0].append(...rows.map((one) => one[1]));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    if (!head.hasAttribute("aria-sort")) continue;
    const button = make("button", { type: "button" }, head.textContent);
    button.addEventListener("click", () => sortBy(table, column, button));
    head.replaceChildren(button);
  }
}

// --- error per layer ---------------------------------------------------------------------------

function chart(svg, rows) {
  const order = new Map((data.graph ?? []).map((one, index) => [one.name, index]));
  const known = rows.filter((one) => one.sqnr_db !== null);
  known.sort((a, b) => (order.get(a.path) ?? Infinity) - (order.get(b.path) ?? Infinity) || 0);
  if (!known.length) { svg.remove(); return; }
  const [width, height, left, low] = [1000, 210, 44, 20];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const least = Math.floor(Math.min(...known.map((one) => one.sqnr_db)) / 10) * 10;
  const most = Math.max(least + 10, Math.ceil(Math.max(...known.map((one) => one.sqnr_db)) / 10) * 10);
  const y = (value) => 10 + (height - low - 10) * (1 - (value - least) / (most - least));
  const step = most - least > 60 ? 20 : 10;
  for (let value = least; value <= most; value += step) svg.append(
    make("svg:line", { class: "grid", x1: left, x2: width - 6, y1: y(value), y2: y(value) }),
    make("svg:text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value} dB`));
  known.forEach((one, index) => {
    const x = left + 10 + (index * (width - left - 26)) / Math.max(1, known.length - 1);
    svg.append(make("svg:circle", { class: one.kind === "stub" ? "" : "fused", cx: x.toFixed(1), cy: y(one.sqnr_db).toFixed(1), r: 4, "data-node": one.path },
      make("svg:title", {}, `${one.path}: ${one.sqnr_db.toFixed(1)} dB`)));
  });
  svg.append(make("svg:text", { x: left, y: height - 2 }, "blue: quantizers of tensors; orange: fused modules"));
}
if ($("chart")) chart($("chart"), data.analysis.rows);
