"use strict";
(() => {
  // Data is inserted as text or as an attribute's value, never as markup.
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const at = (id) => document.getElementById(id);
  const facts = read("facts"), rows = read("rows");
  const total = rows.item_id.length, PAGE = 24;
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return made;
  };
  // Invisible and bidirectional characters are escaped, so that no id looks like another one.
  const plain = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));
  const make = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = plain(text);
    return made;
  };

  // Reviews: {item id: [verdict, note, time]}. The key has the folder, since all pages opened from disk share one storage.
  // A browser may refuse to store them (private windows).
  const storageKey = "matteline reviews " + facts.folder;
  let reviews = new Map(), history = [];
  try { reviews = new Map(JSON.parse(localStorage.getItem(storageKey) || "[]")); } catch { /* they last as long as the page */ }
  const store = () => { try { localStorage.setItem(storageKey, JSON.stringify([...reviews])); } catch { /* as above */ } };
  const now = () => new Date().toISOString();

  let chosen = [], page = 0, here = 0;

  function summary() {
    document.title = at("title").textContent = plain(facts.title);
    at("subtitle").textContent = plain(facts.about);
    const counts = make("div");
    counts.append(make("h2", "", "Items"));
    for (const [name, count] of facts.counts) {
      const one = make("span", "count");
      one.append(make("span", "big", count.toLocaleString("en")), name);
      counts.append(one);
    }
    for (const line of facts.lines) counts.append(make("div", "", line));
    at("summary").append(counts);
    if (facts.histogram.length) {
      const box = make("div"), high = Math.max(1, ...facts.histogram), drawn = svg("svg", {viewBox: "0 0 200 80", class: "histogram", preserveAspectRatio: "none", role: "img"});
      box.append(make("h2", "", "Quality"));
      facts.histogram.forEach((count, step) => {
        const tall = 66 * count / high, bar = svg("rect", {x: step * 10 + 0.5, y: 68 - tall, width: 9, height: tall});
        const hint = svg("title", {});
        hint.textContent = `${step / 20} to ${(step + 1) / 20}: ${count}`;
        bar.append(hint);
        drawn.append(bar);
      });
      const scale = make("div", "scale");
      scale.append(make("span", "", "0"), make("span", "", "1"));
      box.append(drawn, scale);
      at("summary").append(box);
    }
    for (const given of facts.tables) {
      const box = make("div"), table = make("table"), head = make("tr");
      const align = (cell) => (/^-?[0-9.]+$/.test(cell) ? "number" : "");
      box.append(make("h2", "", given.title));
      given.columns.forEach((name, column) => head.append(make("th", given.rows.length ? align(given.rows[0][column]) : "", name)));
      table.append(head);
      for (const row of given.rows) {
        const line = make("tr");
        for (const cell of row) line.append(make("td", align(cell), cell));
        table.append(line);
      }
      box.append(table);
      at("summary").append(box);
    }
  }

  function options(select, first, values) {
    select.replaceChildren(new Option(first, ""), ...values.map((value) => new Option(plain(value), "=" + value)));
    select.hidden = !values.length;
    select.addEventListener("change", filter);
  }

  function filters() {
    const distinct = (lists) => [...new Set(lists.flat())].sort().slice(0, 500);
    options(at("status"), "all statuses", distinct(rows.status));
    options(at("reason"), "all reasons", distinct(rows.reasons));
    options(at("tag"), "all tags", distinct(rows.tags));
    options(at("reviewed"), "all reviews", facts.verdicts.length ? ["not reviewed", ...facts.verdicts] : []);
    at("search").addEventListener("input", filter);
  }

  function filter() {
    const text = at("search").value.toLowerCase(), [status, reason, tag, reviewed] =
      ["status", "reason", "tag", "reviewed"].map((id) => at(id).value.slice(1));
    chosen = [];
    for (let row = 0; row < total; row++) {
      if (text && !rows.item_id[row].toLowerCase().includes(text)) continue;
      if (status && rows.status[row] !== status) continue;
      if (reason && !rows.reasons[row].includes(reason)) continue;
      if (tag && !rows.tags[row].includes(tag)) continue;
      if (reviewed && ((reviews.get(rows.item_id[row]) || ["not reviewed"])[0]) !== reviewed) continue;
      chosen.push(row);
    }
    page = here = 0;
    show();
  }

  function figure([label, which, look], pictures) {
    if (!pictures[which]) return null;
    const made = make("figure", look === "wide" ? "wide" : ""), frame = make("div", "frame " + look), image = make("img");
    image.alt = label;
    image.decoding = "async";
    if (look !== "wide") { image.width = pictures.width; image.height = pictures.height; }
    image.src = pictures[which];
    frame.append(image);
    if (look === "outline" && pictures.contour) {
      const over = svg("svg", {viewBox: `-0.5 -0.5 ${pictures.width} ${pictures.height}`, preserveAspectRatio: "none"});
      over.append(svg("path", {d: pictures.contour}));
      frame.append(over);
    }
    made.append(frame, make("figcaption", "", label));
    return made;
  }

  function card(row, number) {
    const id = rows.item_id[row], held = at("picture-" + row), [verdict, note] = reviews.get(id) || ["", ""];
    const made = make("article", (held ? "" : "line ") + verdict), top = make("div", "top");
    top.append(make("b", "", id), make("span", "chip", rows.status[row]));
    if (rows.quality[row] !== null) top.append(make("span", "", "quality " + rows.quality[row].toFixed(3)));
    for (const reason of rows.reasons[row]) top.append(make("span", "chip", reason));
    for (const tag of rows.tags[row]) top.append(make("span", "chip", "# " + tag));
    const choices = make("span", "verdict", verdict ? `${verdict} ` : "");
    for (const word of facts.verdicts) {
      const button = make("button", "", word);
      button.type = "button";
      button.addEventListener("click", () => { here = number; review(word); });
      if (word !== verdict) choices.append(button, " ");
    }
    top.append(choices);
    made.append(top);
    if (rows.detail[row]) made.append(make("div", "failed", rows.detail[row]));
    if (note) made.append(make("div", "", "note: " + note));
    if (held) {
      const pictures = JSON.parse(held.textContent), views = make("div", "views");
      for (const missing of pictures.notes) made.append(make("div", "missing", missing));
      views.append(...facts.views.map((view) => figure(view, pictures)).filter(Boolean));
      made.append(views);
      if (pictures.signals) made.append(make("div", "signals", pictures.signals));
    }
    made.addEventListener("click", () => { here = number; mark(false); });
    return made;
  }

  function show() {
    const first = page * PAGE, some = chosen.slice(first, first + PAGE);
    at("items").replaceChildren(...some.map((row, number) => card(row, number)));
    at("found").textContent = `${chosen.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    at("page").textContent = `page ${page + 1} of ${Math.max(1, Math.ceil(chosen.length / PAGE))}`;
    at("before").disabled = page === 0;
    at("after").disabled = first + PAGE >= chosen.length;
    mark(false);
  }

  function mark(move) {
    [...at("items").children].forEach((one, number) => one.classList.toggle("here", number === here));
    const current = at("items").children[here], nav = document.querySelector("nav");
    if (!move || !current) return;
    const navHeight = getComputedStyle(nav).position === "sticky" ? nav.offsetHeight : 0;
    current.style.scrollMarginTop = navHeight + 8 + "px";
    current.scrollIntoView({block: "start"});
  }

  function turn(pages, last) {
    if ((page + pages) * PAGE >= chosen.length || page + pages < 0) return;
    page += pages;
    here = last ? PAGE - 1 : 0;
    show();
    mark(true);
  }

  function step(by) {
    const next = here + by;
    if (next < 0) turn(-1, true);
    else if (next >= PAGE) turn(1);
    else if (next < at("items").children.length) { here = next; mark(true); }
  }

  function redraw() {
    const row = chosen[page * PAGE + here];
    at("items").children[here].replaceWith(card(row, here));
    mark(false);
  }

  function review(word, note) {
    const row = chosen[page * PAGE + here];
    if (row === undefined || !facts.verdicts.length) return;
    const id = rows.item_id[row], before = reviews.get(id);
    history.push([id, before]);
    reviews.set(id, [word || (before ? before[0] : "reject"), note === undefined ? (before ? before[1] : "") : note, now()]);
    store();
    redraw();
  }

  function undo() {
    const last = history.pop();
    if (!last) return;
    if (last[1]) reviews.set(last[0], last[1]); else reviews.delete(last[0]);
    store();
    show();
  }

  function csv() {
    // Spreadsheets run a cell that begins like a formula. An apostrophe makes it text; the import removes it.
    const plain = (text) => (/^'*[=+\-@\t\r]/.test(text) ? "'" : "") + text;
    const quoted = (text) => '"' + plain(String(text)).replaceAll('"', '""') + '"';
    const lines = [["item_id", "verdict", "note", "recipe", "time"].join(",")];
    for (const [id, [verdict, note, time]] of reviews) lines.push([id, verdict, note, facts.recipe, time].map(quoted).join(","));
    return lines.join("\r\n") + "\r\n";
  }

  function save() {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
    link.download = "reviews.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const keys = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    ArrowRight: () => turn(1), ArrowLeft: () => turn(-1),
    a: () => { review("accept"); step(1); }, r: () => { review("reject"); step(1); }, u: undo,
    n: () => { const note = prompt("Note"); if (note !== null) review("", note); },
    e: () => { if (facts.verdicts.length) save(); }, "/": () => at("search").focus(), "?": () => at("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
    if (/^(INPUT|SELECT)$/.test(event.target.tagName)) {
      // Enter keeps the search and Escape clears it. Both keep the filters.
      const search = event.target === at("search");
      if (search && event.key === "Escape") { event.target.value = ""; filter(); }
      if (event.key === "Escape" || (search && event.key === "Enter")) event.target.blur();
      return;
    }
    if (Object.hasOwn(keys, event.key)) { event.preventDefault(); keys[event.key](); }
  });
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  at("export").addEventListener("click", save);
  at("help-button").addEventListener("click", () => at("help").showModal());
  at("help-close").addEventListener("click", () => at("help").close());
  at("export").hidden = !facts.verdicts.length;

  summary();
  filters();
  filter();
  // The load event waits for the pictures of the first page.
  addEventListener("load", () => { document.body.dataset.ready = Math.round(performance.now()); });
})();
