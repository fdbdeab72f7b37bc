// An earlier message of the person's is changed, and what followed it is replaced.
import { ask, el, plural } from "./lib.js";

export function edit(chat, index, text = chat.talk.said[index].content.replace(/^\n/, "")) {
  const box = el("textarea", { "aria-label": "Your message", rows: 3, value: text });
  const done = async () => {
    const { said } = chat.talk, after = said.length - index - 1;
    if (!box.value.trim() || chat.busy) return;
    if (after && !await ask("Replace what follows?", `${plural(after, "message")} after this one ${after === 1 ? "is" : "are"} replaced by a new answer.`, "Replace")) return;
    const lead = said[index].content.startsWith("\n") ? "\n" : "";
    chat.go([...said.slice(0, index), { role: "user", content: lead + box.value }]);
    if (!await chat.running && !chat.left) edit(chat, index, box.value);
  };
  box.addEventListener("keydown", event => {
    if (event.key === "Escape") chat.draw();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      done();
    }
  });
  chat.texts[index].element.replaceChildren(el("div", { class: "stack" }, box, el("div", { class: "row" },
    el("button", { type: "button", class: "primary", onclick: done }, "Answer again"),
    el("button", { type: "button", onclick: () => chat.draw() }, "Cancel"))));
  box.focus();
}
