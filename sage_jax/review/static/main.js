// Pages by the address's end, keys, and the first look.
import {ask, signOut} from "./api.js";
import {byId} from "./elements.js";
import * as history from "./history.js";
import {askName, keysOn, showFault, showName, undo} from "./person.js";
import * as queue from "./queue.js";
import * as threshold from "./threshold.js";
import * as versions from "./versions.js";
import * as viewer from "./viewer.js";

const pages = {queue, history, threshold, versions};

function page() {
  const [name, number] = location.hash.slice(1).split("/");
  return [name in pages ? name : "queue", Number(number) || null];
}

async function turn(focus = true) {
  const [name, number] = page();
  for (const each of Object.keys(pages)) byId(`page-${each}`).hidden = each !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  await queue.guarded(() => name === "queue" ? queue.load({keep: number}) : pages[name].load());
  if (focus) byId("main").focus({preventScroll: true});
}

async function undoLast() {
  await queue.guarded(async () => {
    const number = await undo();
    if (number === null) return;
    if (page()[0] === "queue") await queue.again(number); else await pages[page()[0]].load();
  });
}

const KEYS = {
  r: queue.right, g: queue.right, w: queue.openForm, d: queue.openForm, s: () => queue.step(1), b: () => queue.step(-1), u: undoLast,
  v: () => { const other = document.querySelector("input[name=view]:not(:checked):not(:disabled)"); if (other) { other.checked = true; viewer.arrange(); } },
  "+": () => viewer.zoomBy(1.5), "=": () => viewer.zoomBy(1.5), "-": () => viewer.zoomBy(1 / 1.5), 0: () => viewer.zoom(1), "?": () => byId("help").showModal(),
};

document.addEventListener("keydown", event => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && queue.formIsOpen()) { queue.closeForm(); return; }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && queue.formIsOpen()) { byId("correct").requestSubmit(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || !keysOn()) return;
  if (event.target.matches?.("textarea, select, input:not([type=radio]):not([type=range]):not([type=checkbox])")) return;
  const key = event.key.toLowerCase(), unsure = queue.current()?.verdict === "unsure";
  if (page()[0] !== "queue" && !["u", "?"].includes(key)) return;
  if (unsure ? ["r", "w"].includes(key) : ["g", "d"].includes(key)) return;
  if (key in KEYS) { event.preventDefault(); KEYS[key](); }
});

byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("who-button").addEventListener("click", askName);
byId("toast-undo").addEventListener("click", undoLast);
byId("leave-button").addEventListener("click", async () => { await signOut(); location.reload(); });
addEventListener("hashchange", () => turn());

showName();
try {
  const about = await ask("/api/about");
  queue.setKinds(about.kinds);
  byId("leave-button").hidden = !about.asks_key;
  await turn(false);
} catch (error) {
  showFault(error);
}
if (page()[0] !== "queue") ask("/api/queue?limit=1").then(found => { byId("pending").textContent = found.counts.pending; }, showFault);
document.documentElement.dataset.ready = "yes";
