// What the page knows of each kind of puzzle: how it is written, filled in, and drawn.

const MAZE = { "#": ["", "wall", "wall"], " ": ["", "free", ""], S: ["S", "start", "end"], G: ["G", "goal", "end"], o: ["", "path", "path"] };
export const TOOLS = { "#": "Wall", " ": "Free", S: "Start", G: "Goal" };
const KEYS = { w: "#", "#": "#", " ": " ", ".": " ", Backspace: " ", Delete: " ", s: "S", S: "S", g: "G", G: "G" };
const BLANKS = " .0_*xX-·";

/** How a solver's puzzles are filled in: fill (symbols into cells), maze, arc, or text for all others. */
export function kindOf(puzzles) {
  if (puzzles.task === "maze" || puzzles.task === "arc") return puzzles.task;
  const plain = puzzles.blank?.length === 1 && puzzles.symbols.every(each => each.length === 1);
  return plain && puzzles.symbols.length <= 36 ? "fill" : "text";
}

/** The sign that a key stands for in a puzzle, or null. */
export function signOf(puzzles, key) {
  if (puzzles.task === "maze") return KEYS[key] ?? null;
  const symbol = puzzles.symbols.find(each => each === key) ?? puzzles.symbols.find(each => each === key.toUpperCase());
  if (symbol !== undefined) return symbol;
  return ["Backspace", "Delete", " ", ".", "0"].includes(key) ? puzzles.blank : null;
}

export const emptyOf = puzzles => Array(puzzles.shape[0] * puzzles.shape[1]).fill(puzzles.task === "maze" ? " " : puzzles.blank);

/** Signs as the text that is sent. */
export function written(puzzles, signs) {
  const cols = puzzles.shape[1], rows = [];
  for (let i = 0; i < signs.length; i += cols) rows.push(signs.slice(i, i + cols).join(""));
  return rows.join("\n");
}

/** The signs of a pasted text. Throws an Error that says why there are none. */
export function read(puzzles, text) {
  const [rows, cols] = puzzles.shape, count = rows * cols;
  const lines = text.replace(/\r/g, "").split("\n");
  if (puzzles.task === "maze") {
    const drawn = lines.filter(line => line.trim() !== "" || lines.length <= rows);
    const whole = drawn.length === 1 && drawn[0].length === count ? [...drawn[0]] : null;
    if (!whole && (drawn.length > rows || drawn.some(line => line.length > cols))) {
      throw new Error(`The maze is larger than ${rows} x ${cols}, which is all that this solver knows`);
    }
    const signs = whole ?? Array.from({ length: rows }, (_, row) =>
      [...(row < drawn.length ? drawn[row].padEnd(Math.max(...drawn.map(line => line.length))) : "").padEnd(cols, "#")]).flat();
    const strange = signs.find(sign => !(sign in MAZE));
    if (strange) throw new Error(`A maze is drawn with #, spaces, S and G, not with ${strange}`);
    return signs.map(sign => sign === "o" ? " " : sign);
  }
  const found = line => [...line].map(sign => puzzles.symbols.includes(sign) ? sign : BLANKS.includes(sign) && sign !== " " ? puzzles.blank : null)
    .filter(Boolean);
  const useful = lines.filter(line => !/^\s*(#|;|\/\/|\[)/.test(line));
  const alone = useful.map(line => found(line)).find(signs => signs.length === count);
  if (alone) return alone;
  // Row by row; borders such as ------+------ are left out, as their signs are all alike.
  const signs = useful.map(found).filter((each, i) => !/^[-+=| ]*$/.test(useful[i])).filter(each => each.length === cols).flat();
  if (signs.length < count) {
    throw new Error(`A puzzle of ${rows} rows with ${cols} cells each was expected; write . or 0 for an empty cell`);
  }
  return signs.slice(0, count);
}

/** A sign as a board shows it: {text, say, look}. */
export function drawn(puzzles, sign) {
  if (puzzles.task === "maze") {
    const [text, say, look] = MAZE[sign] ?? [sign, sign, ""];
    return { text, say, look };
  }
  const blank = sign === puzzles.blank || sign === "";
  return { text: blank ? "" : sign, say: blank ? "empty" : sign, look: "" };
}

/** The cell of a grid of the API (a number from 1, or a character) as a sign. */
export const signIn = (puzzles, value) =>
  typeof value === "number" ? puzzles.symbols[value - 1] ?? puzzles.blank ?? "" : value;

/** A task of ARC from a file: {id, train, test}. Throws an Error where it is none. */
export function arcTask(text, file = "") {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("This is not JSON: an ARC task is a file such as 007bbfb7.json");
  }
  const names = value && typeof value === "object" ? Object.keys(value) : [];
  if (names.length === 1 && value[names[0]]?.train) value = { id: names[0], ...value[names[0]] };
  const grid = each => Array.isArray(each) && each.length && each.every(row => Array.isArray(row) && row.length === each[0].length);
  if (!Array.isArray(value?.train) || !Array.isArray(value?.test) || !value.test.length
    || ![...value.train, ...value.test].every(pair => grid(pair?.input))) {
    throw new Error("This is no ARC task: it needs lists of pairs, train and test");
  }
  return { id: value.id ?? file.replace(/\.json$/i, ""), train: value.train, test: value.test };
}

/** The verdict in words. */
export function verdict(puzzles, answer) {
  const spent = `${answer.segments} segment${answer.segments === 1 ? "" : "s"}`;
  const tries = answer.attempts > 1 ? ` in ${answer.attempts} attempts` : "";
  const rule = puzzles.task === "maze" ? "The path is a shortest one." : "Every rule holds.";
  switch (answer.status) {
    case "solved": return `Solved after ${spent}${tries}. ${rule}`;
    case "answered":
      return puzzles.task === "arc"
        ? `Answered after ${spent}. ${answer.attempts} readings voted; nothing checks an answer of ARC, so it may be wrong.`
        : `Answered after ${spent}${tries}. This puzzle has no rules to check it by, so it may be wrong.`;
    case "unsolved":
      return `Not solved: in ${spent}${tries} it found nothing that keeps every rule. Let it try harder, or try an easier one.`;
    default: return `Not a puzzle that can be solved: ${answer.reason}.`;
  }
}
