// How texts become elements: as text or as an attribute's value, never as markup.
const at = (id) => document.getElementById(id);

const make = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const button = (text, press, className) => {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", press);
  return made;
};

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

function save(blob, name) {
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
