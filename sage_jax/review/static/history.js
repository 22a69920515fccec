// What people said, the last first, each with its undo where it stands.
import {ask} from "./api.js";
import {byId, capital, element, imageUrl, sentenceOf, when} from "./elements.js";
import {undo} from "./person.js";
import {guarded} from "./queue.js";

const LIMIT = 50;
let number = 0;

export async function load(more = false) {
  if (!more) number = 0;
  const found = await ask(`/api/history?limit=${LIMIT}&offset=${number}`);
  number += found.rows.length;
  const rows = found.rows.map(row);
  if (more) byId("history").append(...rows); else byId("history").replaceChildren(...rows);
  byId("history-empty").hidden = number > 0;
  byId("history-more").hidden = found.rows.length < LIMIT;
}

function row(entry) {
  const about = entry.inspection, buttons = element("div", {class: "buttons"});
  const open = element("button", {type: "button", text: "Open", "aria-label": `Open ${about.name}`});
  open.addEventListener("click", () => { location.hash = `queue/${about.id}`; });
  buttons.append(open);
  if (entry.stands) {
    const back = element("button", {type: "button", text: "Undo", "aria-label": `Undo what was said of ${about.name}`});
    back.addEventListener("click", () => guarded(async () => { if (await undo(about.id) !== null) { await load(); byId("history-title").focus?.(); } }));
    buttons.append(back);
  }
  return element("li", {},
    element("img", {src: imageUrl(about.image, 160), alt: "", loading: "lazy"}),
    element("div", {},
      element("b", {text: about.name}),
      element("p", {class: entry.undone ? "undone" : "", text: capital(sentenceOf(entry.said))}),
      element("p", {class: "muted", text: `${entry.who}, ${when(entry.time)}. The model said ${about.verdict}, score ${about.score.toFixed(3)}.`})),
    buttons);
}

byId("history-more").addEventListener("click", () => guarded(() => load(true)));
