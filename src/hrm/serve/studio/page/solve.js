// Solve: a puzzle is typed, drawn, pasted or opened, and the model's thinking is watched segment by segment.
import { board } from "./board.js";
import { api, el, forget, plural, problem, say, sentence, stream } from "./lib.js";
import { arcTask, drawn, emptyOf, kindOf, read, signIn, signOf, TOOLS, verdict, written } from "./puzzles.js";

const PLAY = 5000;  // milliseconds in which all segments are played, at most
const TRIES = [
  ["max_segments", "Segments", 1, 100000], ["restarts", "New beginnings", 0, 1000],
  ["guesses", "Guesses", 0, 10000], ["views", "Views", 1, 100],
];

export async function show(root, argument) {
  const { data } = await api("v1/models");
  const solvers = data.filter(each => each.puzzles);
  const choose = el("select", { id: "solver", onchange: () => open(choose.value) },
    solvers.map(each => el("option", { value: each.id }, `${each.id}: ${title(each.puzzles)}`)));
  const place = el("div", { class: "solving" });
  root.append(
    el("header", {}, el("div", {}, el("h1", {}, "Solve"),
      el("p", { class: "soft" }, "Give it a puzzle and watch it think. An answer counts only when the rules of the puzzle accept it."))),
    el("div", { class: "field narrow" }, el("label", { for: "solver" }, "Solver"), choose), place);
  let leave = null;

  function open(name) {
    leave?.();
    forget();
    const model = solvers.find(each => each.id === name);
    history.replaceState(null, "", `#solve/${encodeURIComponent(name)}`);
    const thinking = newThinking(model);
    const asking = newAsking(model, thinking);
    place.replaceChildren(asking.node, thinking.node);
    leave = () => thinking.stop();
  }
  if (argument && !solvers.some(each => each.id === argument)) {
    problem(new Error(`${argument} solves no puzzles that this page can show`));
  }
  const first = solvers.find(each => each.id === argument) ?? solvers[0];
  choose.value = first.id;
  open(first.id);
  return () => leave?.();
}

const padWidth = count => Math.ceil(count / Math.ceil(count / 6));
const title = puzzles => `${puzzles.task} ${puzzles.shape.join(" x ")}`;

// The puzzle

