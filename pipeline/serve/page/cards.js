// One card per picture: photo, mask, cutout, rendition, quality.
const cards = [];

class Card {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted.png";
    this.box = null;
    this.state = "waiting";
    this.urls = [];
    this.photo = new Image();
    this.photo.alt = `Photo ${this.name}`;
    this.photo.draggable = false;
    this.photo.src = this.photoUrl = URL.createObjectURL(file);
    this.photo.addEventListener("load", () => this.frame.classList.remove("empty"));
    this.photo.addEventListener("error", () => {
      this.photo.hidden = true;
      this.frame.append(make("p", "unseen-photo", "This browser cannot show this photo. The service may read it all the same."));
    });
    this.build();
  }

  build() {
    this.element = make("article");
    this.element.setAttribute("aria-label", this.name);
    this.chip = make("span", "chip");
    this.facts = make("span", "facts");
    const top = make("div", "top"), remove = button("✕", () => this.remove(), "remove");
    remove.setAttribute("aria-label", `Remove ${this.name}`);
    top.append(make("h2", "", this.name), this.chip, this.facts, remove);
    this.notes = make("div");
    this.notes.setAttribute("role", "status");
    this.views = make("div", "views");
    this.frame = make("div", "frame empty");
    this.frame.append(this.photo);
    drawable(this.frame, () => this.size(), (box) => this.showBox(box), (box) => this.setBox(box));
    this.draw = button("Draw a box", () => this.drawing(!this.element.classList.contains("drawing")));
    this.draw.title = "With a mouse, drag on the photo at any time";
    this.unbox = button("Remove the box", () => this.setBox(null));
    this.numbers = boxNumbers((box) => this.setBox(box));
    const details = make("details");
    details.append(make("summary", "", "Box in pixels"), this.numbers);
    this.photoFigure = figure("photo", this.frame, make("span", "", "Photo"), this.draw, this.unbox);
    this.photoFigure.append(details);
    this.views.append(this.photoFigure);
    this.element.append(top, this.notes, this.views);
    this.drawing(false);
    this.show();
  }

  size() {
    return this.result ? [this.result.width, this.result.height] : [this.photo.naturalWidth || 1, this.photo.naturalHeight || 1];
  }

  showBox(box) {
    this.frame.querySelector("svg")?.remove();
    if (box) this.frame.append(boxSvg(box, this.size()));
  }

  // Touch draws a box only meanwhile: otherwise it scrolls the page.
  drawing(on) {
    this.element.classList.toggle("drawing", on);
    this.draw.setAttribute("aria-pressed", on);
    this.draw.textContent = on ? "Drag on the photo" : "Draw a box";
    if (on) this.frame.scrollIntoView({block: "nearest"});
  }

  setBox(box) {
    this.drawing(false);
    const before = this.box;
    if (box !== undefined) this.box = box;
    this.numbers.show(this.box);
    this.showBox(this.box);
    if (String(before) !== String(this.box)) this.run();
  }

  // Asks once for cutout, mask and rendition. If only the rendition is another one, asks for that, or for nothing.
  async run() {
    this.stop?.abort();
    const {signal} = (this.stop = new AbortController());
    const where = this.box ? {box: this.box.join(",")} : asksByName() ? {label: at("object").value} : {};
    const options = {...(at("preset").value && {preset: at("preset").value}), ...where}, name = at("rendition").value;
    const key = JSON.stringify(options), known = this.result && this.key === key;
    if (known && this.blobs && (!name || this.rendition?.name === name)) {
      this.state = "done";
      if (!this.box) this.showBox(this.result.found?.box);
      return this.show();
    }
    this.state = "waiting";
    this.show();
    try {
      let result = this.result, rendition = null;
      if (known) rendition = await this.ask(options, name, signal);
      else {
        result = await (await cut(this.file, {...options, output: "json", ...(name && {rendition: name})}, signal)).json();
        [rendition = null] = result.renditions.map(renditionOf);
      }
      if (signal.aborted) return;
      Object.assign(this, {result, key});
      this.done(result, rendition);
    } catch (error) {
      if (signal.aborted) return;
      Object.assign(this, {state: "failed", problem: error.message, code: error.code, blobs: null, key: null});
    }
    this.show();
  }

  async ask(options, name, signal) {
    try {
      const answer = await cut(this.file, {...options, rendition: name}, signal), type = answer.headers.get("Content-Type");
      return {name, note: answer.headers.get("X-Note"), suffix: suffixOf(type), blob: await answer.blob()};
    } catch (error) {
      if (signal.aborted || error.code !== "rendition") throw error;
      return {name, note: error.message};
    }
  }

  done(result, rendition) {
    this.state = "done";
    this.forget();
    const url = (blob) => this.urls[this.urls.push(URL.createObjectURL(blob)) - 1];
    this.blobs = [["cutout", "png", blobOf(result.image)], ["mask", "png", blobOf(result.mask)]];
    this.rendition = rendition;
    if (!this.box) this.showBox(result.found ? result.found.box : null);
    if (rendition?.blob) this.blobs.push([rendition.name, rendition.suffix, rendition.blob]);
    this.shown = Object.fromEntries(this.blobs.map(([what, , blob]) => [what, url(blob)]));
  }

  // A rendition that is no longer chosen is kept, in case it is chosen again, and is no file meanwhile.
  files() {
    const wanted = ["cutout", "mask", at("rendition").value];
    return (this.blobs || []).filter(([what]) => wanted.includes(what)).map(([what, suffix, blob]) => [`${stem(this.name)}-${what}.${suffix}`, blob]);
  }

  save(what) {
    const [, suffix, blob] = this.blobs.find(([made]) => made === what);
    save(blob, `${stem(this.name)}-${what}.${suffix}`);
  }

  show() {
    const {state, result} = this, words = {waiting: "working …", failed: "failed"};
    this.chip.className = `chip ${state === "done" ? result.status : state}`;
    this.chip.textContent = words[state] || (result.status === "ok" ? "ok" : "to review");
    const percent = result && (result.calibrated ? `${Math.round(100 * result.quality)} %` : result.quality.toFixed(2));
    this.facts.textContent = state === "done" ? `quality ${percent} · ${result.width} × ${result.height}` : "";
    this.notes.replaceChildren();
    if (state === "failed") this.notes.append(make("p", "problem", `${capital(this.problem)}.`), button("Try again", () => this.run()));
    if (state === "done") for (const {text} of result.reasons) this.notes.append(make("p", "why", `${capital(text)}.`));
    this.unbox.hidden = !this.box;
    while (this.photoFigure.nextSibling) this.photoFigure.nextSibling.remove();  // the photo stays in place, since it may have the keyboard
    if (state !== "failed") this.views.append(this.view("mask", "Mask"), this.view("cutout", "Cutout"));
    if (state !== "failed" && at("rendition").value) this.views.append(this.renditionView());
    this.views.style.setProperty("--views", this.views.childElementCount);
    const [width, height] = this.size();
    this.element.style.setProperty("--ratio", width > 1 ? `${width} / ${height}` : "3 / 2");
    count();
  }

  view(what, title) {
    const url = this.shown?.[what], frame = url ? button("", () => enlarge(`${title} of ${this.name}`, url, what), "frame") : make("div", "frame empty");
    if (url) {
      const image = new Image();
      image.alt = `${title} of ${this.name}`;
      image.src = url;
      frame.append(image);
    }
    if (this.state === "waiting") frame.classList.add("working");
    if (what !== "mask" && url) frame.classList.add("ground");
    const load = button("Download", () => this.save(what));
    load.disabled = this.state !== "done" || !url;
    load.setAttribute("aria-label", `Download ${title.toLowerCase()} of ${this.name}`);
    return figure(what, frame, make("span", "", title), load);
  }

  renditionView() {
    const name = at("rendition").value, made = this.view(name, name);
    if (this.state === "done" && this.rendition?.note) made.append(make("p", "facts", `${capital(this.rendition.note)}.`));
    return made;
  }

  forget() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    this.urls = [];
    this.shown = this.blobs = null;
  }

  remove() {
    this.stop?.abort();
    this.forget();
    URL.revokeObjectURL(this.photoUrl);
    const place = cards.indexOf(this), near = cards[place + 1] || cards[place - 1];
    cards.splice(place, 1);
    this.element.remove();
    (near ? near.element.querySelector(".remove") : at("files")).focus();
    count();
  }
}

const suffixOf = (type) => type.split("/")[1].replace("jpeg", "jpg");
const renditionOf = ({name, type, base64, note}) => (
  base64 ? {name, note, suffix: suffixOf(type), blob: blobOf({type, base64})} : {name, note: `the rendition ${name} was ${note}`}
);

function figure(className, frame, ...caption) {
  const made = make("figure", className), under = make("figcaption");
  under.append(...caption);
  made.append(frame, under);
  return made;
}

let opener = null;
function enlarge(title, url, what) {
  opener = document.activeElement;
  at("large-title").textContent = at("large-image").alt = title;
  at("large-image").src = url;
  at("large-image").className = what === "mask" ? "" : "ground";
  at("large").showModal();
}
