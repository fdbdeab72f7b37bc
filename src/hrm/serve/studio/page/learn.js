// Learn: a book is chosen and looked at, a model is chosen or begun, and the training starts. With a name: see training.js.
import { ago, api, duration, el, number, plural, problem, put, say, sentence, short, stream } from "./lib.js";

const DRAFT = "hrm-studio-learn";
const ENCODINGS = ["utf-8", "cp1252", "iso8859-1", "cp1250", "cp1251", "koi8_r", "cp1253", "gb18030", "big5", "shift_jis", "euc_kr", "utf-16"];

export async function show(root, name) {
  if (name) return (await import("./training.js")).watch(root, name);
  const about = await api("studio/about");
  const draft = { books: [], who: "", name: "", size: "small", tokens: "char", ...about.usual, ...stored() };
  const books = []; // {path, name, encoding, look, share, error, card}
  let learners = [], timing = null, trial = null, over = false;

  const keep = () => {
    draft.books = books.filter(book => book.path).map(({ path, encoding }) => ({ path, encoding }));
    try {
      localStorage.setItem(DRAFT, JSON.stringify(draft));
    } catch { /* the draft is a convenience */ }
  };

  // 1. Books
  const files = el("input", { type: "file", id: "files", multiple: true, accept: ".txt,.md,.text,text/*,*/*", onchange: () => {
    for (const file of files.files) upload(file);
    files.value = "";
  } });
  const drop = el("div", { class: "drop" },
    el("p", {}, "Drop text files here, or"),
    el("div", {}, files, el("label", { for: "files", class: "button primary" }, "Choose files")),
    el("p", { class: "note" }, `They are copied to ${about.folder}${about.folder.includes("\\") ? "\\" : "/"}books.`));
  const path = el("input", { id: "path", autocomplete: "off", spellcheck: "false", placeholder: "/home/me/alice.txt", "aria-describedby": "path-wrong" });
  const pathWrong = el("p", { class: "wrong", id: "path-wrong", role: "alert", hidden: true });
  const named = el("form", { class: "field", onsubmit: event => {
    event.preventDefault();
    if (path.value.trim()) add({ path: path.value.trim(), typed: true });
  } }, el("label", { for: "path" }, "Or name a file on this machine, which is read where it is"),
    el("div", { class: "inline" }, path, el("button", { type: "submit" }, "Add")), pathWrong);
  const given = el("div", { class: "row" }), before = el("details", { hidden: true }, el("summary", {}, "Books given before"), given);
  const chosen = el("div", { class: "stack" });
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    for (const file of event.dataTransfer.files) upload(file);
  });
  // A file that misses the field must not replace the page.
  const missed = event => event.preventDefault();
  for (const kind of ["dragover", "drop"]) addEventListener(kind, missed);

  // 2. Who reads
  const who = el("div", { class: "choices", role: "radiogroup", "aria-labelledby": "who" });
  const whoNote = el("p", { class: "note" });
  const runName = el("input", { id: "run", autocomplete: "off", spellcheck: "false", oninput: () => {
    draft.name = runName.value;
    keep();
  } });
  const sizes = el("fieldset", {}, el("legend", {}, "Size"), el("div", { class: "choices four" }, about.sizes.map(size =>
    choice("size", size.name, draft.size === size.name, size.title, `${size.about}`, () => change({ size: size.name })))));
  const fresh = el("div", { class: "stack" }, el("div", { class: "field" }, el("label", { for: "run" }, "Name of the new model"), runName), sizes);

  // 3. How
  const field = (key, label, note, least, most) => {
    const input = el("input", { id: key, type: "number", min: least, max: most, step: "1", inputmode: "numeric", value: draft[key], "aria-describedby": `${key}-note`, onchange: () => {
      const value = Math.round(Number(input.value));
      input.value = Math.min(most, Math.max(least, Number.isFinite(value) ? value : draft[key]));
      change({ [key]: Number(input.value) });
    } });
    return el("div", { class: "field" }, el("label", { for: key }, label), input, el("small", { class: "soft", id: `${key}-note` }, note));
  };
  const tokens = el("select", { id: "tokens", onchange: () => change({ tokens: tokens.value }) },
    el("option", { value: "char" }, "Characters"), el("option", { value: "bpe:2000" }, "Pieces of words (2,000)"));
  tokens.value = draft.tokens;
  const tokensField = el("div", { class: "field" }, el("label", { for: "tokens" }, "It reads"), tokens, el("small", { class: "soft" }, "of a new model, for good"));
  const time = el("p", { role: "status", class: "time" }), cancel = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => trial?.abort() }, "Cancel");
  const estimate = el("button", { type: "button", onclick: tryOut }, "How long will it take?");
  const start = el("button", { type: "button", class: "primary", id: "start", onclick: begin }, "Begin to learn");
  const startWrong = el("p", { class: "wrong", role: "alert", hidden: true });

  const second = el("section", { class: "card", "aria-labelledby": "who", hidden: true }, el("h2", { id: "who" }, "Who reads"), who, whoNote, fresh);
  const third = el("section", { class: "card", "aria-labelledby": "how", hidden: true }, el("h2", { id: "how" }, "How"),
    el("div", { class: "fields" },
      field("epochs", "Epochs", "how often each book is read", 1, 1000),
      field("batch_size", "Batch size", "rows of text in an update", 1, 4096),
      field("checkpoint_every", "Save every", "updates", 1, 1000000),
      field("eval_every", "Evaluate every", "updates; 0: after each epoch", 0, 1000000)),
    el("details", {}, el("summary", {}, "More"), el("div", { class: "fields wide" },
      field("stride", "A row begins every", "characters; 80 is ten times as quick as 8, and less thorough", 1, 80), tokensField)),
    el("div", { class: "row" }, estimate, cancel, time),
    startWrong, el("div", { class: "row" }, start));
  root.append(
    el("header", {}, el("div", {}, el("h1", {}, "Learn"), el("p", { class: "soft" }, "Give a model something to read, and watch it learn to write like that."))),
    el("section", { class: "card", "aria-labelledby": "books" }, el("h2", { id: "books" }, "Books"), drop, named, before, chosen),
    second, third);

  function choice(group, value, checked, title, note, changed, disabled = false) {
    return el("label", { class: "choice" }, el("input", { type: "radio", name: group, value, checked, disabled, onchange: changed }),
      el("span", {}, el("b", {}, title), el("small", {}, note)));
  }

  /** Take in what was changed, after which a time that was found no longer holds. */
  function change(values) {
    Object.assign(draft, values);
    keep();
    trial?.abort();
    if (timing) time.textContent = "The settings have changed: ask again how long it takes.";
    timing = null;
  }

  function complain(place, error) {
    place.hidden = !error;
    place.textContent = error ? sentence(String(error.message ?? error)) : "";
  }

  function upload(file) {
    const book = { name: file.name, share: 0 };
    if (!place(book)) return;
    const request = new XMLHttpRequest(); // fetch does not tell how much was sent
    request.open("PUT", `studio/books?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = event => {
      book.share = event.total ? event.loaded / event.total : 0;
      book.doing = "Copying";
      draw(book);
    };
    request.onerror = () => fail(book, new Error("it could not be copied: the studio does not answer"));
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch { /* said below */ }
      if (request.status !== 200) return fail(book, new Error(answer.error?.message ?? `the studio answered ${request.status}`));
      Object.assign(book, answer);
      if (books.some(other => other !== book && other.path === book.path)) return remove(book);
      look(book);
    };
    book.stop = () => request.abort();
    request.send(file);
  }

  function add(book) {
    book.name ??= book.path.split(/[\\/]/).pop();
    if (books.some(other => other.path === book.path)) return;
    if (place(book)) look(book);
  }

  function place(book) {
    if (books.length >= 100) {
      problem(new Error("a hundred books are the most at a time: learn these first"));
      return false;
    }
    books.push(book);
    book.card = el("article", { class: "book", "aria-label": book.name });
    chosen.append(book.card);
    draw(book);
    return true;
  }

  function remove(book) {
    book.stop?.();
    books.splice(books.indexOf(book), 1);
    book.card.remove();
    keep();
    settle();
  }

  function fail(book, error) {
    if (error.name === "AbortError") return;
    if (book.typed) {
      remove(book);
      complain(pathWrong, error);
      path.focus();
      return;
    }
    book.error = sentence(String(error.message));
    draw(book);
  }

  /** Read a book through on the server, which tells how it is read and what is in it. */
  async function look(book) {
    book.stop?.();
    const left = new AbortController();
    Object.assign(book, { share: 0, doing: "Reading", error: null, look: null, stop: () => left.abort() });
    complain(pathWrong, null);
    draw(book);
    keep();
    try {
      await stream("studio/look", { path: book.path, encoding: book.encoding ?? null }, event => {
        if (event.book) {
          book.look = event.book;
          if (!draft.name) draft.name = runName.value = event.name;
        } else {
          book.share = event.share;
        }
        draw(book);
      }, left.signal);
    } catch (error) {
      return fail(book, error);
    }
    book.stop = null;
    if (book.typed) path.value = "";
    book.typed = false;
    say(`${book.name}: ${plural(book.look.characters, "character")}`);
    keep();
    settle();
  }

  function draw(book) {
    const found = book.look;
    const title = el("div", { class: "row apart" }, el("h3", {}, book.name),
      el("button", { type: "button", class: "quiet", "aria-label": `Remove ${book.name}`, onclick: () => remove(book) }, "Remove"));
    if (book.error) {
      const again = book.encoding && el("button", { type: "button", onclick: () => { book.encoding = null; look(book); } }, "Read it as before");
      put(book.card, title, el("p", { class: "wrong", role: "alert" }, book.error), again);
      return;
    }
    if (!found) {
      const bar = el("div", { class: "bar", "aria-hidden": "true" }, el("div", { style: { width: `${100 * (book.share ?? 0)}%` } }));
      if (book.bar?.isConnected && book.said === book.doing) {
        book.bar.firstChild.style.width = `${100 * (book.share ?? 0)}%`;
        return;
      }
      book.bar = bar;
      book.said = book.doing;
      put(book.card, title, el("p", { class: "note" }, `${book.doing ?? "Copying"} ...`), bar);
      return;
    }
    const select = el("select", { "aria-label": `Encoding of ${book.name}`, onchange: () => {
      book.encoding = select.value || null;
      look(book);
    } }, el("option", { value: "" }, book.encoding ? "Find the encoding" : `${found.encoding} (found)`),
      ENCODINGS.map(each => el("option", { value: each }, each)));
    select.value = book.encoding ?? "";
    book.fresh = el("p", { class: "note" });
    put(book.card, title,
      el("p", {}, `${plural(found.characters, "character")}, ${number(found.kinds)} different; about ${plural(Math.max(1, tokensOf(found)), "token")}`),
      found.note && el("p", { class: "note" }, sentence(found.note)), book.fresh,
      el("div", { class: "field encoding" }, el("span", { class: "label" }, "Encoding"), select),
      el("p", { class: "text", tabindex: "0", role: "region", "aria-label": `The beginning of ${book.name}` }, found.sample.trim()),
      el("details", {}, el("summary", {}, "Its characters"), el("p", { class: "letters" }, letters(found.alphabet), found.kinds > [...found.alphabet].length ? " ..." : "")));
    tellNew(book);
  }

  const tokensOf = found => Math.round(found.characters / (who.querySelector(":checked")?.dataset.pairs || (!draft.who && draft.tokens !== "char") ? 3 : 1));
  const letters = text => [...text].map(each => each === "\n" ? "↵" : each === " " ? "␣" : each === "\t" ? "⇥" : each).join(" ");

  function tellNew(book) {
    const learner = learners.find(each => each.name === draft.who);
    if (!learner || !book.look || !book.fresh) {
      if (book.fresh) book.fresh.textContent = "";
      return;
    }
    const known = new Set(learner.alphabet), strange = [...book.look.alphabet].filter(each => !known.has(each));
    book.fresh.textContent = !learner.characters_alone ? "" : strange.length
      ? `New to ${learner.name}: ${plural(strange.length, "character")}: ${letters(strange.slice(0, 40).join(""))}` : `${learner.name} knows all its characters.`;
  }

  /** Show who may read these books. */
  async function settle() {
    const ready = books.filter(book => book.look);
    second.hidden = third.hidden = !ready.length;
    if (!ready.length || over) return;
    try {
      learners = (await api("studio/learners")).learners;
    } catch (error) {
      return problem(error);
    }
    const hashes = new Set(ready.map(book => book.look.sha256));
    const notes = [], choices = [choice("who", "", !draft.who, "A new model", "it begins with nothing", () => choose(""))];
    if (!learners.some(each => each.name === draft.who)) draft.who = "";
    for (const each of learners) {
      const again = each.books.find(book => hashes.has(book.sha256)), open = each.books.find(book => book.state === "learning");
      const busy = ["training", "starting", "stopping"].includes(each.state);
      if (again) {
        notes.push(`${each.name} ${again.state === "learning" ? "is in the middle of" : "has read"} ${again.name}. `,
          el("a", { href: `#learn/${encodeURIComponent(each.name)}` }, "See how it goes"), ". ");
        if (draft.who === each.name) draft.who = "";
        continue;
      }
      const why = busy ? "it is reading now" : open ? `it has not finished ${open.name}` : null;
      if (why && draft.who === each.name) draft.who = "";
      const told = [`${plural(each.books.length, "book")}: ${each.books.slice(-3).map(book => book.name).join(", ")}`, `${short(each.parameters)} parameters`,
        `vocabulary ${number(each.vocabulary)}`, `changed ${ago(each.changed)}`, why].filter(Boolean).join(" · ");
      choices.push(choice("who", each.name, draft.who === each.name && !why, each.name, told, () => choose(each.name), Boolean(why)));
      if (!each.characters_alone) choices.at(-1).firstChild.dataset.pairs = "1";
    }
    choices[0].firstChild.checked = !draft.who;
    put(who, choices);
    put(whoNote, notes);
    whoNote.hidden = !notes.length;
    choose(draft.who);
  }

  function choose(name) {
    if (name !== draft.who) change({ who: name });
    fresh.hidden = Boolean(name);
    tokensField.hidden = Boolean(name);
    runName.value = draft.name;
    for (const book of books) tellNew(book);
  }

  function wish() {
    const ready = books.filter(book => book.look), encodings = [...new Set(ready.map(book => book.encoding ?? ""))];
    if (!ready.length) throw new Error("choose a book first");
    if (books.some(book => !book.look && !book.error)) throw new Error("a book is still being read: wait a moment");
    if (encodings.length > 1) throw new Error("the books have different encodings that you chose: learn them one after another");
    const { epochs, batch_size, stride, checkpoint_every, eval_every, size, tokens: kind } = draft;
    const run = draft.who || runName.value.trim();
    if (!run) throw new Error("the new model needs a name");
    return {
      run, fresh: !draft.who, size, tokens: kind, books: ready.map(book => book.path), encoding: encodings[0] || null,
      epochs, batch_size, stride, checkpoint_every, eval_every, log_every: timing?.log_every ?? 10,
    };
  }

  async function tryOut() {
    complain(startWrong, null);
    trial?.abort();
    const mine = trial = new AbortController();
    try {
      const asked = wish(), characters = books.filter(book => book.look).map(book => book.look.characters);
      estimate.disabled = true;
      cancel.hidden = false;
      time.textContent = "It learns for a few seconds, to see; a slow machine takes a minute ...";
      await stream("studio/probe", { wish: asked, characters }, event => {
        if (event.event !== "timed") return;
        timing = event;
        const long = event.seconds > 2400 ? " That is long: a smaller size, fewer epochs or more characters between rows (More) take less." : "";
        time.textContent = `About ${duration(event.seconds)} on this machine: ${plural(event.updates, "update")}, ${short(event.parameters)} parameters.${long}`;
      }, mine.signal);
    } catch (error) {
      if (mine === trial) time.textContent = "";
      if (error.name !== "AbortError") complain(startWrong, error);
    } finally {
      if (mine === trial) {
        trial = null;
        estimate.disabled = false;
        cancel.hidden = true;
      }
    }
  }

  async function begin() {
    complain(startWrong, null);
    start.disabled = true;
    try {
      const asked = wish();
      trial?.abort();
      const { run } = await api("studio/learn", { json: asked });
      books.length = 0;
      draft.name = "";
      draft.who = "";
      keep();
      location.hash = `learn/${encodeURIComponent(run)}`;
    } catch (error) {
      complain(startWrong, error);
      start.disabled = false;
    }
  }

  runName.value = draft.name;
  for (const book of draft.books) add({ ...book });
  api("studio/books").then(({ books: found }) => {
    before.hidden = !found.length;
    put(given, found.map(each => el("button", { type: "button", onclick: () => add({ path: each.path, name: each.name }) }, each.name)));
  }, problem);
  return () => {
    over = true;
    for (const kind of ["dragover", "drop"]) removeEventListener(kind, missed);
    trial?.abort();
    for (const book of books) book.stop?.();
  };
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(DRAFT) ?? "{}");
    return found && typeof found === "object" && Array.isArray(found.books ?? []) ? found : {};
  } catch {
    return {};
  }
}