function newAsking(model, thinking) {
  const puzzles = model.puzzles, kind = kindOf(puzzles), key = `solve:${model.id}`;
  const middle = el("div", { class: "stack" });
  const file = el("input", { type: "file", class: "unseen", id: "file", tabindex: -1, "aria-label": "Open a file",
    onchange: async () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) await take(await chosen.slice(0, 1 << 20).text(), chosen.name);
    } });
  const text = el("textarea", { id: "written", rows: 6, spellcheck: "false", autocomplete: "off" });
  const again = el("details", {}, el("summary", {}, kind === "arc" ? "Paste a task" : "As text"),
    el("div", { class: "stack" }, el("label", { for: "written" }, kind === "arc" ? "The task as JSON" : "One line, or row by row"), text,
      el("div", {}, el("button", { type: "button", onclick: () => take(text.value) }, "Use this text"))));
  const tries = Object.fromEntries(TRIES.map(([name, label, min, max]) =>
    [name, el("input", { id: name, type: "number", min, max, placeholder: "as usual", "aria-label": label })]));
  const offered = TRIES.filter(([name]) => name === "max_segments" || (kind !== "arc" && (name !== "guesses" || puzzles.guesses)));
  const copies = kind === "arc" && el("input", { id: "copies", type: "number", min: 1, max: puzzles.copies ?? 1, value: Math.min(8, puzzles.copies ?? 1) });
  const harder = el("details", {}, el("summary", {}, "How hard it tries"),
    el("div", { class: "fields" },
      offered.map(([name, label]) => el("div", { class: "field" }, el("label", { for: name }, label), tries[name])),
      copies && el("div", { class: "field" }, el("label", { for: "copies" }, "Copies that vote"), copies)));
  const solve = el("button", { type: "button", class: "primary", id: "solve", onclick: () => ask() }, "Solve");
  const example = el("button", { type: "button", onclick: () => another() }, "Another example");
  const node = el("section", { class: "card", "aria-labelledby": "asked-title" },
    el("h2", { id: "asked-title" }, "The puzzle"), middle,
    el("div", { class: "row" }, solve, kind !== "arc" && example,
      el("button", { type: "button", onclick: () => file.click() }, kind === "arc" ? "Open a task" : "Open a file"), file,
      kind !== "arc" && kind !== "text" && el("button", { type: "button", class: "quiet", onclick: () => { signs = emptyOf(puzzles); paint(); thinking.clear(); } }, "Clear")),
    harder, again);
  let signs = [], task = null, editor = null, sizes = [...puzzles.shape];

  // Filling in

  function keep() {
    text.value = kind === "arc" ? JSON.stringify(task) : kind === "text" ? text.value : written(puzzles, sent());
    try { localStorage.setItem(key, text.value); } catch { /* it is only for coming back */ }
  }
  function paint() {
    editor?.fill(inside().map(i => {
      const cell = drawn(puzzles, signs[i]);
      return { ...cell, look: `${cell.look} given` };
    }));
    keep();
  }
  const inside = () => Array.from({ length: sizes[0] * sizes[1] }, (_, i) => Math.floor(i / sizes[1]) * puzzles.shape[1] + i % sizes[1]);
  /** A smaller maze stands in a corner, with walls around it. */
  const sent = () => {
    const within = new Set(inside());
    return kind === "maze" ? signs.map((sign, i) => within.has(i) ? sign : "#") : signs;
  };
  function put(cell, sign) {
    const i = inside()[cell];
    if (sign === "S" || sign === "G") signs = signs.map(each => each === sign ? " " : each);
    signs[i] = sign;
    paint();
  }

  // Each kind

  function build() {
    const [rows, cols] = sizes;
    let tool = "#";
    const onkey = (cell, name) => {
      const sign = signOf(puzzles, name);
      if (sign === null) return null;
      put(cell, sign);
      thinking.clear();
      const back = name === "Backspace";
      return kind === "maze" || name === "Delete" || back ? cell : Math.min(cell + 1, rows * cols - 1);
    };
    editor = board({
      rows, cols, kind: kind === "maze" ? "maze" : "", label: "The puzzle", blocks: kind === "fill" ? puzzles.blocks : [], onkey,
      ondraw: kind === "maze" ? (cell, first) => {
        if (first || !["S", "G"].includes(tool)) put(cell, tool);
        thinking.clear();
      } : null,
    });
    const held = kind === "fill"
      ? el("div", { class: "pad", role: "group", "aria-label": "Write into the chosen cell", style: { "--pad": padWidth(puzzles.symbols.length + 1) } },
        [...puzzles.symbols, puzzles.blank].map(sign => el("button", {
          type: "button", "aria-label": sign === puzzles.blank ? "Empty" : sign,
          onclick: () => { put(editor.at, sign); thinking.clear(); },
        }, sign === puzzles.blank ? "✕" : sign)))
      : el("fieldset", { class: "drawing" }, el("legend", {}, "Draw with"),
        el("div", { class: "row" }, Object.entries(TOOLS).map(([sign, name]) => el("label", { class: "choice" },
          el("input", { type: "radio", name: "tool", checked: sign === tool, onchange: () => { tool = sign; } }), el("span", {}, name)))),
        el("div", { class: "row" }, ["Rows", "Columns"].map((name, side) => el("label", { class: "size" }, name,
          el("input", {
            type: "number", min: 2, max: puzzles.shape[side], value: sizes[side], id: name.toLowerCase(),
            onchange: event => {
              sizes[side] = Math.max(2, Math.min(puzzles.shape[side], Math.round(Number(event.target.value)) || puzzles.shape[side]));
              build();
              thinking.clear();
              document.getElementById(name.toLowerCase()).focus();
            },
          })))));
    const hint = kind === "maze" ? "Draw with the mouse or a finger; or with arrows and the keys W, space, S and G."
      : "Type into the cells; arrows move, Delete empties. Or paste a puzzle.";
    middle.replaceChildren(editor.node, el("p", { class: "note" }, hint), held);
    if (signs.length) paint();
  }
  function drawTask() {
    middle.replaceChildren(...(task ? arcPairs(task) : [el("p", { class: "soft" },
      "Open the file of a task, such as 007bbfb7.json. A run answers only tasks that it has learned; it knows them by their names.")]));
  }

  async function take(given, name = "") {
    forget();
    try {
      if (kind === "arc") {
        task = arcTask(given, name);
        drawTask();
        keep();
      } else if (kind === "text") {
        text.value = given;
        keep();
      } else {
        const found = read(puzzles, given);
        if (kind === "maze" && sizes.some((side, i) => side !== puzzles.shape[i])) {
          sizes = [...puzzles.shape];
          build();
        }
        signs = found;
        paint();
      }
      thinking.clear();
      say("The puzzle is there");
    } catch (error) {
      problem(error);
    }
  }
  async function another() {
    try {
      const { question } = await api(`studio/example?run=${encodeURIComponent(model.id)}&seed=${Math.floor(Math.random() * 2 ** 31)}`);
      await take(question);
    } catch (error) {
      problem(error);
    }
  }
  node.addEventListener("paste", event => {
    if (["TEXTAREA", "INPUT"].includes(event.target.tagName)) return;
    event.preventDefault();
    take(event.clipboardData.getData("text"));
  });
  function ask() {
    const puzzle = kind === "arc" ? task : kind === "text" ? text.value : written(puzzles, sent());
    if (!puzzle) {
      problem(new Error(kind === "arc" ? "Open a task first" : "Write a puzzle first"));
      return;
    }
    keep();
    const body = { model: model.id, puzzle, watch: true, probabilities: kind === "fill" && puzzles.shape[0] <= 9 };
    for (const [name] of offered) if (tries[name].value !== "") body[name] = Number(tries[name].value);
    if (copies) body.copies = Math.max(1, Math.min(puzzles.copies ?? 1, Number(copies.value) || 1));
    thinking.start(body, kind === "arc" ? task : signs, kind === "maze" ? [...sizes] : puzzles.shape);
  }

  let before = null;
  try { before = localStorage.getItem(key); } catch { /* then it begins with an example */ }
  if (kind === "arc") {
    drawTask();
    if (before) take(before);
  } else if (kind === "text") {
    again.open = true;
    middle.append(el("p", { class: "soft" }, `Write the puzzle as text: ${title(puzzles)} cells.`));
    if (before) text.value = before; else another();
  } else {
    signs = emptyOf(puzzles);
    build();
    if (before) take(before); else another();
  }
  return { node };
}

