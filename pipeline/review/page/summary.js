// The head of the page: title, notices, and the numbers of all items. Numbers and reasons filter the list.
function summary() {
  document.title = plain(facts.tab);
  at("title").textContent = plain(facts.title);
  at("subtitle").textContent = plain([facts.date, facts.verdicts.length ? items(total) : ""].filter(Boolean).join(" · "));
  if (facts.missing.length) at("notices").append(missingNotice());
  if (outdated) at("notices").append(outdatedNotice());
  if (facts.sample) at("notices").append(sampleNotice());
  at("summary").append(countsPanel());
  if (facts.histogram.length) at("summary").append(histogramPanel());
  const reason = ([name, count]) => [count, words(name), "", () => choose("reason", "=" + name)];
  const failure = ([code, count, example]) => [count, words(code), example, () => choose("status", "=failed")];
  if (facts.reasons.length) at("summary").append(listPanel("What lowered the quality", facts.reasons.map(reason)));
  if (facts.failures.length) at("summary").append(listPanel("What failed", facts.failures.map(failure)));
  for (const table of facts.tables) at("summary").append(tablePanel(table));
}

function missingNotice() {
  const made = make("div", "notice warning"), count = facts.missing_rows.length;
  made.append(make("h2", "", `Pictures are missing for ${items(count)}`));
  for (const line of facts.missing) made.append(make("p", "", line));
  made.append(button("", "Show these items", () => choose("status", "missing")));
  return made;
}

function outdatedNotice() {
  const made = make("div", "notice"), some = outdated === 1 ? "1 review" : `${number(outdated)} reviews`;
  made.append(make("p", "", `${some} in this browser judged earlier results and ${outdated === 1 ? "does" : "do"} not count.`));
  return made;
}

function sampleNotice() {
  const made = make("div", "notice"), bar = make("progress");
  bar.id = "sample-bar";
  bar.max = facts.sample.draw;
  bar.setAttribute("aria-label", "Checked items of the sample");
  made.append(make("h2", "", "A sample"), make("p", "", capital(facts.sample.text) + "."));
  if (facts.sample.result) made.append(make("p", "", `Imported so far: ${facts.sample.result}.`));
  const said = make("p");
  said.id = "sample-state";
  made.append(bar, said);
  return made;
}

// Says how far the sample is checked. Only the import decides; the page counts what this browser has.
function sampleState() {
  if (!facts.sample) return;
  const {draw, allowed} = facts.sample;
  let checked = 0, bad = 0;
  for (const id of rows.item_id) {
    const verdict = (reviews.get(id) || [""])[0];
    checked += verdict !== "";
    bad += verdict === "reject";
  }
  const left = draw - checked;
  const outcome = bad > allowed ? " It is not passed: improve the output, then draw a new sample."
    : left ? ` ${items(left)} to go.` : " It is passed. Export your reviews and import them.";
  at("sample-bar").value = checked;
  at("sample-state").textContent = `${number(checked)} of ${number(draw)} checked here, ${number(bad)} rejected.` + outcome;
}

function panel(title) {
  const made = make("div", "panel");
  made.append(make("h2", "", title));
  return made;
}

function countsPanel() {
  const made = panel(facts.sample ? "All items, also those that are not in the sample" : "Items"), counts = make("div", "counts");
  for (const [name, count] of facts.counts) {
    const one = facts.verdicts.length ? button("count", undefined, () => choose("status", "=" + name)) : make("span", "count");
    one.append(make("span", "big", number(count)), make("span", "chip " + name, words(name)));
    one.disabled = !count;
    counts.append(one);
  }
  made.append(counts);
  for (const line of facts.lines) made.append(make("p", "", line));
  const about = make("details"), list = make("dl");
  about.append(make("summary", "", "About this page"), list);
  for (const [name, text] of facts.about) list.append(make("dt", "", name), make("dd", "", text));
  made.append(about);
  return made;
}

function histogramPanel() {
  const made = panel("Quality"), high = Math.max(1, ...facts.histogram), steps = facts.histogram.length;
  const drawn = svg("svg", {viewBox: `0 0 ${10 * steps} 80`, class: "histogram", preserveAspectRatio: "none", role: "img",
    "aria-label": "Number of items by quality, lowest on the left"});
  facts.histogram.forEach((count, step) => {
    const tall = count ? Math.max(2, 78 * count / high) : 0;
    const bar = svg("rect", {x: step * 10 + 0.5, y: 80 - tall, width: 9, height: tall}), hint = svg("title", {});
    hint.textContent = `${quality(step / steps)} to ${quality((step + 1) / steps)}: ${items(count)}`;
    bar.append(hint);
    drawn.append(bar);
  });
  const scale = make("div", "scale");
  scale.append(make("span", "", quality(0)), make("span", "", facts.calibrated ? "chance that a mask is good" : "higher is better"),
    make("span", "", quality(1)));
  made.append(drawn, scale);
  return made;
}

// Lines of a count, a sentence, an example, and what a click does.
function listPanel(title, lines) {
  const made = panel(title), list = make("ul", "tallies");
  made.classList.toggle("broad", lines.some(([, , example]) => example));
  for (const [count, sentence, example, press] of lines) {
    const line = make("li"), one = button("", undefined, press), text = make("span", "", capital(sentence));
    if (example) text.append(make("span", "example", example));
    one.append(make("span", "tally", number(count)), text);
    line.append(one);
    list.append(line);
  }
  made.append(list);
  return made;
}

function tablePanel(given) {
  const made = panel(given.title), table = make("table"), head = make("tr");
  const align = (cell) => (/^-?[0-9.]+$/.test(cell) ? "number" : "");
  given.columns.forEach((name, column) => head.append(make("th", given.rows.length ? align(given.rows[0][column]) : "", name)));
  table.append(head);
  for (const row of given.rows) {
    const line = make("tr");
    for (const cell of row) line.append(make("td", align(cell), cell));
    table.append(line);
  }
  made.append(table);
  return made;
}
