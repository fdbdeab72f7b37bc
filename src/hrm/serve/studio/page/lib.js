// What the pages share: elements, requests, streams, messages, dialogs, and numbers as people read them.

/** An element. `on...` are listeners, true and false set and leave out an attribute, null children are left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") made[name] = value;
    else if (name === "style") for (const [key, each] of Object.entries(value)) made.style.setProperty(key, each);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return made;
}

/** Put these in the place of an element's children; null ones are left out. */
export function put(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false && child !== ""));
}

/** Ask the server; `options.json` is sent as the body. Throws an Error with the server's sentence. */
export async function api(path, options = {}) {
  const { json, ...rest } = options;
  if (json !== undefined) {
    rest.method ??= "POST";
    rest.body = JSON.stringify(json);
    rest.headers = { "content-type": "application/json", ...rest.headers };
  }
  const answer = await reach(path, rest);
  if (!answer.ok) throw await refused(answer);
  if (answer.status === 204) return null;
  return (answer.headers.get("content-type") ?? "").includes("json") ? answer.json() : answer.text();
}

/** Post a body and hand each event (SSE) or line of JSON to `onEvent`, until the end or until `signal` aborts. */
export async function stream(path, body, onEvent, signal) {
  const answer = await reach(path, {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal,
  });
  if (!answer.ok) throw await refused(answer);
  const events = (answer.headers.get("content-type") ?? "").includes("event-stream");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", ended = false; !ended;) {
    const { value, done } = await reader.read();
    ended = done;
    const lines = (rest + (value ?? "") + (done ? "\n" : "")).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const text = events ? (line.startsWith("data:") ? line.slice(5).trim() : "") : line.trim();
      if (!text || text === "[DONE]") continue;
      const event = JSON.parse(text);
      if (event.error) throw new Error(event.error.message ?? String(event.error));
      onEvent(event);
    }
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The studio does not answer. Trainings continue; start hrm studio again to see them.");
  }
}

async function refused(answer) {
  let said = `The studio answered ${answer.status}.`;
  try {
    const body = await answer.json();
    said = body.error?.message ?? (Array.isArray(body.detail) ? body.detail[0]?.msg : body.detail) ?? said;
  } catch { /* it was no JSON */ }
  const error = new Error(said);
  error.status = answer.status;
  error.retryAfter = Number(answer.headers.get("retry-after")) || null;
  return error;
}

/** Tell those who listen, not those who look. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** Show an error where the person is looking; an aborted request is none. */
export function problem(error) {
  if (error?.name === "AbortError") return;
  const said = String(error?.message ?? error);
  const place = document.getElementById("problem");
  if (place.dataset.said === said) return;
  place.dataset.said = said;
  place.replaceChildren(el("div", { class: "problem" }, el("p", {}, sentence(said)),
    el("button", { type: "button", class: "quiet", onclick: forget }, "Close")));
}

/** Take the error away. */
export function forget() {
  const place = document.getElementById("problem");
  delete place.dataset.said;
  place.replaceChildren();
}

/** A dialog. Resolves to true or false; with `field` ({label, value}) to its text or null. */
export function ask(title, text, yes, field = null) {
  const { promise, resolve } = Promise.withResolvers?.() ?? later();
  const input = field && el("input", { id: "asked", value: field.value ?? "", autocomplete: "off", spellcheck: "false" });
  const box = el("dialog", { class: "ask", "aria-labelledby": "ask-title" },
    el("form", { method: "dialog" },
      el("h2", { id: "ask-title" }, title),
      text && el("p", {}, text),
      field && el("label", { for: "asked" }, field.label), input,
      el("div", { class: "row end" },
        el("button", { type: "button", class: "plain", onclick: () => box.close("") }, "Cancel"),
        el("button", { type: "submit", value: "yes", class: "primary" }, yes))));
  box.addEventListener("close", () => {
    resolve(box.returnValue === "yes" ? (field ? input.value.trim() : true) : field ? null : false);
    box.remove();
  });
  document.body.append(box);
  box.showModal();
  input?.select();
  return promise;
}

/** Whether a book should end where it is. */
export const askToStop = name =>
  ask(`Stop ${name}?`, "The book counts as learned, as far as it was read. To read on later, pause instead.", "Stop here");

/** What a run's states are called. */
export const STATES = {
  starting: "Starting", training: "Learning", stopping: "Ending its book", paused: "Paused", finished: "Finished",
  failed: "Ended by an error", damaged: "Damaged",
};

function later() {
  let resolve;
  const promise = new Promise(done => { resolve = done; });
  return { promise, resolve };
}

/** Do something every so many milliseconds while the page can be seen; returns what ends it. */
export function every(milliseconds, work) {
  let timer = null, over = false, busy = false;
  const round = async () => {
    clearTimeout(timer);
    if (over || busy) return;
    busy = true;
    if (!document.hidden) await work();
    busy = false;
    if (!over) timer = setTimeout(round, milliseconds);
  };
  const seen = () => { if (!document.hidden) round(); };
  document.addEventListener("visibilitychange", seen);
  round();
  return () => {
    over = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}

export const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
export const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;
export const number = value => value === null || value === undefined ? "" : value.toLocaleString("en");

/** Three digits and a unit: 14.5 K, 5.55 M. */
export function short(value) {
  if (value === null || value === undefined) return "";
  for (const [unit, size] of [["B", 1e9], ["M", 1e6], ["K", 1e3]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  return String(value);
}

/** Seconds in words: 40 seconds, 5 minutes, 2.5 hours. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return plural(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 5400) return plural(Math.round(seconds / 60), "minute");
  if (seconds < 172800) return `${Number((seconds / 3600).toFixed(1))} hours`;
  return plural(Math.round(seconds / 86400), "day");
}

/** How long ago: just now, 5 minutes ago, 12 May. */
export function ago(time) {
  const then = new Date(time), seconds = (Date.now() - then) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 172800) return `${duration(seconds)} ago`;
  return then.toLocaleDateString("en", { day: "numeric", month: "long", year: seconds > 2e7 ? "numeric" : undefined });
}
