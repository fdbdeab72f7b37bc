// Chat: a text model is chosen, talked with in its modes, and what was said is kept.
import { api, el, plural, say, sentence } from "./lib.js";
import { seedOf, write } from "./chat-ask.js";
import { edit } from "./chat-edit.js";
import { Keeper, memory } from "./chat-keep.js";
import { Shelf, address } from "./chat-shelf.js";
import { Settings } from "./chat-settings.js";
import { TokenText, introduction, legend, summary } from "./chat-text.js";

const ID = /@([0-9a-f]{16})$/;
let chosen = false; // the list of models has opened the page, and keeps the focus
const rendered = said => said.filter(message => message.role !== "system");

export async function show(root, argument) {
  const wanted = argument ?? memory.get("last") ?? "";
  const page = new Chat(root);
  await page.open(wanted.replace(ID, ""), wanted.match(ID)?.[1] ?? null, argument !== null);
  return () => page.leave();
}

class Chat {
  constructor(root) {
    Object.assign(this, { root, talk: null, about: null, busy: null, keeper: null, texts: [], running: null, left: false, notice: "" });
    this.choice = el("select", { id: "chat-model", onchange: () => {
      chosen = true;
      location.hash = address(this.choice.value);
    } });
    this.told = el("p", { class: "about soft" }, "The model is being loaded.");
    this.shelf = new Shelf(this);
    this.thread = el("ol", { class: "thread", "aria-label": "Conversation" });
    this.legend = el("div", {});
    this.settings = new Settings(() => this.changed());
    this.compose();
    this.keys = event => event.key === "Escape" && !document.querySelector("dialog[open]") && this.stop(event);
    document.addEventListener("keydown", this.keys);
  }

  compose() {
    this.text = el("textarea", {
      id: "chat-text", rows: 1, "aria-describedby": "chat-hint chat-problem", onkeydown: event => this.key(event),
      oninput: () => { this.grow(); this.keepDraft(); this.offer(); },
    });
    this.send = el("button", { type: "submit", class: "primary", disabled: true }, "Send");
    this.halt = el("button", { type: "button", hidden: true, onclick: () => this.stop() }, "Stop");
    this.wrong = el("p", { class: "wrong", id: "chat-problem", role: "alert" });
    this.status = el("p", { class: "note", role: "status" });
    this.form = el("form", { class: "composer", onsubmit: event => { event.preventDefault(); this.submit(); } },
      el("label", { for: "chat-text", class: "unseen" }, "Your text"),
      this.wrong, this.status, el("div", { class: "write" }, this.text, this.halt, this.send),
      el("p", { class: "note", id: "chat-hint" }, "Enter sends, Shift+Enter breaks the line, Escape stops."));
  }

  async open(name, id, asked) {
    const head = el("header", {}, el("h1", {}, "Chat"));
    this.root.append(head);
    const { runs } = await api("/studio/runs");
    const { data } = await api("/v1/models");
    const known = new Set(data.filter(model => model.kind === "text").map(model => model.id));
    const models = runs.map(run => run.name).filter(each => known.has(each)); // those that changed last first
    const training = new Set(runs.filter(run => run.state === "training").map(run => run.name));
    let gone = null;
    const kept = id && await api(`/studio/conversations/${id}`).catch(error => { gone = asked && error; });
    if (!models.length && !kept) {
      this.root.append(el("div", { class: "card empty" }, el("h2", {}, "There is no model to talk with yet"),
        el("p", { class: "soft" }, "A model that has read a book continues what you write."),
        el("a", { class: "button primary", href: "#learn" }, "Learn a book")));
      return;
    }
    const model = kept?.model ?? (models.includes(name) ? name : models[0]);
    this.choice.append(...[...new Set([...models, model])].map(each =>
      el("option", { value: each }, training.has(each) ? `${each} (in training)` : each)));
    this.choice.value = model;
    head.append(el("div", { class: "field" }, el("label", { for: "chat-model" }, "Model"), this.choice));
    this.root.append(el("div", { class: "talk" }, this.shelf.aside, el("div", { class: "said stack" },
      this.told, this.settings.modes, this.settings.more, this.shelf.head, this.legend, this.thread, this.form)));
    this.begin(kept ?? { id: null, title: "", model, talks: false, said: [], answers: 0, state: "" });
    if (gone) this.problem(sentence(gone.message));
    else if (name && asked && !kept && !models.includes(name)) this.problem(`There is no text model ${name} here: another one is chosen.`);
    this.shelf.list();
    if (chosen) this.choice.focus();
    chosen = false;
    await this.load(model, models.includes(model));
  }

