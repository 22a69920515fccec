// Who says so, what was said last (with its undo), and faults.
import {send} from "./api.js";
import {byId} from "./elements.js";

const NAME = "sage-review-name", KEYS = "sage-review-keys", LONG = 12000;
let last = null, timer = 0;

const kept = name => { try { return localStorage.getItem(name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing asks each time */ } };
let own = kept(NAME) ?? "";

export function showName() {
  byId("who-shown").textContent = own || "Your name";
}

export function askName() {
  const dialog = byId("who"), field = byId("who-name");
  field.value = own;
  return new Promise(resolve => {
    byId("who-form").onsubmit = () => {
      const given = field.value.trim();
      if (given) { own = given; keep(NAME, own); showName(); }
    };
    dialog.onclose = () => resolve(own);
    dialog.showModal();
    field.select();
  });
}

export async function person() {
  const name = own || await askName();
  if (!name) say("Nothing was saved: a name is needed.");
  return name;
}

export const keysOn = () => byId("keys-on").checked;

byId("keys-on").checked = kept(KEYS) !== "off";
byId("keys-on").addEventListener("change", event => keep(KEYS, event.target.checked ? "on" : "off"));

export function say(text, undoable = null) {
  last = undoable ?? last;
  byId("said").textContent = text;
  byId("toast-undo").hidden = undoable === null;
  byId("toast").classList.remove("off");
  clearTimeout(timer);
  timer = setTimeout(() => { byId("toast").classList.add("off"); }, LONG);
}

export function showFault(error) {
  const fault = byId("fault");
  fault.textContent = error === null ? "" : error.message;
  fault.hidden = error === null;
  if (error !== null) fault.scrollIntoView({block: "nearest"});
}

// Takes back what this browser's person said last, or of a given inspection; gives its number, or null.
export async function undo(inspection = last) {
  if (inspection === null) { say("There is nothing to undo."); return null; }
  const who = await person();
  if (!who) return null;
  const found = await send(`/api/inspections/${inspection}/undo`, {who});
  if (inspection === last) last = null;
  say(`Undone: ${found.name}`);
  return inspection;
}
