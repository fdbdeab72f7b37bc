// Keeping a conversation: what is new goes to the server soon after it is there, and at once when the page closes.
import { api } from "./lib.js";

const SOON = 400;
const LARGEST = 60000; // what a browser still sends for a page that has been closed
const WINDOW = [...crypto.getRandomValues(new Uint8Array(8))].map(byte => byte.toString(16).padStart(2, "0")).join("");
let number = 0;

/** Saves `talk` ({id, said, answers, state, title}) from the first changed message on. `told` gets null when all is
 * saved, or the error; a server that is away is asked again. */
export class Keeper {
  constructor(talk, told) {
    Object.assign(this, { talk, told, from: Infinity, sent: Infinity, timer: null, busy: null, wait: SOON, over: false });
    this.closing = () => this.last();
    addEventListener("pagehide", this.closing);
  }

  /** Message `index` and those after it have changed. */
  changed(index) {
    this.from = Math.min(this.from, index);
    if (!this.timer && !this.over) this.timer = setTimeout(() => this.save(), this.wait);
  }

  /** Save now; resolves when all is saved or has failed. */
  async save() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.busy) await this.busy;
    if (this.from === Infinity || !this.talk.id) return;
    this.busy = this.send();
    await this.busy;
    this.busy = null;
  }

  async send() {
    this.sent = this.from;
    this.from = Infinity;
    const began = performance.now();
    try {
      const saved = await api(this.path, { method: "PUT", json: this.body(this.sent) });
      Object.assign(this.talk, { state: saved.state, title: saved.title });
      this.wait = Math.max(SOON, 5 * (performance.now() - began));
      this.told(this.from === Infinity ? null : undefined);
    } catch (error) {
      this.from = Math.min(this.from, this.sent);
      if (![400, 404, 409].includes(error.status) && !this.over) this.timer ??= setTimeout(() => this.save(), 2000);
      this.told(error);
    }
    this.sent = Infinity;
  }

  /** Send what is left although nobody will hear the answer. */
  last() {
    const from = Math.min(this.from, this.sent);
    if (from === Infinity || !this.talk.id) return;
    let body = JSON.stringify(this.body(from));
    if (body.length > LARGEST) body = JSON.stringify(this.body(from, false));
    fetch(this.path, {
      method: "PUT", body, headers: { "content-type": "application/json" }, keepalive: new Blob([body]).size < LARGEST,
    }).catch(() => {});
  }

  /** Save what is left, and listen no more. */
  end() {
    this.over = true;
    removeEventListener("pagehide", this.closing);
    return this.save();
  }

  get path() { return `/studio/conversations/${this.talk.id}`; }

  body(from, whole = true) {
    const messages = this.talk.said.slice(from).map(message => whole ? message : bare(message));
    return { after: from, messages, answers: this.talk.answers, window: WINDOW, number: ++number, seen: this.talk.state };
  }
}

/** A message without what is known of its tokens. */
const bare = ({ trace, others, ...message }) => others ? { ...message, others: others.map(bare) } : message;

/** Settings and drafts that this browser remembers; without a place for them it remembers nothing. */
export const memory = {
  get(name, otherwise = null) {
    try {
      return JSON.parse(localStorage.getItem(`hrm-chat-${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      if (value === null || value === "") localStorage.removeItem(`hrm-chat-${name}`);
      else localStorage.setItem(`hrm-chat-${name}`, JSON.stringify(value));
    } catch { /* the browser keeps nothing for this page */ }
  },
};
