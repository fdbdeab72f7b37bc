import { el } from "./lib.js";

export async function show(root) {
  root.append(el("header", {}, el("div", {}, el("h1", {}, "Learn"))));
}
