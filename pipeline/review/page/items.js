// The list: filters, pages of cards, and the current card.
const PAGE = 24;
const GROUNDS = [["checker", "on a checkerboard"], ["white", "on white"], ["black", "on black"]];
let chosen = [], page = 0, here = 0, texts = null;

function options(select, first, pairs) {
  select.replaceChildren(new Option(first, ""), ...pairs.map(([value, label]) => new Option(plain(label), value)));
  select.hidden = !pairs.length;
  select.addEventListener("change", filter);
}

function filters() {
  const distinct = (lists) => [...new Set(lists.flat())].sort().slice(0, 500).map((value) => ["=" + value, words(value)]);
  options(at("status"), "All statuses",
    [...distinct(rows.status), ...(facts.missing_rows.length ? [["missing", "pictures missing"]] : [])]);
  options(at("reason"), "All reasons", distinct(rows.reasons).map(([value, label]) => [value, capital(label)]));
  options(at("tag"), "All tags", distinct(rows.tags));
  options(at("reviewed"), "All reviews", facts.verdicts.length ? [["=", "not reviewed"], ["=accept", "accepted"], ["=reject", "rejected"]] : []);
  at("search").placeholder = "Search " + plain(["item id", ...facts.columns].join(", "));
  at("search").setAttribute("aria-label", at("search").placeholder);
  at("search").addEventListener("input", filter);
  for (const [name, label] of GROUNDS) {
    const one = button("swatch " + name, undefined, () => setGround(name));
    one.title = "Cutouts " + label;
    one.setAttribute("aria-label", one.title);
    at("grounds").append(one);
  }
  setGround("checker");
}

function setGround(name) {
  document.body.dataset.ground = name;
  [...at("grounds").children].forEach((one, place) => one.setAttribute("aria-pressed", GROUNDS[place][0] === name));
}

const nextGround = () => setGround(GROUNDS[(GROUNDS.findIndex(([name]) => name === document.body.dataset.ground) + 1) % GROUNDS.length][0]);

// Sets one filter and clears the others.
function choose(id, value) {
  for (const other of ["search", "status", "reason", "tag", "reviewed"]) at(other).value = other === id ? value : "";
  filter();
  mark(true);
}

// The texts to search: the id and the manifest's values of each row, in lower case.
function searched(row) {
  texts ??= rows.item_id.map((id, at) => [id, ...rows.shown.map((column) => column[at])].join("\n").toLowerCase());
  return texts[row];
}

function filter() {
  const text = at("search").value.trim().toLowerCase(), value = (id) => at(id).value.slice(1);
  const [status, reason, tag, reviewed] = ["status", "reason", "tag", "reviewed"].map(value);
  const only = at("status").value === "missing" ? new Set(facts.missing_rows) : null, judged = at("reviewed").value !== "";
  chosen = [];
  for (let row = 0; row < total; row++) {
    if (text && !searched(row).includes(text)) continue;
    if (only ? !only.has(row) : status && rows.status[row] !== status) continue;
    if (reason && !rows.reasons[row].includes(reason)) continue;
    if (tag && !rows.tags[row].includes(tag)) continue;
    if (judged && (reviews.get(rows.item_id[row]) || [""])[0] !== reviewed) continue;
    chosen.push(row);
  }
  page = here = 0;
  show();
}

// The pictures to show: caption, address, size, look, and the file below the output.
function viewsOf(pictures) {
  const boxed = pictures.box ? pictures.found ? " with the box that was found" : " with your box" : "", {width, height} = pictures;
  const views = facts.views.filter(([, key]) => pictures[key]).map(([label, key, look]) => ({
    label: look === "box" || look === "outline" ? label + boxed : label, src: pictures[key], look,
    ...(look === "wide" ? {} : {width, height}),
    file: look === "mask" ? pictures.files.mask : look === "ground" ? pictures.files.cutout : null,
  }));
  const made = pictures.renditions.filter((one) => one.src).map((one) => ({
    label: one.name, remark: one.note, src: one.src, look: "ground", width: one.width, height: one.height, file: one.file,
  }));
  const last = views.findIndex((view) => view.look === "wide");
  views.splice(last < 0 ? views.length : last, 0, ...made);
  return views;
}

