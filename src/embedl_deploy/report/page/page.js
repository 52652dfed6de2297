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
