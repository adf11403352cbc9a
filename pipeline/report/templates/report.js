"use strict";
// Sorting: a click on a header sorts by it, another turns it round; gaps stay last either way.
const collator = new Intl.Collator("en", { numeric: true });
function keyOf(row, place) {
  const cell = row.cells[place];
  const number = cell.dataset.sort === undefined ? NaN : Number(cell.dataset.sort);
  return { number, text: cell.textContent.trim(), gap: cell.classList.contains("gap") };
}
function compare(a, b, sign) {
  if (a.gap !== b.gap) return a.gap ? 1 : -1;
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return sign * (a.number - b.number);
  return sign * collator.compare(a.text, b.text);
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, place) => header.firstElementChild.addEventListener("click", () => {
    const first = header.classList.contains("number") ? "descending" : "ascending";
    const order = header.ariaSort === "none" ? first : header.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of headers) other.ariaSort = "none";
    header.ariaSort = order;
    const rows = [...table.tBodies[0].rows].map(row => ({ row, key: keyOf(row, place) }));
    rows.sort((a, b) => compare(a.key, b.key, order === "ascending" ? 1 : -1));
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }));
}
const themes = ["automatic", "light", "dark"];
const button = document.getElementById("theme");
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "automatic") + 1) % themes.length];
  if (next === "automatic") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  button.textContent = `Theme: ${next}`;
});