function frameOf(view, pictures) {
  const frame = make("div", "frame " + view.look), image = make("img");
  image.alt = plain(view.label);
  image.decoding = "async";
  image.draggable = false;
  if (view.width) {
    image.width = view.width;
    image.height = view.height;
    frame.style.setProperty("--ratio", view.width / view.height);
  }
  image.src = view.src;
  frame.append(image);
  if (view.look === "outline" && pictures.contour) {
    const over = svg("svg", {viewBox: `-0.5 -0.5 ${view.width} ${view.height}`, preserveAspectRatio: "none"});
    over.append(svg("path", {d: pictures.contour, class: "under"}), svg("path", {d: pictures.contour}));
    frame.append(over);
  }
  if ((view.look === "box" || view.look === "outline") && pictures.box) frame.append(drawnBox(pictures));
  return frame;
}

// A box that reaches beyond the photo is drawn along its edge.
function drawnBox({box, full: [width, height]}) {
  const inside = (value, most) => Math.min(Math.max(value, 0), most);
  const [x0, y0, x1, y1] = [inside(box[0], width), inside(box[1], height), inside(box[2], width), inside(box[3], height)];
  const over = svg("svg", {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "boxes"});
  for (const name of ["under", "box"]) over.append(svg("rect", {x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: name}));
  return over;
}

const reachesBeyond = ({box, full: [width, height]}) => box[0] < 0 || box[1] < 0 || box[2] > width || box[3] > height;

function verdicts(row, press) {
  const made = make("span", "verdicts"), [verdict] = reviews.get(rows.item_id[row]) || [""];
  for (const word of facts.verdicts) {
    const one = button(word, capital(word), () => press(word));
    one.setAttribute("aria-pressed", word === verdict);
    made.append(one);
  }
  if (facts.verdicts.length) made.append(button("note", "Note", () => press("note")));
  return made;
}

function top(row, place) {
  const made = make("div", "top");
  made.append(make("b", "", rows.item_id[row]), make("span", "chip " + (Object.hasOwn(facts.words, rows.status[row]) ? rows.status[row] : ""), words(rows.status[row])));
  if (rows.quality[row] !== null) {
    const meter = make("span", "quality", "quality " + quality(rows.quality[row]));
    meter.title = facts.calibrated ? "Estimated chance that the mask is good" : "Quality; higher is better";
    made.append(meter);
  }
  for (const tag of rows.tags[row]) made.append(make("span", "chip", "# " + tag));
  made.append(verdicts(row, (word) => { here = place; judge(word); }));
  return made;
}

function card(row, place) {
  const id = rows.item_id[row], pictures = picturesOf(row), [verdict, note] = reviews.get(id) || ["", ""];
  const made = make("article", [pictures ? "" : "line", verdict].filter(Boolean).join(" "));
  made.append(top(row, place));
  const fields = facts.columns.map((name, column) => [name, rows.shown[column][row]]).filter(([, value]) => value !== "" && value !== id);
  if (fields.length) {
    const list = make("dl", "fields");
    for (const [name, value] of fields) {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", value));
      list.append(pair);
    }
    made.append(list);
  }
  if (rows.detail[row] || rows.code[row]) {
    made.append(make("p", "failed", capital(words(rows.code[row])) + (rows.detail[row] ? ": " + rows.detail[row] : "")));
  }
  for (const reason of rows.reasons[row]) made.append(make("p", "why", capital(words(reason))));
  if (note) made.append(make("p", "own-note", "Your note: " + note));
  if (pictures) made.append(...looks(pictures, place));
  made.addEventListener("click", () => { here = place; mark(false); });
  return made;
}

// What stands below the texts of a card: remarks, pictures, measurements.
function looks(pictures, place) {
  const views = make("div", "views"), remarks = [];
  for (const [kind, reason] of pictures.missing) remarks.push(make("p", "missing", `${capital(kind)} not shown: ${reason}`));
  for (const one of pictures.renditions) if (!one.src && one.note) remarks.push(make("p", "", `${one.name}: ${one.note}`));
  if (pictures.box && reachesBeyond(pictures)) remarks.push(make("p", "", "The box reaches beyond the photo; it is drawn along the edge."));
  for (const text of [pictures.note, pictures.changed, pictures.work]) if (text) remarks.push(make("p", "", text));
  viewsOf(pictures).forEach((view, which) => {
    const one = button("view " + (view.look === "wide" ? "wide" : ""), undefined, () => { here = place; openViewer(which); });
    one.append(frameOf(view, pictures), make("span", "caption", view.label));
    if (view.remark) one.append(make("span", "caption remark", view.remark));
    views.append(one);
  });
  if (pictures.about) remarks.push(make("p", "", pictures.about));
  return [...remarks, views, ...player(pictures), ...(pictures.signals.length ? [measurements(pictures)] : [])];
}

