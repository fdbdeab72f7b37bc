// A curve of bits a character against updates, with perplexity at the other edge; drawn as wide as there is room.
import { short } from "./lib.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 260, STRANGE = 12, EDGE = { top: 14, right: 52, bottom: 34, left: 44 };

function draw(tag, attributes, text) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Numbers at even distances that a person would choose, about `count` of them. */
function ticks(from, to, count) {
  const raw = (to - from) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(each => each * power >= raw) * power;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-9; at += step) found.push(Number(at.toPrecision(6)));
  return found;
}

const perplexity = bits => {
  const value = 2 ** bits;
  return value >= 1e5 ? short(value) : value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
};

/** A figure; `fill({training: [[x, bits]], heldOut: [[x, bits]], steps})` redraws it, `leave()` ends it. */
export function curve() {
  const svg = draw("svg", { role: "img", class: "curve", height: HEIGHT });
  const figure = document.createElement("figure");
  const read = document.createElement("figcaption");
  read.className = "note";
  figure.append(svg, read);
  let data = null, place = null;

  function fill(given) {
    data = given;
    const { training, steps } = data;
    // A book of letters that were never seen begins so high that nothing else could be told apart.
    const heldOut = data.heldOut.filter(([at, bits]) => at || bits < STRANGE || !training.length);
    const width = Math.max(260, figure.clientWidth || 640);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren();
    const values = [...training, ...heldOut].map(point => point[1]).filter(Number.isFinite);
    if (!values.length) {
      svg.append(draw("text", { x: width / 2, y: HEIGHT / 2, class: "tick", "text-anchor": "middle" }, "The curve begins with the first numbers"));
      svg.setAttribute("aria-label", "No numbers yet");
      read.textContent = "";
      return;
    }
    const low = Math.min(...values), high = Math.max(...values), room = Math.max(0.1, (high - low) * 0.08);
    const bottom = Math.max(0, low - room), top = high + room, last = Math.max(steps || 0, ...training.map(p => p[0]), ...heldOut.map(p => p[0]), 1);
    const x = at => EDGE.left + (at / last) * (width - EDGE.left - EDGE.right);
    const y = bits => EDGE.top + ((top - bits) / (top - bottom)) * (HEIGHT - EDGE.top - EDGE.bottom);
    place = { x, last, width };
    for (const bits of ticks(bottom, top, 5)) {
      svg.append(draw("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y(bits), y2: y(bits), class: "grid" }));
      svg.append(draw("text", { x: EDGE.left - 8, y: y(bits) + 4, class: "tick", "text-anchor": "end" }, bits));
      svg.append(draw("text", { x: width - EDGE.right + 8, y: y(bits) + 4, class: "tick" }, perplexity(bits)));
    }
    for (const at of ticks(0, last, width > 500 ? 5 : 3)) {
      svg.append(draw("text", { x: x(at), y: HEIGHT - 12, class: "tick", "text-anchor": at ? "middle" : "start" }, at.toLocaleString("en")));
    }
    const path = points => points.map(([at, bits], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(bits).toFixed(1)}`).join("");
    if (training.length) svg.append(draw("path", { d: path(training), class: "line trained" }));
    if (heldOut.length) svg.append(draw("path", { d: path(heldOut), class: "line held" }));
    for (const [at, bits] of heldOut) svg.append(draw("circle", { cx: x(at), cy: y(bits), r: 4, class: "held" }));
    svg.append(draw("line", { class: "hair", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, x1: -9, x2: -9 }));
    const now = [training.length && `training ${training.at(-1)[1].toFixed(2)}`, heldOut.length && `held out ${heldOut.at(-1)[1].toFixed(3)}`];
    svg.setAttribute("aria-label", `Bits a character, newest: ${now.filter(Boolean).join(", ")}`);
    tell(last);
  }

  const near = (points, at) => points.reduce((best, point) => !best || Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best, null);

  function tell(at) {
    const one = near(data.training, at), other = near(data.heldOut, at);
    const parts = [one && `update ${one[0].toLocaleString("en")}: training ${one[1].toFixed(2)} (perplexity ${perplexity(one[1])})`,
      other && `held out ${other[1].toFixed(3)} (perplexity ${perplexity(other[1])}) at update ${other[0].toLocaleString("en")}`];
    const said = parts.filter(Boolean).join("; ");
    read.textContent = said.charAt(0).toUpperCase() + said.slice(1);
  }

  svg.addEventListener("pointermove", event => {
    if (!place || !data) return;
    const left = (event.clientX - svg.getBoundingClientRect().left) / (place.width - EDGE.left - EDGE.right);
    const at = (left - EDGE.left / (place.width - EDGE.left - EDGE.right)) * place.last;
    if (at < 0 || at > place.last) return;
    svg.querySelector(".hair")?.setAttribute("x1", place.x(at));
    svg.querySelector(".hair")?.setAttribute("x2", place.x(at));
    tell(at);
  });
  svg.addEventListener("pointerleave", () => data && fill(data));
  const watch = new ResizeObserver(() => data && requestAnimationFrame(() => fill(data)));
  watch.observe(figure);
  return { figure, fill, leave: () => watch.disconnect(), perplexity };
}
