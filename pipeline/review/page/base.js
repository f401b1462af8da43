// The page's data, and how it becomes elements: as text or as an attribute's value, never as markup.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const at = (id) => document.getElementById(id);
const facts = read("facts"), rows = read("rows");
const total = rows.item_id.length;

// Invisible and bidirectional characters are escaped, so that no id looks like another one.
const plain = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
  (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));

const make = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = plain(text);
  return made;
};

const button = (className, text, press) => {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", press);
  return made;
};

const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  return made;
};

const number = (count) => count.toLocaleString("en");
const items = (count) => `${number(count)} ${count === 1 ? "item" : "items"}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// The sentence of a status, a reason or an error code; a word without one is itself.
const words = (word) => (Object.hasOwn(facts.words, word) ? facts.words[word] : word);
const quality = (value) => (facts.calibrated ? `${Math.round(100 * value)} %` : value.toFixed(2));

// The pictures of a row, once they are parsed; null for a row without pictures.
const picturesOf = (row) => { const held = at("picture-" + row); return held && JSON.parse(held.textContent); };
