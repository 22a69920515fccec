// The queue: what waits, the inspection that is looked at, and what the person says of it.
import {ask, send} from "./api.js";
import {byId, capital, choose, chosen, element, imageUrl, sentenceOf, when} from "./elements.js";
import {person, say, showFault} from "./person.js";
import * as viewer from "./viewer.js";

const LIMIT = 30, NARROW = 1100;
let waiting = [], item = null, passed = 0, busy = false, kinds = [];

export const current = () => item;
const form = byId("correct");

export function setKinds(given) {
  kinds = given;
  byId("kinds").replaceChildren(...kinds.map(kind => element("option", {value: kind})));
}

export async function load({keep = null} = {}) {
  const query = new URLSearchParams({order: chosen("order"), category: byId("category").value, limit: LIMIT, offset: passed});
  const found = await ask(`/api/queue?${query}`);
  if (!found.inspections.length && passed) { passed = 0; return load({keep}); }
  waiting = found.inspections;
  byId("pending").textContent = found.counts.pending;
  categories(found.categories);
  byId("queue-empty").hidden = waiting.length > 0;
  byId("work").hidden = !waiting.length && keep === null;
  list();
  const next = keep ?? waiting[0]?.id;
  if (next === undefined) item = null; else await open(next);
}

function categories(names) {
  const select = byId("category"), value = select.value;
  select.replaceChildren(element("option", {value: "", text: "All kinds of parts"}), ...names.filter(Boolean).map(name => element("option", {value: name, text: name})));
  select.value = names.includes(value) ? value : "";
  byId("category-label").hidden = names.length < 2;
}

function list() {
  byId("list").replaceChildren(...waiting.map(each => {
    const label = `${each.name}, ${each.verdict}, score ${each.score.toFixed(3)}`;
    const button = element("button", {type: "button", "aria-label": label, title: each.name},
      element("img", {src: imageUrl(each.image, 160), alt: "", loading: "lazy"}),
      element("span", {}, element("b", {text: each.name.split("/").pop()}), element("small", {class: each.verdict, text: `${each.verdict} ${each.score.toFixed(3)}`})));
    button.dataset.id = each.id;
    button.addEventListener("click", () => guarded(() => open(each.id, true)));
    return element("li", {}, button);
  }));
}

export async function open(id, focus = false) {
  const found = await ask(`/api/inspections/${id}`);
  item = found;
  closeForm(false);
  byId("work").hidden = false;
  byId("queue-empty").hidden = true;
  for (const button of byId("list").querySelectorAll("button")) {
    if (Number(button.dataset.id) === id) { button.setAttribute("aria-current", "true"); button.scrollIntoView({block: "nearest", inline: "nearest"}); } else button.removeAttribute("aria-current");
  }
  byId("item-name").textContent = item.name;
  byId("item-about").textContent = [item.category, when(item.time), item.source].filter(Boolean).join(" · ");
  const verdict = byId("item-verdict");
  verdict.textContent = capital(item.verdict);
  verdict.className = `badge ${item.verdict}`;
  byId("item-score").textContent = `Score ${item.score.toFixed(3)}`;
  byId("item-bar").style.width = `${100 * item.score}%`;
  byId("item-cut").style.left = `calc(${100 * item.threshold}% - 1px)`;
  byId("item-cut").title = `threshold ${item.threshold.toFixed(3)}`;
  byId("item-why").replaceChildren(...item.why.map(text => element("li", {text: capital(text)})));
  byId("item-reason").textContent = item.reason || "The model gave no reason.";
  byId("item-answers").replaceChildren(...item.answers.flatMap(each => [element("dt", {text: each.question}), element("dd", {text: each.answer || "–"})]));
  const stands = byId("item-stands");
  stands.hidden = item.correction === null;
  if (item.correction) stands.textContent = `${item.correction.who}, ${when(item.correction.time)}: ${sentenceOf(item.correction.said)}`;
  const unsure = item.verdict === "unsure";
  label("right-button", unsure ? "Good" : "Right", unsure ? "G" : "R");
  label("wrong-button", unsure ? "Defective" : "Wrong", unsure ? "D" : "W");
  byId("actions").hidden = false;
  viewer.show(item);
  if (focus) byId("item-name").focus({preventScroll: true});
}

function label(id, text, key) {
  byId(id).querySelector("span").textContent = text;
  byId(id).querySelector("kbd").textContent = key;
}

// Runs one thing at a time, and tells what goes wrong.
export async function guarded(work) {
  if (busy) return;
  busy = true;
  showFault(null);
  try {
    await work();
  } catch (error) {
    showFault(error);
  } finally {
    busy = false;
  }
}

async function save(body) {
  const who = await person();
  if (!who) return;
  const found = await send(`/api/inspections/${item.id}/correct`, {who, ...body});
  say(`${found.name}: ${sentenceOf(found.correction.said)}`, found.id);
  await next(found.id);
}

