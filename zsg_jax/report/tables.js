"use strict";
// Heads of tables become buttons that sort, tables and commands can be copied, pairs searched.
const words = (cell) => cell.textContent.replace(/\s+/g, " ").trim();
const value = (cell) => parseFloat(words(cell).replace(/^< |,/g, ""));

function sort(table, column, head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  const rows = [...table.tBodies[0].rows];
  const told = rows.map((row) => row.cells[column]).filter((cell) => words(cell) !== "–");
  const numbers = column > 0 && told.every((cell) => !Number.isNaN(value(cell)));
  const empty = (row) => words(row.cells[column]) === "–";
  rows.sort((a, b) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const [x, y] = [a.cells[column], b.cells[column]];
    const order = numbers
      ? value(x) - value(y)
      : words(x).localeCompare(words(y), "en", { numeric: true });
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
}

function csv(table) {
  const quoted = (cell) => {
    const small = [...cell.querySelectorAll("small")].map(words);
    const own = cell.cloneNode(true);
    for (const one of own.querySelectorAll("small")) one.remove();
    return `"${[words(own), ...small].join(" ").trim().replace(/"/g, '""')}"`;
  };
  return [...table.rows].map((row) => [...row.cells].map(quoted).join(",")).join("\n") + "\n";
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copier(label, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = label;
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    await copy(text());
    status.textContent = " Copied.";
    setTimeout(() => (status.textContent = ""), 2000);
  });
  const line = document.createElement("p");
  line.className = "faint";
  line.append(button, status);
  return line;
}

function search(place) {
  const label = document.createElement("label");
  label.className = "search faint";
  const field = document.createElement("input");
  field.type = "search";
  const found = document.createElement("span");
  found.setAttribute("role", "status");
  label.append("Only those that hold: ", field, found);
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    let count = 0;
    for (const one of place.querySelectorAll("article")) {
      one.hidden = !one.textContent.toLowerCase().includes(wanted);
      count += !one.hidden;
    }
    for (const fold of place.querySelectorAll("details.fold"))
      fold.open = wanted !== "" && fold.querySelector("article:not([hidden])") !== null;
    found.textContent = wanted ? ` ${count} found` : "";
  });
  return label;
}

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column, head));
    head.append(button);
  });
  table.closest(".scroll").after(copier("Copy as CSV", () => csv(table)));
}
for (const code of document.querySelectorAll("pre > code"))
  code.parentElement.after(copier("Copy the command", () => code.textContent));
for (const place of document.querySelectorAll("[data-search]"))
  place.querySelector("h2").after(search(place));
