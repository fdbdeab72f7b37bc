// A grid of cells for the keyboard, the mouse, the finger and the screen reader.
import { el } from "./lib.js";

/**
 * A board of `rows` x `cols` cells. `blocks` holds the box of each cell, if there are boxes. With `onkey(cell, key)` and
 * `ondraw(cell, first)` it can be filled in; onkey returns the cell to go to, or null for a key that means nothing.
 */
export function board({ rows, cols, label, blocks = [], kind = "", onkey = null, ondraw = null, onfocus = null }) {
  const cells = Array.from({ length: rows * cols }, (_, i) => {
    const row = Math.floor(i / cols), col = i % cols;
    const thick = (j, inside) => inside && blocks.length && blocks[i] !== blocks[j];
    const edges = [thick(i - 1, col > 0) && "edge-left", thick(i - cols, row > 0) && "edge-top"].filter(Boolean).join(" ");
    return el("div", { role: "gridcell", class: `cell ${edges}`, tabindex: i ? -1 : 0, "data-cell": i });
  });
  const node = el("div", {
    role: "grid", "aria-label": label, "aria-readonly": onkey ? null : "true", class: `board ${kind}`,
    style: { "--cols": cols, "--rows": rows },
  }, Array.from({ length: rows }, (_, row) => el("div", { role: "row" }, cells.slice(row * cols, row * cols + cols))));
  let at = 0;

  function go(to, focus = true) {
    cells[at].tabIndex = -1;
    at = to;
    cells[at].tabIndex = 0;
    if (focus) cells[at].focus();
  }
  function moved(event) {
    const row = Math.floor(at / cols), col = at % cols, whole = event.ctrlKey || event.metaKey;
    switch (event.key) {
      case "ArrowLeft": return col > 0 ? at - 1 : at;
      case "ArrowRight": return col < cols - 1 ? at + 1 : at;
      case "ArrowUp": return row > 0 ? at - cols : at;
      case "ArrowDown": return row < rows - 1 ? at + cols : at;
      case "Home": return whole ? 0 : row * cols;
      case "End": return whole ? rows * cols - 1 : row * cols + cols - 1;
      default: return null;
    }
  }
  node.addEventListener("keydown", event => {
    let to = moved(event);
    if (to === null && onkey && !event.ctrlKey && !event.metaKey && !event.altKey) to = onkey(at, event.key);
    if (to === null || to === undefined) return;
    event.preventDefault();
    go(Math.max(0, Math.min(cells.length - 1, to)));
  });
  node.addEventListener("focusin", event => {
    const cell = event.target.dataset?.cell;
    if (cell === undefined) return;
    go(Number(cell), false);
    onfocus?.(at);
  });

  const under = event => document.elementFromPoint(event.clientX, event.clientY)?.closest?.(".cell");
  let last = null;
  if (ondraw) {
    node.addEventListener("pointerdown", event => {
      const cell = event.target.closest(".cell");
      if (!cell || event.button) return;
      last = cell;
      ondraw(Number(cell.dataset.cell), true);
    });
    node.addEventListener("pointermove", event => {
      const cell = event.buttons & 1 ? under(event) : null;
      if (!cell || cell === last || !node.contains(cell)) return;
      last = cell;
      ondraw(Number(cell.dataset.cell), false);
    });
  }

  return {
    node,
    get at() { return at; },
    go,
    /** Show cells: {text, say, look (classes)} each. */
    fill(shown) {
      shown.forEach(({ text, say, look = "" }, i) => {
        const cell = cells[i];
        if (cell.firstChild?.data !== text) cell.textContent = text;
        const name = `Row ${Math.floor(i / cols) + 1}, column ${i % cols + 1}: ${say}`;
        if (cell.getAttribute("aria-label") !== name) cell.setAttribute("aria-label", name);
        const edges = [...cell.classList].filter(each => each.startsWith("edge-"));
        const classes = ["cell", ...edges, look].filter(Boolean).join(" ");
        if (cell.className !== classes) cell.className = classes;
      });
    },
  };
}