async function next(done) {
  const at = waiting.findIndex(each => each.id === done), after = waiting[at + 1] ?? waiting[at - 1];
  closeForm(false);
  await load({keep: after && after.id !== done ? after.id : null});
  if (item !== null && !byId("work").hidden) byId("item-name").focus({preventScroll: true});
}

export function right() {
  if (item === null || !form.hidden) return;
  guarded(() => save(item.verdict === "unsure" ? {right: false, verdict: "good"} : {right: true}));
}

export function step(by) {
  if (item === null) return;
  guarded(async () => {
    const at = waiting.findIndex(each => each.id === item.id) + by;
    if (at < 0) { passed = Math.max(0, passed - LIMIT); return load(); }
    if (at >= waiting.length) { passed += waiting.length; await load(); if (waiting.length === 1) say("This is the only one that waits."); return; }
    await open(waiting[at].id, true);
  });
}

export async function again(id) {
  await load({keep: id});
}

// --- The form for a wrong finding

export function openForm() {
  if (item === null || !form.hidden) return;
  form.reset();
  const stood = item.correction?.said, unsure = item.verdict === "unsure";
  choose("truth", stood ? stood.verdict : item.verdict === "good" || unsure ? "defective" : "good");
  if (stood) {
    byId("kind").value = stood.kind;
    byId("sentence").value = stood.sentence;
    if (stood.cell) { choose("place", "cell"); choose("cell", stood.cell); }
    if (stood.box) { choose("place", "box"); viewer.setBox(stood.box, false); fill(stood.box); }
  }
  byId("correct-fault").hidden = true;
  form.hidden = false;
  byId("item").classList.add("correcting");
  byId("actions").hidden = true;
  byId("wrong-button").setAttribute("aria-expanded", "true");
  fields();
  byId("correct-title").focus({preventScroll: true});
  (innerWidth < NARROW ? form : byId("item")).scrollIntoView({block: "start"});
}

export function closeForm(focus = true) {
  if (form.hidden) return;
  form.hidden = true;
  byId("item").classList.remove("correcting");
  byId("actions").hidden = false;
  byId("wrong-button").setAttribute("aria-expanded", "false");
  viewer.setBox(null, false);
  viewer.draw(false);
  fill(null);
  if (focus) byId("wrong-button").focus();
}

export const formIsOpen = () => !form.hidden;

function fields() {
  const defective = chosen("truth") === "defective", place = chosen("place");
  byId("defect").hidden = !defective;
  byId("box-fields").hidden = place !== "box";
  byId("cell-fields").hidden = place !== "cell";
  const draws = defective && place === "box";
  viewer.draw(draws, fill, () => { if (innerWidth < NARROW) byId("place").scrollIntoView({block: "start"}); });
  if (!draws && viewer.boxNow() !== null) { viewer.setBox(null, false); fill(null); }
  for (const [id, most] of [["left", item.width], ["top", item.height], ["width", item.width], ["height", item.height]]) byId(`box-${id}`).max = most;
}

function fill(box) {
  const values = box === null ? ["", "", "", ""] : [box.left, box.top, box.right - box.left, box.bottom - box.top];
  ["left", "top", "width", "height"].forEach((name, index) => { byId(`box-${name}`).value = values[index]; });
}

function typed() {
  const [l, t, w, h] = ["left", "top", "width", "height"].map(name => byId(`box-${name}`).valueAsNumber);
  if ([l, t, w, h].every(Number.isFinite) && w > 0 && h > 0) viewer.setBox({left: l, top: t, right: l + w, bottom: t + h}, false);
}

function said() {
  const verdict = chosen("truth"), body = {right: false, verdict, sentence: byId("sentence").value.trim()};
  if (verdict === "good") return body;
  body.kind = byId("kind").value.trim();
  if (chosen("place") === "cell") body.cell = chosen("cell") ?? "";
  if (chosen("place") === "box") body.box = viewer.boxNow();
  return body;
}

form.addEventListener("change", event => {
  if (!["truth", "place"].includes(event.target.name)) return;
  fields();
  if (event.target.name === "place" && event.target.value === "box" && innerWidth < NARROW) viewer.reveal();
});
byId("box-fields").addEventListener("change", typed);
form.addEventListener("submit", event => {
  event.preventDefault();
  const fault = byId("correct-fault"), body = said();
  fault.hidden = true;
  const nothing = body.verdict === item.verdict && !body.kind && !body.cell && !body.box && !body.sentence;
  if (nothing) {
    fault.textContent = `That is what the model said: ${item.verdict}. Say the kind, the place or a sentence, or cancel and choose Right.`;
    fault.hidden = false;
    return;
  }
  guarded(async () => {
    try {
      await save(body);
    } catch (error) {
      fault.textContent = error.message;
      fault.hidden = false;
    }
  });
});
byId("right-button").addEventListener("click", right);
byId("wrong-button").addEventListener("click", openForm);
byId("skip-button").addEventListener("click", () => step(1));
byId("cancel-button").addEventListener("click", () => closeForm());
for (const id of ["order", "category"]) byId(id).addEventListener("change", () => { passed = 0; guarded(() => load()); });