// The thinking

function newThinking(model) {
  const puzzles = model.puzzles, kind = kindOf(puzzles), calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const said = el("p", { class: "verdict", id: "verdict" });
  const where = el("div", { class: "stack" });
  const slider = el("input", { type: "range", min: 0, max: 0, value: 0, id: "segment", "aria-label": "Segment", oninput: () => { halt(); at(Number(slider.value)); } });
  const button = (name, label, work) => el("button", { type: "button", "aria-label": label, title: label, onclick: work }, name);
  const to = (name, label, place) => button(name, label, () => { halt(); at(place()); });
  const play = button("Play", "Play", () => playing ? halt() : begin());
  const controls = el("div", { class: "stack scrub", hidden: true }, slider, el("div", { class: "row" },
    to("|‹", "To the puzzle", () => 0), to("‹", "One segment back", () => current - 1), play,
    to("›", "One segment on", () => current + 1), to("›|", "To the last segment", () => frames.length)));
  const facts = el("dl", { hidden: true }), fact = {};
  for (const [name, label] of [["segment", "Segment"], ["confidence", "Confidence"], ["changed", "Changed"], ["wrong", "Break a rule"]]) {
    if (name === "wrong" && (!puzzles.verified || kind === "arc")) continue;
    facts.append(el("div", {}, el("dt", {}, label), fact[name] = el("dd")));
  }
  const considers = el("p", { class: "note considers" });
  const end = el("button", { type: "button", class: "quiet", id: "stop", hidden: true, onclick: () => stop("Stopped.") }, "Stop");
  const others = el("div", { class: "stack" });
  const node = el("section", { class: "card", "aria-labelledby": "thinking-title", hidden: true },
    el("div", { class: "row apart" }, el("h2", { id: "thinking-title" }, "What it thinks"), end), said, where, controls, facts, considers, others);
  let frames = [], given = [], current = 0, view = null, shape = puzzles.shape, playing = null, abort = null, told = 0;

  function clear() {
    stop();
    node.hidden = true;
  }
  function stop(word = "") {
    abort?.abort();
    abort = null;
    end.hidden = true;
    halt();
    if (word) {
      said.textContent = word;
      say(word);
    }
  }
  async function start(body, question, size) {
    stop();
    forget();
    [frames, given, current, shape, told] = [[], question, 0, size, Date.now()];
    others.replaceChildren();
    considers.textContent = "";
    considers.hidden = !body.probabilities;
    node.hidden = controls.hidden = facts.hidden = false;
    end.hidden = false;
    slider.max = 0;
    said.className = "verdict";
    said.textContent = "It thinks ...";
    say("It thinks");
    view = kind === "text" || kind === "arc" ? null : newView();
    where.replaceChildren(...(view ? [view.node] : []));
    at(0);
    const mine = abort = new AbortController();
    try {
      await stream("v1/solve", body, event => {
        if (mine !== abort) return;
        if (event.object === "segment") arrive(event);
        else if (event.object === "answer") answered(event);
      }, mine.signal);
    } catch (error) {
      if (mine === abort) said.textContent = "";
      problem(error);
    } finally {
      if (mine === abort) {
        abort = null;
        end.hidden = true;
      }
    }
  }
  function arrive(segment) {
    frames.push(segment);
    slider.max = frames.length;
    if (calm) at(frames.length);
    else if (!playing && current === frames.length - 1) begin();
    if (Date.now() - told > 5000) {
      told = Date.now();
      say(`${plural(frames.length, "segment")} so far`);
    }
  }
  function answered(answer) {
    const words = verdict(puzzles, answer);
    said.textContent = words;
    said.className = `verdict ${answer.status}`;
    controls.hidden = facts.hidden = frames.length === 0;
    if (!frames.length) where.replaceChildren();
    if (answer.tests?.length) others.replaceChildren(...arcAnswers(answer.tests));
    say(words);
    node.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }

  // Going back and forth

  function begin() {
    if (current >= frames.length) at(0);
    const beat = () => {
      if (current < frames.length) at(current + 1);
      else if (!abort) return halt();
      playing = setTimeout(beat, Math.max(40, Math.min(450, PLAY / Math.max(1, frames.length))));
    };
    call("Pause");
    playing = setTimeout(beat, 150);
  }
  function halt() {
    clearTimeout(playing);
    playing = null;
    call("Play");
  }
  function call(name) {
    play.textContent = play.ariaLabel = play.title = name;
  }
  function at(number) {
    current = Math.max(0, Math.min(frames.length, number));
    slider.value = current;
    const frame = frames[current - 1];
    const changed = paint(frame, frames[current - 2]);
    const wrong = frame?.wrong.length ?? 0;
    const attempt = frame && frame.attempt > 1 ? `, attempt ${frame.attempt}` : "";
    fact.segment.textContent = frame ? `${current} of ${frames.length}${attempt}` : "The puzzle";
    fact.confidence.replaceChildren(...(frame ? [percent(frame.confidence), meter(frame.confidence)] : ["–"]));
    fact.changed.textContent = frame ? plural(changed, "cell") : "–";
    if (fact.wrong) fact.wrong.textContent = frame ? plural(wrong, "cell") : "–";
    slider.setAttribute("aria-valuetext", frame
      ? `Segment ${current} of ${frames.length}, ${plural(changed, "cell")} changed, ${wrong} break a rule` : "The puzzle");
    if (view) look(view.at);
  }
  function paint(frame, before) {
    if (kind === "arc") return paintArc(frame, before);
    if (kind === "text") {
      where.replaceChildren(el("pre", {}, frame ? frame.grid.map(row => row.map(value => signIn(puzzles, value)).join(" ")).join("\n") : ""));
      return frame && before ? frame.grid.flat().filter((value, i) => value !== before.grid.flat()[i]).length : 0;
    }
    let count = 0;
    const wrong = new Set(frame?.wrong), cols = puzzles.shape[1], was = before?.grid.flat(), is = frame?.grid.flat();
    const empty = kind === "maze" ? [" "] : [puzzles.blank];
    view.fill(Array.from({ length: shape[0] * shape[1] }, (_, n) => {
      const i = Math.floor(n / shape[1]) * cols + n % shape[1];
      const sign = is ? signIn(puzzles, is[i]) : given[i], first = !empty.includes(given[i]);
      const left = wrong.size && frame.deduced?.candidates[i].map(each => signIn(puzzles, each)).join("");
      if (left?.length > 1) return { text: left, say: `possible: ${left}`, look: "many" };
      const changed = Boolean(is && (was ? is[i] !== was[i] : sign !== given[i]));
      count += changed;
      const cell = drawn(puzzles, sign), bad = wrong.has(i);
      const notes = [first && kind === "fill" && "given", changed && "changed", bad && "breaks a rule"].filter(Boolean);
      return { ...cell, say: [cell.say, ...notes].join(", "), look: [cell.look, first && "given", changed && "changed", bad && "bad"].filter(Boolean).join(" ") };
    }));
    return count;
  }
  function paintArc(frame, before) {
    if (!frame) {
      where.replaceChildren(arcGrid(given.test[0].input, "The first test input"));
      return 0;
    }
    const grid = arcInside(frame.grid), was = before ? JSON.stringify(arcInside(before.grid)) : "";
    where.replaceChildren(grid.length ? arcGrid(grid, "What it reads after this segment") : el("p", { class: "soft" }, "No grid yet."));
    return before && JSON.stringify(grid) !== was
      ? grid.flat().filter((value, i) => value !== arcInside(before.grid).flat()[i]).length : 0;
  }
  const newView = () => board({
    rows: shape[0], cols: shape[1], kind: kind === "maze" ? "maze" : "", label: "What it thinks", blocks: kind === "fill" ? puzzles.blocks : [],
    onfocus: look,
  });
  /** What it holds possible in a cell. */
  function look(cell) {
    const shares = frames[current - 1]?.probabilities?.[cell];
    if (!shares) {
      considers.textContent = "";
      return;
    }
    const best = shares.map((share, i) => [share, puzzles.symbols[i]]).filter(([share]) => share >= 0.01).sort((a, b) => b[0] - a[0]).slice(0, 4);
    considers.textContent = `Row ${Math.floor(cell / shape[1]) + 1}, column ${cell % shape[1] + 1}: `
      + best.map(([share, symbol]) => `${symbol} with ${percent(share)}`).join(", ");
  }
  return { node, start, stop, clear };
}

