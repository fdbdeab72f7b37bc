// A message on the page: its text, token by token, coloured by depth or confidence, and what is known of each token.
import { el, number, plural, say, short } from "./lib.js";

const LEVELS = 5;
const percent = value => `${Math.round(100 * value)} %`;

/** What colours stand for. */
export function legend(colour, deepest) {
  if (colour === "off") return null;
  const words = colour === "confidence" ? ["sure", "", "", "", "unsure"] : deepest === 1 ? ["1 segment for each token"]
    : deepest <= LEVELS ? Array.from({ length: deepest }, (_, i) => i ? `${i + 1}` : "1 segment")
      : ["1 segment", "", "", "", `${deepest} segments`];
  const levels = words.length === LEVELS ? [1, 2, 3, 4, 5] : words.map((_, i) => depthLevel(i + 1, deepest));
  return el("p", { class: `legend by-${colour}` },
    el("span", { class: "soft" }, colour === "depth" ? "Thought about each token:" : "How sure it is:"),
    words.map((word, i) => el("span", { class: "swatch" }, el("span", { class: `t l${levels[i]}`, "aria-hidden": "true" }, "ab"),
      word && el("span", {}, word))));
}

const depthLevel = (depth, deepest) =>
  deepest <= 1 ? 1 : Math.min(LEVELS, 1 + Math.round((depth - 1) * Math.min(2, (LEVELS - 1) / (deepest - 1))));
const doubtLevel = confidence => Math.min(LEVELS, 1 + Math.floor(LEVELS * (1 - Math.min(1, Math.max(0, confidence)))));

/** The text of a message. `show()` draws it, `add(token)` adds one; a token is [text, depth, confidence, log-probability,
 * entropy]. Arrow keys step through the tokens of a coloured text. */
export class TokenText {
  constructor(message, colour, deepest) {
    Object.assign(this, { message, colour, deepest, at: -1, spans: [] });
    this.text = el("div", { class: "said-text" });
    this.facts = el("p", { class: "facts", hidden: true });
    this.element = el("div", { class: "said-place" }, this.text, this.facts);
    this.text.addEventListener("keydown", event => this.step(event));
    this.text.addEventListener("blur", () => this.point(-1));
    this.text.addEventListener("mouseover", event => event.target.token !== undefined && this.point(event.target.token));
    this.text.addEventListener("mouseleave", () => document.activeElement !== this.text && this.point(-1));
    this.show();
  }

  get coloured() { return this.colour !== "off" && Boolean(this.message.trace?.length); }

  show(colour = this.colour) {
    this.colour = colour;
    this.spans = [];
    this.point(-1);
    this.text.replaceChildren();
    this.text.className = `said-text by-${this.colour}`;
    if (!this.coloured) {
      this.text.textContent = this.message.content;
      for (const name of ["tabindex", "role", "aria-label"]) this.text.removeAttribute(name);
      return;
    }
    this.reachable();
    const whole = this.message.trace.map(token => token[0]).join("");
    if (this.message.content.endsWith(whole)) this.text.append(this.message.content.slice(0, -whole.length || undefined));
    this.message.trace.forEach((token, i) => this.span(token, i));
  }

  reachable() {
    this.text.tabIndex = 0;
    this.text.setAttribute("role", "group");
    this.text.setAttribute("aria-label", "Answer. The arrow keys step through its tokens.");
  }

  add(token) {
    if (this.colour === "off") this.text.append(token[0]);
    else {
      if (!this.text.hasAttribute("role")) this.reachable();
      this.span(token, this.message.trace.length - 1);
    }
  }

  span([text, depth, confidence], index) {
    const level = this.colour === "depth" ? depthLevel(depth, this.deepest) : doubtLevel(confidence);
    const made = el("span", { class: `t l${level}` }, text);
    made.token = index;
    this.spans[index] = made;
    this.text.append(made);
  }

  step(event) {
    const last = this.spans.length - 1;
    const to = { ArrowRight: Math.min(last, this.at + 1), ArrowLeft: Math.max(0, this.at - 1), Home: 0, End: last }[event.key];
    if (to === undefined || last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.point(to);
    this.spans[to].scrollIntoView({ block: "nearest" });
    say(this.facts.textContent);
  }

  point(index) {
    this.spans[this.at]?.classList.remove("at");
    this.at = index;
    this.facts.hidden = index < 0;
    if (index < 0) return;
    const [text, depth, confidence, logProbability, entropy] = this.message.trace[index];
    const shown = { " ": "space", "\n": "new line", "": "nothing yet" }[text] ?? `“${text.replaceAll("\n", "↵")}”`;
    const span = this.spans[index];
    span.classList.add("at");
    this.facts.textContent = `${shown}: ${depth === 1 ? "1 segment" : `${depth} segments`}, confidence ${percent(confidence)}, ` +
      `probability ${logProbability > Math.log(0.01) ? percent(Math.exp(logProbability)) : `${Number((100 * Math.exp(logProbability)).toPrecision(1))} %`}` +
      (entropy === null || entropy < 0 ? "" : `, entropy ${entropy.toFixed(2)} nats`);
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect(), around = this.element.getBoundingClientRect();
    this.facts.style.top = `${box.bottom - around.top + 6}px`;
    this.facts.style.left = `${Math.max(0, Math.min(box.left - around.left, around.width - this.facts.offsetWidth))}px`;
  }
}

const ENDS = {
  length: "It has its full length.", interrupted: "You stopped it.", cut: "It was cut off.", end: "The model ended it.",
  deadline: "Its time was up.", stopped: "The server ended.",
};

/** What an answer took, in a line. */
export function summary({ trace = [], seconds = 0, mode, end }) {
  if (!trace.length) return ENDS[end] ?? "";
  const depth = trace.reduce((sum, token) => sum + token[1], 0) / trace.length;
  const rate = seconds ? `, ${number(Math.round(trace.length / seconds))} a second` : "";
  return [`${number(trace.length)} ${trace.length === 1 ? "token" : "tokens"}${rate}`, `mean depth ${depth.toFixed(2)}`,
    mode && `mode ${mode}`].filter(Boolean).join(" · ") + (ENDS[end] ? ` · ${ENDS[end]}` : "");
}

/** A model in a line. */
export function introduction(about) {
  const facts = [`${short(about.parameters)} parameters`, `a vocabulary of ${number(about.vocabulary)}`,
    about.knows && `has read ${about.knows}`, `remembers ${plural(about.memory, "token")}`];
  return [`${facts.filter(Boolean).join(", ")}. `,
    el("strong", {}, about.talks ? "It answers questions." : "It continues what you write."),
    about.training ? ` It is being trained: its newest checkpoint answers (step ${number(Number(about.checkpoint.slice(5)))}).` : ""];
}
