// A click on a heading sorts its table by that column, another turns the order round; what is empty stays last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const isUp = heading.getAttribute("aria-sort") !== "ascending";
    const isNumber = heading.classList.contains("number");
    const value = (row) => {
      const shown = row.cells[heading.cellIndex].dataset.sort;
      return shown === undefined ? null : isNumber ? Number(shown) : shown;
    };
    const compare = (first, second) => {
      const [a, b] = [value(first), value(second)];
      if (a === null || b === null) return (a === null) - (b === null);
      const order = isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return isUp ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", isUp ? "ascending" : "descending");
  });
}
