// One picture in large: zoom, pan, the item's other pictures, and the next items.
const MOST_ZOOM = 16, STEP = 1.4;
const pointers = new Map();
let views = [], which = 0, size = [1, 1], sight = {scale: 1, x: 0, y: 0}, fitted = true, opener = null;

function openViewer(place) {
  const pictures = picturesOf(current());
  views = pictures ? viewsOf(pictures) : [];
  if (!views.length) return false;
  if (!at("viewer").open) {
    opener = document.activeElement;
    at("viewer").showModal();
  }
  fitted = true;
  at("strip").replaceChildren(...views.map((view, number) => {
    const one = button("view", undefined, () => look(number));
    one.title = plain(view.label);
    one.append(frameOf(view, pictures));
    return one;
  }));
  look(Math.min(place, views.length - 1));
  return true;
}

async function look(number) {
  const view = views[which = number], pictures = picturesOf(current()), frame = frameOf(view, pictures), image = frame.firstChild;
  at("viewer-title").textContent = plain(rows.item_id[current()]);
  at("viewer-label").textContent = plain(`${view.label} (${number + 1} of ${views.length})${view.remark ? ": " + view.remark : ""}`);
  [...at("strip").children].forEach((one, place) => one.setAttribute("aria-pressed", place === number));
  at("strip").children[number].scrollIntoView({block: "nearest", inline: "nearest"});
  at("viewer-verdicts").replaceChildren(verdicts(current(), (word) => { judge(word); look(which); }));
  at("viewer-file").hidden = !view.file || facts.base === null;
  if (!at("viewer-file").hidden) at("viewer-file").href = (facts.base + view.file).split("/").map(encodeURIComponent).join("/");
  at("stage").replaceChildren(frame);
  if (!view.width) try { await image.decode(); } catch { /* a broken picture shows its caption */ }
  if (views[which] !== view) return;
  const before = size;
  size = [view.width || image.naturalWidth || 1, view.height || image.naturalHeight || 1];
  // The place and the zoom stay, to compare pictures of one size.
  if (fitted || before[0] !== size[0] || before[1] !== size[1]) fit(); else place();
}

const fitScale = () => Math.min(at("stage").clientWidth / size[0], at("stage").clientHeight / size[1], 4);

function fit() {
  sight = {scale: fitScale(), x: 0, y: 0};
  fitted = true;
  place();
}

function place() {
  const stage = at("stage"), frame = stage.firstChild, least = Math.min(fitScale(), 1);
  sight.scale = Math.min(Math.max(sight.scale, least), MOST_ZOOM);
  [["x", stage.clientWidth, size[0]], ["y", stage.clientHeight, size[1]]].forEach(([axis, room, length]) => {
    const spare = room - length * sight.scale;
    sight[axis] = spare >= 0 ? spare / 2 : Math.min(0, Math.max(spare, sight[axis]));
  });
  frame.style.width = size[0] * sight.scale + "px";
  frame.style.height = size[1] * sight.scale + "px";
  frame.style.transform = `translate(${sight.x}px, ${sight.y}px)`;
  frame.classList.toggle("pixels", sight.scale >= 3);
  at("zoom-fit").textContent = `${Math.round(100 * sight.scale)} %`;
}

// Zooms about a point of the stage, by default its middle.
function zoom(factor, x = at("stage").clientWidth / 2, y = at("stage").clientHeight / 2) {
  const before = sight.scale, least = Math.min(fitScale(), 1);
  sight.scale = Math.min(Math.max(before * factor, least), MOST_ZOOM);
  sight.x = x - (x - sight.x) * sight.scale / before;
  sight.y = y - (y - sight.y) * sight.scale / before;
  fitted = false;
  place();
}

function pan(x, y) {
  sight.x += x;
  sight.y += y;
  place();
}

const turnView = (by) => look((which + by + views.length) % views.length);

// Goes on to the next item that has pictures.
function turnItem(by) {
  const shown = views[which].look, [pageBefore, hereBefore] = [page, here];
  while (step(by)) {
    if (!openViewer(0)) continue;
    const same = views.findIndex((view) => view.look === shown);
    if (same > 0) look(same);
    return;
  }
  [page, here] = [pageBefore, hereBefore];
  show();
}

const inStage = (event) => { const edge = at("stage").getBoundingClientRect(); return [event.clientX - edge.left, event.clientY - edge.top]; };

function pointerMoved(event) {
  const before = pointers.get(event.pointerId), now = inStage(event);
  if (!before) return;
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, now);
  if (!other) return pan(now[0] - before[0], now[1] - before[1]);
  const apart = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
  zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
}

function viewer() {
  const stage = at("stage");
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)), ...inStage(event));
  }, {passive: false});
  stage.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, inStage(event));
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", pointerMoved);
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
  stage.addEventListener("dblclick", (event) => { if (fitted) zoom(3, ...inStage(event)); else fit(); });
  addEventListener("resize", () => { if (at("viewer").open) { if (fitted) fit(); else place(); } });
  const presses = {
    "zoom-in": () => zoom(STEP), "zoom-out": () => zoom(1 / STEP), "zoom-fit": fit, "viewer-close": () => at("viewer").close(),
    "viewer-before": () => turnItem(-1), "viewer-after": () => turnItem(1),
  };
  for (const id in presses) at(id).addEventListener("click", presses[id]);
  at("viewer").addEventListener("close", () => {
    at("stage").replaceChildren();
    pointers.clear();
    mark(true);
    const card = document.querySelectorAll("article")[here];
    (opener?.isConnected ? opener : card?.querySelector(".view"))?.focus({preventScroll: true});
  });
}
