// Home: the runs of the folder, how far they are, and what can be done with them.
import { ago, api, ask, askToStop, el, every, forget, number, plural, problem, say, short, STATES } from "./lib.js";

const KINDS = { puzzles: "Puzzles", text: "Text", learner: "Book" };

export async function show(root) {
  const list = el("ul", { class: "list", "aria-label": "Runs" });
  const about = el("p", { class: "soft" });
  const empty = el("div", { class: "card empty", hidden: true },
    el("h2", {}, "Nothing has been learned here yet"),
    el("p", { class: "soft" }, "Choose a book, a letter or any other text, and watch a model learn to write like it."),
    el("a", { class: "button primary", href: "#learn" }, "Learn a book"));
  root.append(
    el("header", {}, el("div", {}, el("h1", {}, "Home"), about),
      el("a", { class: "button primary", href: "#learn", id: "begin", hidden: true }, "Learn a book")),
    empty, list);
  const cards = new Map();

  async function refresh() {
    const { runs } = await api("studio/runs");
    if (!about.textContent) about.textContent = `Runs in ${(await api("studio/about")).folder}`;
    empty.hidden = runs.length > 0;
    root.querySelector("#begin").hidden = runs.length === 0;
    for (const [name, card] of cards) {
      if (!runs.some(run => run.name === name)) {
        card.remove();
        cards.delete(name);
      }
    }
    let before = null;
    for (const run of runs) {
      let card = cards.get(run.name);
      if (!card) cards.set(run.name, card = newCard(run.name, act));
      card.fill(run);
      const place = before ? before.nextElementSibling : list.firstElementChild;
      if (place !== card && !card.contains(document.activeElement)) list.insertBefore(card, place);
      before = card;
    }
  }

  const calm = () => refresh().catch(problem);
  async function act(path, body, done) {
    forget();
    try {
      await api(`studio/${path}`, { json: body });
      say(done);
    } catch (error) {
      problem(error);
    }
    await calm();
  }
  return every(2000, calm);
}

function newCard(name, act) {
  const title = el("h2", {}), badge = el("span", { class: "badge" }), what = el("p", {}), facts = el("p", { class: "note" });
  const fill = el("div"), bar = el("div", { class: "bar", "aria-hidden": "true" }, fill), wrong = el("p", { class: "wrong" });
  const uses = el("div", { class: "row" }), more = el("div", { class: "row" });
  const card = el("li", { class: "card run" },
    el("div", { class: "stack" }, el("div", { class: "row apart" }, title, badge), what, facts, bar, wrong),
    el("div", { class: "row apart" }, uses, more));
  let known = "";

  const button = (text, work, kind = "plain") =>
    el("button", { type: "button", class: kind, onclick: work, "aria-label": `${text} ${name}` }, text);
  const link = (text, hash, kind = "plain") =>
    el("a", { class: `button ${kind}`, href: hash, "aria-label": `${text}: ${name}` }, text);

  async function rename() {
    const to = await ask(`Rename ${name}`, null, "Rename", { label: "New name", value: name.split("/").pop() });
    if (to && to !== name) await act("rename", { run: name, to }, `Renamed to ${to}`);
  }
  async function remove() {
    const sure = await ask(`Delete ${name}?`, "What it has learned is lost, with everything in its folder. Books are kept.", "Delete");
    if (sure) await act("delete", { run: name }, `${name} is deleted`);
  }
  async function stop() {
    if (await askToStop(name)) await act("stop", { run: name }, `${name} ends its book`);
  }

  card.fill = run => {
    const same = JSON.stringify(run);
    if (same === known) {
      facts.textContent = told(run);
      return;
    }
    known = same;
    const path = encodeURIComponent(run.name);
    const busy = ["training", "starting", "stopping"].includes(run.state);
    title.replaceChildren(run.kind === "learner" ? el("a", { href: `#learn/${path}` }, run.name) : run.name);
    badge.className = `badge ${busy ? "training" : run.state}`;
    badge.textContent = STATES[run.state];
    what.textContent = run.task?.includes("books: ") ? run.task : [KINDS[run.kind], run.task].filter(Boolean).join(": ");
    facts.textContent = told(run);
    wrong.textContent = run.problem ?? "";
    wrong.hidden = !run.problem;
    const share = run.steps ? run.step / run.steps : 0;
    bar.hidden = !run.steps || run.state === "finished";
    fill.style.width = `${100 * Math.min(1, share)}%`;
    const asked = uses.contains(document.activeElement) || more.contains(document.activeElement);
    uses.replaceChildren(...[
      run.kind === "learner" && busy && link("Watch", `#learn/${path}`, "primary"),
      !busy && run.parameters && run.kind !== "puzzles" && hasPage("chat") && link("Talk", `#chat/${path}`),
      !busy && run.parameters && run.kind === "puzzles" && hasPage("solve") && link("Solve", `#solve/${path}`),
      !busy && run.parameters && hasPage("inside") && link("Look inside", `#inside/${path}`),
      run.can_resume && button("Resume", () => act("resume", { run: run.name }, `${run.name} continues`), "primary"),
      run.can_pause && button("Pause", () => act("pause", { run: run.name }, `${run.name} saves and pauses`)),
      run.kind === "learner" && (run.state === "paused" || run.state === "training") && run.steps && button("Stop", stop, "quiet"),
    ].filter(Boolean));
    more.replaceChildren(...(busy ? [] : [button("Rename", rename, "quiet"), button("Delete", remove, "quiet")]));
    if (asked) (uses.querySelector("button, a") ?? more.querySelector("button"))?.focus();
  };
  return card;
}

const hasPage = name => document.querySelector(`#pages a[href="#${name}"]`) !== null;

function told(run) {
  const step = run.steps && run.state !== "finished" ? `${number(run.step)} of ${plural(run.steps, "update")}` : null;
  const size = run.parameters ? `${short(run.parameters)} parameters` : null;
  return [run.score && `${run.kind === "learner" ? "" : "best "}${run.score}`, step, size, `changed ${ago(run.changed)}`].filter(Boolean).join(" · ");
}
