// The shell: which page is shown, by the hash: #home, #learn, #chat/RUN ...
import { el, forget, problem } from "./lib.js";

// Each is a module of that name with `show(root, argument)`, which may return what is to be done on leaving.
const PAGES = { home: "Home", learn: "Learn", chat: "Chat", solve: "Solve", inside: "Inside" };

const main = document.getElementById("main");
const links = document.getElementById("pages");
let leave = null;
let turn = 0;

for (const [name, title] of Object.entries(PAGES)) links.append(el("li", {}, el("a", { href: `#${name}` }, title)));

async function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  if (name === "main") return;
  const page = PAGES[name] ? name : "home";
  const argument = rest.length ? decodeURIComponent(rest.join("/")) : null;
  const mine = ++turn;
  for (const link of links.querySelectorAll("a")) {
    if (link.hash === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    leave?.();
  } catch (error) {
    console.warn(error);
  }
  leave = null;
  forget();
  document.title = `${PAGES[page]} · hrm studio`;
  const root = el("div", { class: `page ${page}` });
  main.replaceChildren(root);
  try {
    const { show } = await import(`./${page}.js`);
    if (mine !== turn) return;
    const left = await show(root, argument);
    if (mine === turn) leave = left ?? null;
    else left?.();
  } catch (error) {
    if (mine === turn) problem(error);
  }
}

document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => {
  scrollTo(0, 0);
  route();
  main.focus({ preventScroll: true });
});
route();
