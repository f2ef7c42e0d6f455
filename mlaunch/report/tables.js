// Tables sort by a column when its head is clicked; cells with data-v by that number.
"use strict";
(() => {
  function sort(head, column) {
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    const value = (row) => {
      const cell = row.cells[column];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    const order = (a, b) => (value(a) < value(b) ? 1 : value(a) > value(b) ? -1 : 0);
    const rows = [...body.rows].sort((a, b) => (down ? order(a, b) : order(b, a)));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  }

  for (const head of document.querySelectorAll("thead th")) {
    head.classList.add("sortable");
    head.addEventListener("click", () => sort(head, head.cellIndex));
  }
})();
