// How a model answers: mode, temperature, length, seed, colours, and the system text. This browser remembers them.
import { api, el, say, sentence } from "./lib.js";
import { memory } from "./chat-keep.js";

const USUAL = { mode: "auto", temperature: 0.8, topP: 1, length: 300, stop: "", seed: 0, colour: "depth" };
const NUMBERS = {
  temperature: ["Temperature", "Below 1 prefers likely tokens, 0 takes the likeliest.", { min: 0, max: 10, step: "any" }],
  topP: ["Top-p", "Draws among the likeliest tokens with this probability together.", { min: 0.01, max: 1, step: "any" }],
  length: ["Length", "Tokens of an answer, at most.", { min: 1, max: 100000, step: 1 }],
  seed: ["Seed", "Another seed draws other answers.", { min: 0, max: 2147483647, step: 1 }],
};

export class Settings {
  constructor(changed) {
    this.changed = changed;
    Object.assign(this, USUAL, memory.get("settings", {}));
    this.system = null;
    this.modes = el("fieldset", { class: "modes" });
    this.more = el("details", { class: "more" }, el("summary", {}, "Settings"));
    this.build();
  }

  build() {
    this.inputs = {};
    const fields = Object.entries(NUMBERS).map(([name, [label, hint, limits]]) => {
      const input = this.inputs[name] = el("input", {
        id: `chat-${name}`, type: "number", inputmode: "decimal", required: true, value: this[name], ...limits,
        "aria-describedby": `chat-${name}-hint`,
        oninput: () => input.validity.valid && this.set(name, Number(input.value)),
      });
      return field(`chat-${name}`, label, input, hint);
    });
    const choice = (name, label, options, hint) => {
      const input = this.inputs[name] = el("select", { id: `chat-${name}`, onchange: () => this.set(name, input.value) },
        Object.entries(options).map(([value, text]) => el("option", { value }, text)));
      input.value = this[name];
      return field(`chat-${name}`, label, input, hint);
    };
    this.instruction = el("textarea", { id: "chat-system", rows: 2, onchange: () => this.set("system", this.instruction.value) });
    this.systemField = field("chat-system", "System text", this.instruction, "Said to the model before the first question.");
    this.more.append(el("div", { class: "stack" }, el("div", { class: "fields" }, fields,
      choice("stop", "An answer ends", { "": "as the model needs", natural: "with a sentence", length: "at its full length" }),
      choice("colour", "Colours show", { depth: "depth of thought", confidence: "confidence", off: "nothing" })), this.systemField));
  }

  /** What this model can do. */
  take(about, system) {
    this.about = about;
    this.naturally = !about.talks;
    if (this.system === null) this.instruction.value = system;
    this.systemField.hidden = !about.talks;
    this.inputs.stop.options[0].textContent = about.talks ? "at its full length (usual)" : "with a sentence (usual)";
    if (!about.modes.some(each => each.name === this.mode)) this.mode = "auto";
    this.told = el("p", { class: "note", id: "chat-mode-told" });
    this.compare = el("button", { type: "button", class: "quiet", onclick: () => this.measure() }, "Compare the modes");
    this.compare.hidden = about.measured || about.modes.length < 2;
    this.modes.replaceChildren(el("legend", { class: "unseen" }, "Mode: how long it thinks about each token"),
      el("div", { class: "segments" }, about.modes.map(({ name }) => el("label", {},
        el("input", { type: "radio", name: "chat-mode", value: name, checked: name === this.mode, "aria-describedby": "chat-mode-told",
          onchange: () => this.set("mode", name) }), el("span", {}, name)))),
      el("div", { class: "row" }, this.told, this.compare));
    this.tell();
  }

  tell() {
    const mode = this.about.modes.find(each => each.name === this.mode);
    this.told.replaceChildren(sentence(mode.does), mode.bits && !mode.warning ? ` ${mode.bits.toFixed(3)} bits a character of held-out text.` : "",
      mode.warning ? el("strong", {}, ` ${sentence(mode.warning)}`) : "");
  }

  async measure() {
    this.compare.disabled = true;
    this.told.textContent = "Held-out text is read in every mode. This takes up to half a minute.";
    try {
      this.take(await api("/studio/chat/modes", { json: { model: this.about.name } }), this.system ?? "");
      this.changed();
      this.modes.querySelector(":checked").focus();
      say(this.told.textContent);
    } catch (error) {
      this.told.textContent = sentence(error.message);
    }
  }

  set(name, value) {
    this[name] = value;
    if (name !== "system") memory.set("settings", Object.fromEntries(Object.keys(USUAL).map(each => [each, this[each]])));
    if (name === "mode" && this.about) this.tell();
    this.changed();
  }

  /** Whether all numbers can be used; else the wrong one is shown. */
  check() {
    const wrong = Object.values(this.inputs).find(input => !input.checkValidity());
    if (!wrong) return true;
    this.more.open = true;
    wrong.reportValidity();
    return false;
  }

  /** Whether an answer ends with a sentence. */
  get ends() { return this.stop ? this.stop === "natural" : this.naturally; }
}

const field = (id, label, input, hint) => el("div", { class: "field" }, el("label", { for: id }, label), input,
  hint && el("p", { class: "note", id: `${id}-hint` }, hint));
