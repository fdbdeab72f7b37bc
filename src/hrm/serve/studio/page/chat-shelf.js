// The conversations that are kept, and what can be done with the one that is open.
import { ago, api, ask, el, sentence } from "./lib.js";
import { memory } from "./chat-keep.js";

export const address = (model, id) => `#chat/${encodeURIComponent(model)}${id ? `@${id}` : ""}`;

export class Shelf {
  /** `chat` has `talk`, `keeper`, `busy`, `text`, `draw()` and `problem(text)`. */
  constructor(chat) {
    this.chat = chat;
    this.name = el("summary", {}, "Conversations");
    this.aside = el("details", { class: "conversations" }, this.name);
    this.title = el("h2", { class: "chat-title" });
    this.tools = el("div", { class: "row tools" });
    this.head = el("div", { class: "row apart" }, this.title, this.tools);
    this.wide = matchMedia("(min-width: 900px)");
    this.widened = () => { this.aside.open = this.wide.matches; };
    this.wide.addEventListener("change", this.widened);
    this.widened();
  }

  leave() { this.wide.removeEventListener("change", this.widened); }

  /** The open one: its title and tools. */
  draw() {
    const { id, title } = this.chat.talk;
    this.title.textContent = id ? title : "New conversation";
    const tool = (name, does) =>
      el("button", { type: "button", class: "quiet", onclick: () => this.tried(does), disabled: Boolean(this.chat.busy) }, name);
    this.tools.replaceChildren(...id ? [tool("Rename", () => this.rename()),
      el("a", { class: "button quiet", href: `/studio/conversations/${id}/file`, download: `${title || "conversation"}.json` }, "Export"),
      tool("Clear", () => this.clear()), tool("Delete", () => this.remove())] : []);
  }

  /** All of them. */
  async list() {
    let kept;
    try {
      kept = await api("/studio/conversations");
    } catch {
      return; // what is wrong is said where it matters
    }
    const { id, model } = this.chat.talk;
    const fresh = el("a", { class: "button", href: address(model) }, "New conversation");
    fresh.addEventListener("click", event => { // the address may be that of this page already
      if (location.hash === address(model)) event.preventDefault();
      this.chat.text.focus();
    });
    this.name.textContent = kept.length ? `Conversations (${kept.length})` : "Conversations";
    this.aside.replaceChildren(this.name, fresh, el("ul", { class: "list" }, kept.map(each =>
      el("li", {}, el("a", { href: address(each.model, each.id), "aria-current": each.id === id ? "page" : null },
        el("span", {}, each.title), el("small", { class: "soft" }, `${each.model}, ${ago(each.changed)}`))))));
  }

  async rename() {
    const { talk, keeper } = this.chat;
    const title = await ask("Rename the conversation", "", "Rename", { label: "Title", value: talk.title });
    if (title) talk.title = (await api(keeper.path, { method: "PATCH", json: { title: title.slice(0, 200) } })).title;
  }

  async clear() {
    if (!await ask("Clear the conversation?", "Everything that was said is deleted; the conversation begins again.", "Clear")) return;
    const { talk, keeper } = this.chat;
    talk.said = talk.said.filter(message => message.role === "system");
    talk.answers = 0;
    keeper.changed(0);
    await keeper.save();
    this.chat.text.focus();
  }

  async remove() {
    const { talk, keeper } = this.chat;
    if (!await ask(`Delete “${talk.title}”?`, "It cannot be brought back.", "Delete")) return;
    await keeper.end();
    await api(keeper.path, { method: "DELETE" });
    memory.set(`draft-${talk.id}`, null);
    location.hash = address(talk.model);
  }

  async tried(does) {
    try {
      await does();
      if (this.chat.left) return;
      this.chat.draw();
      await this.list();
    } catch (error) {
      this.chat.problem(sentence(error.message));
    }
  }
}
