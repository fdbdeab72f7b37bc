// A learner at work: the curve, how it writes, and what it still knows of each book.
import { curve } from "./curve.js";
import { ago, api, askToStop, duration, el, every, number, plural, problem, put, say, sentence, short, STATES } from "./lib.js";


export function watch(root, name) {
  const seen = { mark: "", points: [], measured: [], answer: null, pausing: false, state: "" };
  const plot = curve();
  let end = null;
  const title = el("h1", {}, name), badge = el("span", { class: "badge" }), lead = el("p", { class: "soft" });
  const buttons = el("div", { class: "row" }), wrong = el("p", { class: "wrong", hidden: true });
  const inside = el("div"), bar = el("div", { class: "bar", "aria-hidden": "true" }, inside), place = el("p", { class: "note" });
  const numbers = el("dl");
  const book = el("select", { "aria-label": "Book of the curve", onchange: () => redraw() });
  const choice = el("div", { hidden: true }, book);
  const sample = el("p", { class: "text" }), when = el("p", { class: "note" }), older = el("div", { class: "stack" });
  const samples = el("section", { class: "card", hidden: true, "aria-labelledby": "writes" },
    el("header", {}, el("h2", { id: "writes" }, "How it writes"), when), sample,
    el("details", {}, el("summary", {}, "Earlier samples"), older));
  const rows = el("tbody");
  const known = el("section", { class: "card", hidden: true, "aria-labelledby": "knows" },
    el("header", {}, el("h2", { id: "knows" }, "What it knows of each book"),
      el("p", { class: "note" }, "Bits for each character of text that it has not read: the fewer, the better. The last column says how much they have risen since the book was learned: so much was forgotten. A fall is a gain.")),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "knows" },
      el("table", {}, el("thead", {}, el("tr", {}, ...["Book", "Characters", "Learned", "Before", "Then", "Now", "Change"]
        .map((text, i) => el("th", { scope: "col", class: i === 1 || i > 2 ? "number" : null }, text)))), rows)));
  const printed = el("pre", { tabindex: "0" });
  root.append(
    el("header", {}, el("div", { class: "stack" }, el("div", { class: "row" }, title, badge), lead), buttons),
    wrong, el("section", { class: "card", "aria-label": "Progress" }, bar, place, numbers),
    el("section", { class: "card", "aria-labelledby": "curve" },
      el("div", { class: "row apart" }, el("header", { class: "stack" }, el("h2", { id: "curve" }, "Bits a character"),
        el("p", { class: "note keys" }, el("span", { class: "key trained" }), "training", el("span", { class: "key held" }), "held out; at the right its perplexity")), choice),
      plot.figure),
    samples, known, el("details", {}, el("summary", {}, "What hrm learn has printed"), printed));

  const button = (text, work, kind = "plain") => el("button", { type: "button", class: kind, onclick: work }, text);
  const send = (path, said) => async () => {
    try {
      if (path === "stop" && !await askToStop(name)) return;
      await api(`studio/${path}`, { json: { run: name } });
      seen.pausing = path === "pause";
      say(said);
    } catch (error) {
      problem(error);
    }
    await refresh();
  };

  async function refresh() {
    let answer;
    try {
      answer = await api(`studio/training?${new URLSearchParams({ run: name, mark: seen.mark })}`);
    } catch (error) {
      problem(error);
      if (error.status === 400) leave();
      return;
    }
    const { lines } = answer;
    if (lines.fresh) seen.points = seen.measured = [];
    seen.mark = lines.mark;
    seen.points = [...seen.points, ...lines.points];
    seen.measured = [...seen.measured, ...lines.measured];
    if (seen.points.length > 4000) seen.points = seen.points.filter((_, i) => i % 2);
    seen.answer = answer;
    tell(answer);
    redraw();
  }

  /** The book that is being read, or was read last, as the checkpoint has it. */
  const current = () => {
    const books = seen.answer?.reader?.books ?? [];
    return books.find(each => each.state === "learning") ?? books.at(-1) ?? null;
  };

  function tell({ run, reader, printed: said, books }) {
    const busy = ["starting", "training", "stopping"].includes(run.state);
    if (run.state !== "training") seen.pausing = false;
    const label = seen.pausing ? "Saving" : STATES[run.state];
    badge.className = `badge ${busy ? "training" : run.state}`;
    badge.textContent = label;
    if (seen.state && seen.state !== label) say(`${name}: ${label}`);
    wrong.hidden = !run.problem;
    wrong.textContent = run.problem ? sentence(run.problem) : "";

    const reading = current(), point = seen.points.findLast(each => each.book === reading?.name);
    const step = Math.max(reading?.step ?? 0, point?.step ?? 0), steps = reading?.steps ?? 0;
    const epoch = reading && steps ? Math.min(reading.epochs, 1 + Math.floor(Math.max(0, step - 1) / Math.max(1, Math.floor(steps / reading.epochs)))) : 0;
    const waits = books.filter(each => !reader?.books.some(one => one.name === each));
    lead.textContent = [
      reading ? `${busy || reading.state === "learning" ? "Reads" : "Has read"} ${reading.name}` : books.length ? `Will read ${books.join(", ")}` : "",
      reading && busy && epoch ? `epoch ${epoch} of ${reading.epochs}` : "", reading && waits.length ? `then ${waits.join(", ")}` : "",
    ].filter(Boolean).join(", ");
    const done = reading && reading.state !== "learning" && !busy;
    inside.style.width = `${done ? 100 : steps ? Math.min(100, (100 * step) / steps) : 0}%`;
    const lately = seen.points.filter(each => each.book === reading?.name).slice(-5);
    const left = lately.length ? (steps - step) * lately.reduce((sum, each) => sum + 1 / each.rate, 0) / lately.length : null;
    const preparing = busy && !point ? said.at(-1) ?? "Python and PyTorch are being loaded" : null;
    place.textContent = preparing ?? [
      steps && !done ? `${number(step)} of ${plural(steps, "update")}` : steps ? plural(step, "update") : "",
      busy && left !== null && run.state === "training" ? `about ${duration(left)} left` : "", busy && point ? `${point.rate.toPrecision(3)} updates a second` : "",
      !busy ? `changed ${ago(run.changed)}` : "",
    ].filter(Boolean).join(" · ");

    const held = heldOut(reading).at(-1)?.[1];
    const facts = [
      ["Training", point && `${point.bits.toFixed(2)} bits`, point && `perplexity ${plot.perplexity(point.bits)}`],
      ["Held out", held !== undefined && `${held.toFixed(3)} bits`, held !== undefined && `perplexity ${plot.perplexity(held)}`],
      ["Parameters", reader && short(reader.parameters), reader && `${number(reader.vocabulary)} different tokens`],
      ["Time so far", reader && duration(Math.max(reader.seconds, point?.seconds ?? 0)), reader && `${number(reader.updates)} updates saved`],
    ];
    numbers.replaceChildren(...facts.map(([term, value, note]) =>
      el("div", {}, el("dt", {}, term), el("dd", {}, value || "–", note && el("small", {}, note)))));

    const now = `${run.state} ${seen.pausing} ${run.can_resume}`;
    if (buttons.dataset.now !== now) {
      const focused = buttons.contains(document.activeElement);
      buttons.dataset.now = now;
      put(buttons, [
        run.can_pause && !seen.pausing && button("Pause", send("pause", `${name} saves and pauses`)),
        run.can_resume && button("Resume", send("resume", `${name} continues`), "primary"),
        (run.state === "training" || run.state === "paused") && button("Stop", send("stop", `${name} ends its book`), "quiet"),
        run.parameters && !busy && document.querySelector('#pages a[href="#chat"]') && el("a", { class: `button ${run.state === "finished" ? "primary" : ""}`, href: `#chat/${encodeURIComponent(name)}` }, "Talk with it"),
        run.state === "finished" && el("a", { class: "button", href: "#learn" }, "Learn another book"),
      ]);
      if (focused) buttons.querySelector("button, a")?.focus();
    }
    seen.state = label;
    printed.textContent = said.join("\n") || "Nothing yet.";

    const newest = seen.measured.at(-1);
    samples.hidden = !newest;
    if (newest) {
      sample.textContent = newest.sample.trim() || "(nothing yet)";
      when.textContent = `After ${plural(newest.update, "update")}, in one segment.`;
      const early = seen.measured.slice(0, -1).reverse().slice(0, 20);
      if (older.childElementCount / 2 !== early.length) {
        older.replaceChildren(...early.flatMap(each => [el("p", { class: "note" }, `After ${plural(each.update, "update")}`), el("p", { class: "text" }, each.sample.trim())]));
      }
      older.parentElement.hidden = !early.length;
    }
    known.hidden = !reader?.books.length;
    rows.replaceChildren(...(reader?.books ?? []).map(each => {
      const bits = each === reading && busy ? held ?? null : newest?.bits[each.name] ?? each.now;
      const change = each.then && bits && each.then !== bits ? (100 * (bits - each.then)) / each.then : null;
      const figure = value => value === null || value === undefined ? "–" : value.toFixed(3);
      return el("tr", {}, el("th", { scope: "row" }, each.name), el("td", { class: "number" }, number(each.characters)),
        el("td", { class: "whole" }, each.learned_at ? new Date(each.learned_at).toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : "–"),
        ...[each.before, each.then, bits].map(value => el("td", { class: "number" }, figure(value))),
        el("td", { class: "number" }, change === null ? "–" : `${change > 0 ? "+" : "−"}${Math.abs(change).toFixed(1)} %`));
    }));
    const names = (reader?.books ?? []).map(each => each.name);
    if (book.options.length !== names.length) {
      const chosen = book.value, latest = book.selectedIndex === book.options.length - 1;
      book.replaceChildren(...names.map(each => el("option", {}, each)));
      book.selectedIndex = latest || !names.includes(chosen) ? names.length - 1 : names.indexOf(chosen);
      choice.hidden = names.length < 2;
    }
  }

  /** Held-out bits of a book while it was read, from before the first update on: [update, bits]. */
  function heldOut(one) {
    if (!one) return [];
    const reader = seen.answer.reader;
    const found = new Map(one.before === null || one.before === undefined ? [] : [[0, one.before]]);
    for (const [step, bits] of one.measured) found.set(step, bits);
    if (one === current()) {
      const begins = reader.updates - one.step;
      for (const each of seen.measured) {
        if (each.book === one.name && each.update >= begins && each.bits[one.name] !== undefined) found.set(each.update - begins, each.bits[one.name]);
      }
    }
    return [...found].sort((a, b) => a[0] - b[0]);
  }

  function redraw() {
    const books = seen.answer?.reader?.books ?? [];
    const one = books[book.selectedIndex] ?? current();
    const training = seen.points.filter(point => point.book === one?.name).map(point => [point.step, point.bits]);
    plot.fill({ training, heldOut: heldOut(one), steps: one?.steps ?? 0 });
  }

  function leave() { // also where there is no such run any more
    end?.();
    plot.leave();
  }
  inside.style.width = 0;
  end = every(2000, refresh);
  return leave;
}
