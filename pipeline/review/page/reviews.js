// Reviews: {item id: [verdict, note, time, version]}. The key has the folder, since all pages opened from disk share one storage.
// A browser may refuse to store them (private windows). A review counts for the version of the result that it judged. Of items
// that are not on this page, the import decides that.
const storageKey = "matteline reviews " + facts.folder;
const history = [];
let reviews = new Map(), outdated = 0;
try { loadReviews(JSON.parse(localStorage.getItem(storageKey) || "[]")); } catch { /* they last as long as the page */ }

function loadReviews(stored) {
  if (!facts.verdicts.length) return;
  const versions = new Map(rows.item_id.map((id, row) => [id, rows.version[row]]));
  reviews = new Map(stored.filter(([id, [, , , version]]) => version && version === (versions.get(id) ?? version)));
  outdated = stored.length - reviews.size;
}

// Sets the verdict and the note of a row's review; without a verdict the review is removed.
function setReview(row, verdict, note) {
  const id = rows.item_id[row];
  history.push([id, reviews.get(id)]);
  if (verdict) reviews.set(id, [verdict, note, new Date().toISOString(), rows.version[row]]); else reviews.delete(id);
  storeReviews();
}

// Returns the id of the item whose review was undone.
function undoReview() {
  const last = history.pop();
  if (!last) return undefined;
  if (last[1]) reviews.set(last[0], last[1]); else reviews.delete(last[0]);
  storeReviews();
  return last[0];
}

function storeReviews() {
  try { localStorage.setItem(storageKey, JSON.stringify([...reviews])); } catch { /* as above */ }
}

function csv() {
  // Spreadsheets run a cell that begins like a formula. An apostrophe makes it text; the import removes it.
  const safe = (text) => (/^'*[=+\-@\t\r]/.test(text) ? "'" : "") + text;
  const quoted = (text) => '"' + safe(String(text)).replaceAll('"', '""') + '"';
  const lines = [["item_id", "verdict", "note", "recipe", "time", "version"].join(",")];
  for (const [id, [verdict, note, time, version]] of reviews) {
    lines.push([id, verdict, note, facts.recipe, time, version].map(quoted).join(","));
  }
  return lines.join("\r\n") + "\r\n";
}

function saveReviews() {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "reviews.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
