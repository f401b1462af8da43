// Keys and buttons, and the start of the page.
const judgeAndGo = (word) => { accept(word); step(1); };
const undo = () => { if (undoReview() !== undefined) show(); };

const keys = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  ArrowRight: () => turn(1), ArrowLeft: () => turn(-1), v: () => openViewer(0), b: nextGround,
  a: () => judgeAndGo("accept"), r: () => judgeAndGo("reject"), n: () => judge("note"), u: undo,
  e: () => { if (facts.verdicts.length) saveReviews(); }, "/": () => at("search").focus(), "?": () => at("help").showModal(),
};
const viewerKeys = {
  ArrowRight: () => turnView(1), ArrowLeft: () => turnView(-1), ArrowDown: () => turnItem(1), ArrowUp: () => turnItem(-1),
  j: () => turnItem(1), k: () => turnItem(-1), b: nextGround, "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: fit,
  a: () => { accept("accept"); turnItem(1); look(which); }, r: () => { accept("reject"); turnItem(1); look(which); },
  n: () => { judge("note"); look(which); }, u: () => { undo(); look(which); },
};
const pans = {ArrowRight: [-60, 0], ArrowLeft: [60, 0], ArrowDown: [0, -60], ArrowUp: [0, 60]};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  if (/^(INPUT|SELECT)$/.test(event.target.tagName)) {
    // Enter keeps the search and Escape clears it. Both keep the filters.
    const search = event.target === at("search");
    if (search && event.key === "Escape") { event.target.value = ""; filter(); }
    if (event.key === "Escape" || (search && event.key === "Enter")) event.target.blur();
    return;
  }
  if (event.target.tagName === "VIDEO") return; // its own keys: play, seek, volume
  const moved = at("viewer").open && event.shiftKey ? pans[event.key] : undefined;
  const press = moved ? () => pan(...moved) : (at("viewer").open ? viewerKeys : keys);
  const found = typeof press === "function" ? press : Object.hasOwn(press, event.key) ? press[event.key] : undefined;
  if (found) { event.preventDefault(); found(); }
});

at("before").addEventListener("click", () => turn(-1));
at("after").addEventListener("click", () => turn(1));
at("export").addEventListener("click", saveReviews);
at("help-button").addEventListener("click", () => at("help").showModal());
at("help-close").addEventListener("click", () => at("help").close());
at("export").hidden = !facts.verdicts.length;
document.body.classList.toggle("unreviewed", !facts.verdicts.length);

summary();
filters();
filter();
viewer();
// The pictures after the first ones are parsed later, when the first page can be seen already.
document.addEventListener("DOMContentLoaded", () => { if (page || at("search").value) show(); });
Promise.all([...document.images].map((one) => one.decode().catch(() => null))).then(() => {
  document.body.dataset.viewed = Math.round(performance.now());
});
addEventListener("load", () => { document.body.dataset.ready = Math.round(performance.now()); });
