// Pictures come in by choice, drop and paste; options apply to all of them.
function add(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || /\.(heic|heif|avif|tiff?)$/i.test(file.name));
  for (const file of pictures) {
    const card = new Card(file);
    cards.push(card);
    at("cards").append(card.element);
    card.run();
  }
  const others = files.length - pictures.length, what = others === 1 ? "1 file is no picture and was" : `${others} files are no pictures and were`;
  at("left-out").textContent = others ? `${what} left out.` : "";
}

function count() {
  const ended = cards.filter(({state}) => state !== "waiting").length, failed = cards.filter(({state}) => state === "failed").length;
  document.body.classList.toggle("filled", cards.length > 0);
  document.querySelector("nav").hidden = !cards.length;
  at("state").textContent = ended < cards.length ? `${ended} of ${cards.length} done` : failed ? `${failed} failed` : "";
  at("all").disabled = !cards.some((card) => card.blobs);
  at("all").hidden = cards.length < 2;
  at("clear").hidden = cards.length < 2;
}

const runAll = () => cards.forEach((card) => card.run());

const named = new Set();  // presets that find objects by name
const asksByName = () => named.has(at("preset").value) && at("object").value.trim() !== "";
const showObject = () => { at("object-label").hidden = !named.has(at("preset").value); };

async function offer() {
  const [{presets}, {renditions}] = await Promise.all(["/v1/presets", "/v1/renditions"].map(async (path) => (await call(path)).json()));
  const option = ({name, about}) => Object.assign(make("option", "", name), {value: name, title: about});
  at("preset").replaceChildren(...presets.map(option));
  at("preset-label").hidden = presets.length < 2;
  presets.forEach(({name, labels}) => labels && named.add(name));
  showObject();
  const rendition = at("rendition"), chosen = rendition.value;
  rendition.replaceChildren(rendition.options[0], ...renditions.filter(({what}) => what === "cutout").map(option));
  rendition.value = chosen;
}

function listen() {
  at("files").addEventListener("change", () => { add(at("files").files); at("files").value = ""; });
  addEventListener("paste", (event) => add(event.clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add(event.dataTransfer.files);
  });
  at("preset").addEventListener("change", () => { showObject(); runAll(); });
  at("object").addEventListener("change", runAll);
  at("rendition").addEventListener("change", runAll);
  at("clear").addEventListener("click", () => [...cards].forEach((card) => card.remove()));
  at("all").addEventListener("click", async () => save(await zip(cards.flatMap((card) => card.files())), "cutouts.zip"));
  at("grounds").addEventListener("click", ({target: {dataset: {ground}}}) => {
    if (!ground) return;
    document.body.dataset.ground = ground;
    for (const one of at("grounds").children) one.setAttribute("aria-pressed", one.dataset.ground === ground);
  });
  at("token").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", (token = at("token-text").value.trim()));
    at("token").hidden = true;
    offer().catch(() => {});
    cards.filter(({code}) => code === "token").forEach((card) => card.run());
  });
  at("large-close").addEventListener("click", () => at("large").close());
  at("stage").addEventListener("click", () => at("large").close());
  at("large").addEventListener("close", () => { at("large-image").removeAttribute("src"); opener?.focus(); });
}

listen();
offer().catch(() => {});
requestAnimationFrame(() => requestAnimationFrame(() => {
  document.body.dataset.viewed = document.body.dataset.ready = Math.round(performance.now());
}));