// The player of a small video, or the link to a large one and its player, which loads nothing before it is started.
function player({play, linked}) {
  if (play) {
    const made = make("video", "player");
    made.controls = made.loop = made.muted = true;
    made.width = play.width;
    made.height = play.height;
    made.src = play.src;
    return [made];
  }
  if (!linked || facts.base === null) return [];
  const link = make("a", "", "Open the video"), made = make("video", "player");
  link.href = (facts.base + linked.path).split("/").map(encodeURIComponent).join("/");
  made.controls = made.loop = made.muted = true;
  made.preload = "none";
  made.width = linked.width;
  made.height = linked.height;
  made.src = link.href;
  return [made, link];
}

function measurements(pictures) {
  const made = make("details", "signals");
  made.append(make("summary", "", "Measurements"));
  made.addEventListener("toggle", () => {
    if (made.children.length > 1) return;
    const table = make("table");
    for (const [name, value] of pictures.signals) {
      const line = make("tr");
      line.append(make("th", "", name), make("td", "number", value), make("td", "", facts.signals[name] || ""));
      table.append(line);
    }
    if (pictures.photo_uri) made.append(make("p", "", "Photo: " + pictures.photo_uri));
    made.append(table);
  });
  return made;
}

function show() {
  const first = page * PAGE, some = chosen.slice(first, first + PAGE), pages = Math.max(1, Math.ceil(chosen.length / PAGE));
  at("items").replaceChildren(...some.map(card));
  if (!some.length) at("items").append(make("p", "empty", total ? "No items match the search and the filters." : "There are no items."));
  at("found").textContent = chosen.length === total ? items(total) : `${number(chosen.length)} of ${items(total)}`;
  at("page").textContent = `Page ${number(page + 1)} of ${number(pages)}`;
  at("before").disabled = page === 0;
  at("after").disabled = page + 1 === pages;
  document.querySelector("footer").hidden = pages === 1;
  sampleState();
  mark(false);
}

const current = () => chosen[page * PAGE + here];

function mark(move) {
  const cards = document.querySelectorAll("article"), nav = document.querySelector("nav");
  cards.forEach((one, place) => one.classList.toggle("here", place === here));
  if (!move) return;
  const navHeight = getComputedStyle(nav).position === "sticky" ? nav.offsetHeight : 0, target = cards[here] || nav;
  target.style.scrollMarginTop = navHeight + 8 + "px";
  target.scrollIntoView({block: "start"});
}

// Both return whether there was a place to go to.
function turn(pages, last) {
  if ((page + pages) * PAGE >= chosen.length || page + pages < 0) return false;
  page += pages;
  here = last ? PAGE - 1 : 0;
  show();
  mark(true);
  return true;
}

function step(by) {
  const next = here + by;
  if (next < 0) return turn(-1, true);
  if (next >= PAGE) return turn(1);
  if (page * PAGE + next >= chosen.length) return false;
  here = next;
  mark(true);
  return true;
}

function redraw() {
  const old = document.querySelectorAll("article")[here], made = card(current(), here);
  const held = [...old.querySelectorAll("button, summary")].indexOf(document.activeElement);
  old.replaceWith(made);
  if (held >= 0) made.querySelectorAll("button, summary")[held]?.focus();
  sampleState();
  mark(false);
}

// Accepts, rejects or notes the current item. The verdict that it has already is taken back.
function judge(word) {
  const row = current();
  if (row === undefined || !facts.verdicts.length) return;
  const id = rows.item_id[row], [verdict, note] = reviews.get(id) || ["", ""];
  if (word === "note") {
    const text = prompt("Note", note);
    if (text === null) return;
    setReview(row, verdict || "reject", text);
  } else setReview(row, word === verdict ? null : word, note);
  redraw();
}

function accept(word) {
  const row = current();
  if (row === undefined || !facts.verdicts.length) return;
  const [verdict] = reviews.get(rows.item_id[row]) || [""];
  if (verdict !== word) judge(word);
}
