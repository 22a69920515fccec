// Small helpers: elements made with text only, so that no name or sentence is ever read as HTML.
export const byId = id => document.getElementById(id);

export function element(tag, {text, ...fields} = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export function drawn(tag, fields) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(fields)) made.setAttribute(name, value);
  return made;
}

export const imageUrl = (digest, px) => `/review/images/${encodeURIComponent(digest)}${px ? `?px=${px}` : ""}`;

export const chosen = name => document.querySelector(`input[name=${name}]:checked`)?.value;

export function choose(name, value) {
  const found = document.querySelector(`input[name=${name}][value="${value}"]`);
  if (found) found.checked = true;
}

export function when(seconds) {
  return new Date(seconds * 1000).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "short"});
}

export const capital = text => text.charAt(0).toUpperCase() + text.slice(1);

// What a correction says, as a sentence without markup.
export function sentenceOf(said) {
  if (said === null) return "taken back";
  const parts = [said.right ? `right: ${said.verdict}` : `it is ${said.verdict}`];
  if (said.kind) parts.push(said.kind);
  if (said.cell) parts.push(said.cell);
  if (said.box) parts.push(`box at ${said.box.left}, ${said.box.top}, ${said.box.right - said.box.left} × ${said.box.bottom - said.box.top} px`);
  if (said.sentence) parts.push(`“${said.sentence}”`);
  return parts.join(" · ");
}
