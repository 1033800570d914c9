// Sorts a table by the column whose header button is pressed; without this script the tables are plain and whole.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  // A cell holds a number in words, such as "1,839" or "−3.4 points (−5.3 to −2.0)", or plain text.
  const number = (text) => parseFloat(text.replace(/[,<\s+]/g, "").replace("\u2212", "-"));
  const compare = (a, b, numeric) =>
    a === "" || b === "" ? (a === "") - (b === "") : (numeric && number(a) - number(b)) || a.localeCompare(b, "en", { numeric: true });

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => compare(text(a), text(b), header.className === "number"));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
});
