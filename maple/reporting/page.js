"use strict";
// Every table sorts by a click on the head of a column, and a long one filters by words.
// Without this script the tables are whole, in the order in which they were written.

const LONG = 5; // rows; a shorter table is seen at once
const order = new Intl.Collator("en", { numeric: true }); // "r8" before "r16"

// A number, a text, or null for what was not measured.
function valueOf(cell) {
  if (cell.dataset.n !== undefined) return Number(cell.dataset.n);
  const text = cell.textContent.trim();
  return text === "" || text === "NA" ? null : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return order.compare(a, b);
}

// Ascending, and at a second click on the same head descending; what was not measured stays last in both.
function sort(table, head) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [valueOf(row.cells[head.cellIndex]), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.append(button);
  }
}

// Above the table: a field, and how many rows have all of its words.
function makeFilterable(table) {
  const rows = Array.from(table.tBodies[0].rows, (row) => ({
    row,
    text: Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase(),
  }));
  const field = document.createElement("input");
  const count = document.createElement("output");
  const label = document.createElement("label");
  field.type = "search";
  label.className = "filter";
  label.append("Rows with ", field, " ", count);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const { row, text } of rows) row.hidden = !words.every((word) => text.includes(word));
    count.textContent = `${rows.filter(({ row }) => !row.hidden).length} of ${rows.length}`;
  });
  table.parentElement.before(label);
}

for (const table of document.querySelectorAll(".scroll > table")) {
  makeSortable(table);
  if (table.tBodies[0].rows.length > LONG) makeFilterable(table);
}