  /** Show a conversation, or the place for a new one. */
  begin(talk) {
    this.talk = talk;
    this.keeper = new Keeper(talk, error => this.kept(error));
    this.place();
    this.text.value = memory.get(`draft-${talk.id ?? talk.model}`, "");
    this.grow();
    this.draw();
  }

  place() {
    const { id, model } = this.talk, here = address(model, id);
    if (location.hash !== here) history.replaceState(null, "", here);
    memory.set("last", `${model}${id ? `@${id}` : ""}`);
  }

  async load(model, there) {
    if (!there) {
      this.told.textContent = `The run ${model} is not in this folder any more: its conversation can be read, but not continued.`;
      return;
    }
    try {
      this.take(await api(`/studio/chat/about?model=${encodeURIComponent(model)}`));
    } catch (error) {
      this.told.replaceChildren(el("span", { class: "wrong" }, sentence(error.message)));
    }
  }

  take(about) {
    this.about = about;
    if (!this.talk.said.length) this.talk.talks = about.talks;
    const other = this.talk.talks !== about.talks;
    this.told.replaceChildren(...introduction(about));
    this.settings.take(about, this.system);
    if (other) this.problem("This conversation has another form than the model has now: begin a new one.");
    this.usable = !other;
    this.changed();
  }

  get system() { return this.talk.said[0]?.role === "system" ? this.talk.said[0].content : ""; }

  /** Settings have changed: colours, the system text, what the button says. */
  changed() {
    const wanted = this.settings.system;
    if (this.about?.talks && wanted !== null && wanted !== this.system && !this.busy) {
      const rest = rendered(this.talk.said);
      this.talk.said = wanted ? [{ role: "system", content: wanted }, ...rest] : rest;
      if (this.talk.id) this.keeper.changed(0);
    }
    this.legend.replaceChildren(...[legend(this.settings.colour, this.deepest(this.settings.mode))].filter(Boolean));
    if (!this.busy) this.draw();
  }

  deepest(mode) {
    return this.about?.modes.find(each => each.name === mode)?.deepest
      ?? Math.max(1, ...this.talk.said.flatMap(message => (message.trace ?? []).map(token => token[1])));
  }

  draw() {
    const { said } = this.talk;
    this.texts = [];
    this.thread.replaceChildren(...said.map((message, i) => message.role === "system" ? null : this.message(message, i)).filter(Boolean));
    if (!rendered(said).length) {
      this.thread.append(el("li", { class: "soft hello" }, this.about?.talks ? "Ask something."
        : "Write a beginning, which the model continues."));
    }
    this.shelf.draw();
    this.legend.hidden = !said.some(message => message.trace);
    this.offer();
  }

  message(message, index) {
    const own = message.role === "user", last = index === this.talk.said.length - 1;
    const text = this.texts[index] = new TokenText(message, own ? "off" : this.settings.colour, this.deepest(message.mode));
    const act = (name, does) => el("button", { type: "button", class: "quiet", onclick: does }, name);
    const versions = 1 + (message.others?.length ?? 0);
    const actions = this.busy || !this.usable ? [] : own ? [act("Edit", () => edit(this, index))]
      : last ? [versions > 1 && act(`Other version (${versions})`, () => this.turn(index)), act("Regenerate", () => this.again(index)), this.continues && act("Continue", () => this.go(this.talk.said))] : [];
    const copy = el("button", { type: "button", class: "quiet", onclick: () => this.copy(message.content, copy) }, "Copy");
    const acts = !(this.busy && last) && el("div", { class: "row acts" }, actions, copy);
    return el("li", { class: `message ${message.role}` },
      el("div", { class: "row apart" }, el("p", { class: "who" }, own ? "You" : this.talk.model), own && acts),
      text.element,
      !own && acts && el("div", { class: "row apart under" }, el("p", { class: "note took" }, summary(message)), acts));
  }