const percent = share => share === null ? "unknown" : `${Math.floor(100 * share)}\u00a0%`;
const meter = share => el("div", { class: "bar", "aria-hidden": "true" }, el("div", { style: { width: `${100 * (share ?? 0)}%` } }));

// ARC

const NAMES = ["black", "blue", "red", "green", "yellow", "grey", "pink", "orange", "light blue", "brown"];

function arcGrid(grid, label) {
  const shown = board({ rows: grid.length, cols: grid[0].length, label, kind: "arc" });
  shown.fill(grid.flat().map(colour => ({ text: String(colour), say: `${colour}, ${NAMES[colour] ?? ""}`, look: `c${colour}` })));
  return el("figure", { style: { "--cols": grid[0].length } }, shown.node, el("figcaption", { class: "note" }, label));
}

const arcPairs = task => [
  el("h3", {}, task.id ? `Task ${task.id}` : "A task without a name"),
  ...task.train.map((pair, i) => el("div", { class: "pair" }, arcGrid(pair.input, `Example ${i + 1}`), el("span", { "aria-hidden": "true" }, "→"),
    pair.output && arcGrid(pair.output, `becomes`))),
  ...task.test.map((pair, i) => el("div", { class: "pair" }, arcGrid(pair.input, `Test ${i + 1}`), el("span", { "aria-hidden": "true" }, "→"), el("b", {}, "?"))),
];

const arcAnswers = tests => tests.flatMap((guesses, i) => [
  el("h3", {}, `Test ${i + 1}`),
  el("div", { class: "pair" }, guesses.length
    ? guesses.map((guess, n) => arcGrid(guess.grid, `${n ? "Second" : "First"} guess, ${plural(guess.votes, "vote")}`))
    : el("p", {}, "No grid.")),
]);

/** The part of a board that holds colours. */
function arcInside(rows) {
  const found = rows.map(row => {
    const end = row.findIndex(value => !/\d/.test(value));
    return row.slice(0, end < 0 ? row.length : end).map(Number);
  });
  const last = found.findIndex(row => !row.length), kept = found.slice(0, last < 0 ? found.length : last);
  const width = Math.min(...kept.map(row => row.length));
  return kept.map(row => row.slice(0, width));
}
