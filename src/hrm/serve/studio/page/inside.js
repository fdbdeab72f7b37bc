// Inside: what hrm analyze has found out about a run, figure by figure, and the report.
import { api, duration, el, every, forget, problem, say, sentence } from "./lib.js";

const NAMES = {
  steps: "Steps", answers: "Answers", halting: "Halting", paths: "Paths", dimensions: "Dimensions", ablate: "Parts",
  training: "Learning", report: "Report",
};

export async function show(root, argument) {
  const { data } = await api("v1/models");
  const choose = el("select", { id: "run", onchange: () => open(choose.value) }, data.map(each => el("option", { value: each.id }, each.id)));
  const place = el("div", { class: "stack looked" });
  root.append(
    el("header", {}, el("div", {}, el("h1", {}, "Inside"),
      el("p", { class: "soft" }, "How a model thinks, in figures. Each is made when you ask for it, and kept with the run."))),
    el("div", { class: "field narrow" }, el("label", { for: "run" }, "Run"), choose), place);
  let leave = null;

  function open(run) {
    leave?.();
    forget();
    history.replaceState(null, "", `#inside/${encodeURIComponent(run)}`);
    leave = look(run, place);
  }
  if (argument && !data.some(each => each.id === argument)) problem(new Error(`There is no run ${argument} to look into`));
  const first = data.find(each => each.id === argument) ?? data[0];
  choose.value = first.id;
  open(first.id);
  return () => leave?.();
}

function look(run, place) {
  const file = (name, mark) => `studio/inside/file?run=${encodeURIComponent(run)}&name=${name}${mark ? `&at=${mark}` : ""}`;
  const questions = el("ul", { class: "list questions", "aria-label": "What can be asked" });
  const working = el("div", { class: "card working", hidden: true });
  const figures = el("div", { class: "stack", "aria-label": "Figures", role: "region" });
  const share = el("div"), what = el("p", {});
  const stop = el("button", { type: "button", onclick: async () => {
    try {
      await api("studio/inside/stop", { method: "POST" });
      say("Stopped");
    } catch (error) {
      problem(error);
    }
    await calm();
  } }, "Stop");
  working.append(what, el("div", { class: "bar", "aria-hidden": "true" }, share), el("div", {}, stop));
  place.replaceChildren(el("section", { class: "card", "aria-label": "Questions" }, el("h2", {}, "Ask"), questions), working, figures);
  let known = "", drawn = "", was = null, over = false;

  async function refresh() {
    const found = await api(`studio/inside?run=${encodeURIComponent(run)}`);
    if (over) return;
    const { work } = found, busy = Boolean(work?.lives);
    working.hidden = !busy;
    if (busy) {
      share.style.width = `${100 * work.share}%`;
      what.textContent = `${NAMES[work.question]}: ${work.share ? `${Math.round(100 * work.share)} % done` : "loading the model"}, ${duration(work.seconds)} so far`;
    } else if (was?.lives && work) {
      if (work.problem) problem(new Error(work.problem));
      else if (!work.stopped) say(`${NAMES[work.question]} is ready`);
    }
    const done = was?.lives && !busy && work && !work.problem && !work.stopped ? work.question : null;
    was = work;
    offer(found, busy);
    draw(found);
    if (done) document.getElementById(`figure-${done}`)?.scrollIntoView({ block: "start" });
  }
  function offer(found, busy) {
    const made = new Set(found.figures.map(each => each.question).concat(found.report ? ["report"] : []));
    const same = JSON.stringify([...made, busy]);
    if (same === known) return;
    known = same;
    const held = document.activeElement?.dataset?.question;
    questions.replaceChildren(...found.questions.map(({ name, about }) => el("li", { class: "row apart" },
      el("div", {}, el("b", {}, NAMES[name]), el("p", { class: "soft" }, `${about}.`)),
      el("div", { class: "row" },
        name === "report" && made.has(name) && el("a", { class: "button", href: file("report.html"), target: "_blank", rel: "noopener" }, "Open the report"),
        name !== "report" && made.has(name) && el("a", { class: "button", href: `#figure-${name}`, onclick: event => {
          event.preventDefault();
          const figure = document.getElementById(`figure-${name}`);
          figure.scrollIntoView({ block: "start" });
          figure.focus({ preventScroll: true });
        } }, "Look", el("span", { class: "unseen" }, ` at ${NAMES[name]}`)),
        el("button", { type: "button", class: made.has(name) ? "quiet" : "", disabled: busy, "data-question": name, "aria-label": `${made.has(name) ? "Ask again" : "Ask"}: ${NAMES[name]}`,
          onclick: () => begin(name) }, made.has(name) ? "Ask again" : "Ask")))));
    if (held) questions.querySelector(`[data-question=${held}]`)?.focus();
  }
  function draw(found) {
    const same = JSON.stringify(found.figures);
    if (same === drawn) return;
    drawn = same;
    figures.replaceChildren(...found.figures.map(each => el("section", { class: "card", id: `figure-${each.question}`, tabindex: -1, "aria-labelledby": `title-${each.question}` },
      el("h2", { id: `title-${each.question}` }, each.title),
      el("figure", { class: "picture" },
        el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `Picture: ${NAMES[each.question]}` },
          el("img", { src: file(each.picture, each.changed), alt: `${each.title}. What it shows is written below.`, loading: "lazy" }))),
      el("ul", { class: "says" }, each.says.map(words => el("li", {}, sentence(words)))),
      el("p", { class: "row" },
        el("a", { href: file(`${each.question}.svg`), download: `${each.question}.svg` }, "Picture as SVG"),
        el("a", { href: file(`${each.question}.png`), download: `${each.question}.png` }, "as PNG")),
      each.command && el("pre", {}, each.command))));
  }
  async function begin(question) {
    forget();
    try {
      was = await api("studio/inside", { json: { run, question } });
      say(`${NAMES[question]} is being found out`);
    } catch (error) {
      problem(error);
    }
    await calm();
    if (!working.hidden) stop.focus();
  }
  const calm = () => refresh().catch(problem);
  const end = every(1500, calm);
  return () => {
    over = true;
    end();
  };
}
