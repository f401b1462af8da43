// A box on the photo: drawn with the pointer, or given as numbers.
const LEAST_PX = 4;

// Calls `changed` with [x0, y0, x1, y1] in pixels of the picture when a box is drawn, and with undefined when there is none: too
// small, or interrupted. `size` gives [width, height].
function drawable(frame, size, show, changed) {
  let from = null, drawn = null;
  const point = (event) => {
    const edge = frame.getBoundingClientRect(), [width, height] = size();
    const share = (value, length) => Math.min(Math.max(value / length, 0), 1);
    return [share(event.clientX - edge.left, edge.width) * width, share(event.clientY - edge.top, edge.height) * height];
  };
  frame.addEventListener("pointerdown", (event) => {
    const drawing = frame.closest("article").classList.contains("drawing");
    if (event.button || (event.pointerType === "touch" && !drawing)) return;
    event.preventDefault();
    from = point(event);
    drawn = null;
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = point(event), [x, y] = [0, 1].map((axis) => [from[axis], to[axis]].sort((one, other) => one - other));
    drawn = [x[0], y[0], x[1], y[1]].map(Math.round);
    show(drawn);
  });
  frame.addEventListener("pointerup", () => {
    const made = drawn;
    from = drawn = null;
    if (made) changed(made[2] - made[0] >= LEAST_PX && made[3] - made[1] >= LEAST_PX ? made : undefined);
  });
  frame.addEventListener("pointercancel", () => { from = drawn = null; changed(undefined); });
}

function boxSvg(box, [width, height]) {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawn.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawn.setAttribute("preserveAspectRatio", "none");
  for (const look of ["under", "over"]) {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const values = {x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], class: look};
    for (const key in values) rect.setAttribute(key, values[key]);
    drawn.append(rect);
  }
  return drawn;
}

// Four fields for a box; `changed` gets the box, or null.
function boxNumbers(changed) {
  const form = make("form", "numbers"), fields = ["left", "top", "right", "bottom"].map((name) => {
    const field = make("input"), label = make("label", "", capital(name));
    Object.assign(field, {type: "number", min: 0, step: 1, required: true});
    label.append(field);
    form.append(label);
    return field;
  });
  form.append(make("button", "", "Use this box"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    changed(fields.map((field) => Number(field.value)));
  });
  form.show = (box) => fields.forEach((field, place) => { field.value = box ? box[place] : ""; });
  return form;
}