  /** Whether the model can write on without a word of the person's. */
  get continues() { return rendered(this.talk.said).length > 0 && (!this.talk.talks || this.talk.said.at(-1).role === "assistant"); }

  offer() {
    const empty = !this.text.value.trim();
    this.send.textContent = empty && this.continues ? "Continue" : "Send";
    this.send.disabled = !this.usable || (empty && !this.continues);
  }

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.busy && !this.send.disabled) this.submit();
  }

  submit() {
    const text = this.text.value, { said, talks } = this.talk;
    if (this.busy || !this.usable || !this.settings.check()) return;
    if (!text.trim()) {
      if (this.continues) this.go(said);
      return;
    }
    const before = said.at(-1)?.content.at(-1) ?? " ";
    const content = !talks && !/\s/.test(before) && !/^\s/.test(text) ? `\n${text}` : text;
    this.go([...said, { role: "user", content }], text);
    this.warn(text);
  }

  /** Have the model continue `said`; `text` is what comes back into the box if it cannot, `old` an answer
   * that becomes another version of the new one. */
  go(said, text = "", old = null) {
    if (this.busy || !this.settings.check()) return;
    this.running = this.answer(said, text, old);
  }

  async answer(said, text, old) {
    const { talk, settings } = this, before = talk.said, last = said.at(-1);
    const onto = last.role === "assistant", index = onto ? said.length - 1 : said.length;
    const same = said.findIndex((message, i) => message !== before[i]);
    const from = Math.min(index, same < 0 ? said.length : same);
    const message = { role: "assistant", content: "", ...(onto ? last : {}), trace: [...(onto && last.trace || [])] };
    const earlier = onto ? last.seconds ?? 0 : 0, seed = seedOf(settings.seed, talk.answers, said), written = message.trace.length;
    Object.assign(message, { mode: settings.mode, seed: settings.seed, end: "cut" });
    if (old) {
      const { others = [], ...now } = old;
      message.others = [...others, now];
    }
    talk.said = [...said.slice(0, index), message];
    this.busy = new AbortController();
    this.problem("");
    this.notice = "";
    this.enter();
    let start = performance.now(), failed = null;
    const onToken = token => {
      if (message.trace.length === written) {
        talk.answers += 1;
        this.keeper.changed(from);
        this.create();
        if (text) this.text.value = "";
        this.grow();
      }
      token = token.map((value, i) => i > 1 ? Number(value.toFixed(4)) : value);
      message.content += token[0];
      message.trace.push(token);
      message.seconds = earlier + (performance.now() - start) / 1000;
      this.follow(() => this.texts[index]?.add(token));
      this.keeper.changed(index);
    };
    const onWait = left => {
      this.status.textContent = left === null ? this.notice : `The model is busy with other requests: it is asked again in ${plural(left, "second")}.`;
      if (left === null) start = performance.now();
    };
    try {
      message.end = await write({ model: talk.model, said, settings, seed, onToken, onWait, signal: this.busy.signal });
    } catch (error) {
      message.end = error.name === "AbortError" ? "interrupted" : "cut";
      failed = error.name === "AbortError" ? null : error;
    }
    onWait(null);
    this.busy = null;
    const nothing = message.trace.length === written;
    if (nothing) {
      talk.said = before;
      this.problem(failed ? sentence(failed.message) : message.end === "interrupted" ? "" : "The model ended the text at once: write more.");
    } else {
      this.keeper.changed(index);
      if (failed) this.problem(`${sentence(failed.message)} What was written is kept.`);
    }
    if (this.left) return !nothing;
    this.follow(() => this.rest(nothing && text));
    if (nothing) return false;
    say(`${talk.model}: ${message.content.slice(onto ? last.content.length : 0)}. ${summary(message)}`);
    await this.keeper.save();
    if (!this.left) this.shelf.list();
    return true;
  }

  /** Say which characters the model cannot tell from each other. */
  async warn(text) {
    const { notice } = await api("/studio/chat/lacks", { json: { model: this.talk.model, text } }).catch(() => ({}));
    if (notice) this.status.textContent = this.notice = sentence(notice);
  }

  /** An answer begins. */
  enter() {
    const focused = document.activeElement;
    this.draw();
    this.halt.hidden = false;
    this.send.hidden = true;
    this.thread.classList.add("busy");
    if (!this.root.contains(document.activeElement) || focused === this.send) this.text.focus({ preventScroll: true });
    scrollTo(0, document.documentElement.scrollHeight);
  }

  /** It has ended; `text` was not answered and comes back. */
  rest(text) {
    if (text && !this.text.value) this.text.value = text;
    const stopped = document.activeElement === this.halt;
    this.halt.hidden = true;
    this.send.hidden = false;
    this.thread.classList.remove("busy");
    this.draw();
    this.grow();
    if (stopped || !this.root.contains(document.activeElement)) this.text.focus({ preventScroll: true });
  }

  stop(event) {
    if (!this.busy) return;
    event?.preventDefault();
    this.busy.abort();
  }

  /** Change the page, and stay at its end if that is what is seen. */
  follow(change) {
    const end = document.documentElement, near = end.scrollHeight - scrollY - innerHeight < 80;
    change();
    if (near) scrollTo(0, end.scrollHeight);
  }

  /** Give the conversation a place on the server, once there is something to keep. */
  create() {
    if (!this.talk.id) this.created ??= this.found().finally(() => { this.created = null; });
  }

  async found() {
    const { talk } = this;
    try {
      const { id, state } = await api("/studio/conversations", { json: { model: talk.model, talks: talk.talks } });
      Object.assign(talk, { id, state });
    } catch (error) {
      this.kept(error);
      setTimeout(() => !this.left && this.create(), 2000);
      return;
    }
    memory.set(`draft-${talk.model}`, null);
    this.keeper.changed(0);
    if (!this.left) this.place();
  }

  /** What became of a save. */
  async kept(error) {
    if (this.left || error === undefined) return;
    if (error === null) {
      this.status.textContent = this.notice;
      this.shelf.draw();
      this.keepDraft();
    } else if (error.status === 409) {
      this.stop();
      await this.running;
      this.keeper.over = true;
      this.begin(await api(`/studio/conversations/${this.talk.id}`));
      this.problem(sentence(error.message));
    } else if (error.status === 404) { // it was deleted in another window, and what is here is kept as a new one
      this.talk.id = null;
      this.create();
    } else if (error.status === 400) this.problem(sentence(error.message));
    else this.status.textContent = `Not saved yet, and tried again${error.status ? `: ${error.message}` : ""}.`.replace("..", ".");
  }

  /** Draw an answer with another seed; the one that is there stays as another version. */
  again(index) {
    if (index) this.go(this.talk.said.slice(0, index), "", this.talk.said[index]);
  }

  /** Show the next version of an answer. */
  turn(index) {
    const { others, ...now } = this.talk.said[index], [next, ...rest] = others;
    this.talk.said = this.talk.said.toSpliced(index, 1, { ...next, others: [...rest, now] });
    this.keeper.changed(index);
    this.draw();
    this.texts[index].text.focus();
    say(`Version ${next.content}`);
  }

  async copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      say("Copied");
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } catch {
      this.problem("The browser does not let this page copy: select the text and copy it yourself.");
    }
  }

  problem(text) {
    this.follow(() => { this.wrong.textContent = text; });
  }

  keepDraft() {
    memory.set(`draft-${this.talk.id ?? this.talk.model}`, this.text.value || null);
  }

  grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight + 2, innerHeight * 0.4)}px`;
  }

  /** The page is left: an answer under way ends, and what was written is kept. */
  async leave() {
    this.left = true;
    document.removeEventListener("keydown", this.keys);
    this.shelf.leave();
    this.stop();
    await this.running;
    await this.created;
    await this.keeper?.end();
  }
}
