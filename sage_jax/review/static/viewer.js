// Part, reference and map, zoomed and moved together; the slider between two of them; and a box to draw on the part.
import {byId, chosen, drawn, element, imageUrl} from "./elements.js";

const panes = byId("panes"), wipe = byId("wipe"), wipeAt = byId("wipe-at");
const stages = new Map([...panes.querySelectorAll(".pane")].map(pane => [pane.dataset.kind, pane.querySelector(".stage")]));
const MOST = 12;
let item = null, scale = 1, left = 0, top = 0, drawing = false, box = null, onBox = () => {}, onDrawn = () => {};

const layersOf = kind => stages.get(kind).querySelector(".layers");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function picture(source, alt, grey = false) {
  const image = element("img", {src: source, alt, draggable: false, class: grey ? "grey" : ""});
  image.addEventListener("load", () => image.classList.toggle("few", image.naturalWidth < 400));
  return image;
}

function frames(own) {
  const svg = drawn("svg", {viewBox: `0 0 ${item.width} ${item.height}`, preserveAspectRatio: "none", "aria-hidden": "true"});
  const add = (found, kind) => {
    const place = {x: found.left, y: found.top, width: found.right - found.left, height: found.bottom - found.top};
    svg.append(drawn("rect", {...place, class: "under"}), drawn("rect", {...place, class: kind}));
  };
  if (own) { if (box) add(box, "own"); } else item.boxes.forEach(found => add(found, "model"));
  return svg;
}

export function show(inspection) {
  item = inspection;
  box = null;
  drawing = false;
  const has = {part: true, reference: item.references.length > 0, map: item.has_map};
  panes.classList.toggle("two", Object.values(has).filter(Boolean).length === 2);
  panes.classList.toggle("one", Object.values(has).filter(Boolean).length === 1);
  for (const [kind, stage] of stages) {
    stage.closest(".pane").hidden = !has[kind];
    stage.style.aspectRatio = `${item.width} / ${item.height}`;
    stage.style.maxWidth = `calc(58vh * ${item.width / item.height})`;
    layersOf(kind).replaceChildren();
  }
  document.querySelector("#against input[value=map]").disabled = !has.map;
  document.querySelector("#against input[value=reference]").disabled = !has.reference;
  document.querySelector("#view input[value=wipe]").disabled = !(has.map || has.reference);
  if (!has[chosen("against")]) document.querySelector(`#against input[value=${has.map ? "map" : "reference"}]`).checked = true;
  if (!has.map && !has.reference) document.querySelector("#view input[value=side]").checked = true;
  zoom(1);
  arrange();
}

export function arrange() {
  if (item === null) return;
  const wiped = chosen("view") === "wipe", against = chosen("against");
  wipe.hidden = !wiped;
  byId("against").hidden = !wiped;
  panes.classList.toggle("wiped", wiped);
  for (const [kind, stage] of stages) {
    const shown = kind === "part" || (!wiped && (kind === "reference" ? item.references.length > 0 : item.has_map));
    stage.closest(".pane").hidden = !shown;
  }
  const number = [...panes.children].filter(pane => !pane.hidden).length;
  panes.classList.toggle("two", number === 2);
  panes.classList.toggle("one", number === 1);
  const name = item.name, part = () => picture(imageUrl(item.image), `The part ${name}`);
  const reference = () => picture(imageUrl(item.references[0]), `The reference of ${name}`);
  const map = () => [picture(imageUrl(item.image), "", true), picture(`/review/maps/${item.id}`, `The anomaly map of ${name}`), frames(false)];
  layersOf("part").replaceChildren(part());
  if (wiped) {
    const over = element("div", {class: "over"}, ...(against === "map" ? map() : [reference()]));
    over.querySelectorAll(":scope > *").forEach(each => { each.style.position = "absolute"; each.style.inset = "0"; each.style.width = each.style.height = "100%"; });
    layersOf("part").append(over, element("div", {class: "edge"}));
  } else {
    if (item.references.length) layersOf("reference").replaceChildren(reference());
    if (item.has_map) layersOf("map").replaceChildren(...map());
  }
  layersOf("part").append(frames(true));
  const other = against === "map" ? "Map" : "Reference";
  stages.get("part").nextElementSibling.textContent = wiped ? `Part, left of the line; ${other}, right of it` : "Part";
  slide();
  drawMode();
}

function slide() {
  const over = layersOf("part").querySelector(".over"), edge = layersOf("part").querySelector(".edge");
  if (over) over.style.clipPath = `inset(0 0 0 ${wipeAt.value}%)`;
  if (edge) edge.style.left = `${wipeAt.value}%`;
}

function place() {
  const room = (scale - 1) * 100;
  left = clamp(left, -room, 0);
  top = clamp(top, -room, 0);
  for (const [kind, stage] of stages) {
    layersOf(kind).style.transform = `translate(${left}%, ${top}%) scale(${scale})`;
    stage.classList.toggle("zoomed", scale > 1);
  }
  byId("zoom-shown").value = `${Math.round(scale * 100)} %`;
}

export function zoom(to, x = .5, y = .5) {
  const before = scale;
  scale = clamp(to, 1, MOST);
  left = x * 100 - (x * 100 - left) * scale / before;
  top = y * 100 - (y * 100 - top) * scale / before;
  place();
}

export const zoomBy = (factor, x, y) => zoom(scale * factor, x, y);

// --- Drawing

export function draw(on, heard, ended) {
  drawing = on;
  if (heard) onBox = heard;
  if (ended) onDrawn = ended;
  if (on && chosen("view") === "wipe") { document.querySelector("#view input[value=side]").checked = true; arrange(); }
  drawMode();
}

function drawMode() {
  const stage = stages.get("part");
  stage.classList.toggle("drawing", drawing);
  stage.tabIndex = drawing ? 0 : -1;
  if (drawing) {
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-label", "The part: arrows move the box, Shift and arrows change its size");
  } else {
    stage.removeAttribute("role");
    stage.removeAttribute("aria-label");
  }
}

export function setBox(given, tell = true) {
  if (given !== null) {
    const l = clamp(Math.round(given.left), 0, item.width - 1), t = clamp(Math.round(given.top), 0, item.height - 1);
    given = {left: l, top: t, right: clamp(Math.round(given.right), l + 1, item.width), bottom: clamp(Math.round(given.bottom), t + 1, item.height)};
  }
  box = given;
  layersOf("part").querySelector(":scope > svg")?.remove();
  layersOf("part").append(frames(true));
  if (tell) onBox(box);
}

export const boxNow = () => box;

export function reveal() {
  stages.get("part").scrollIntoView({block: "center"});
}

function pixel(event) {
  const area = layersOf("part").getBoundingClientRect();
  return [(event.clientX - area.left) / area.width * item.width, (event.clientY - area.top) / area.height * item.height];
}

function moveByKey(event) {
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!drawing || !steps) return;
  event.preventDefault();
  const by = Math.max(1, Math.round(Math.min(item.width, item.height) / 40)), [x, y] = steps.map(step => step * by);
  if (box === null) {
    setBox({left: item.width * .4, top: item.height * .4, right: item.width * .6, bottom: item.height * .6});
  } else if (event.shiftKey) {
    setBox({...box, right: box.right + x, bottom: box.bottom + y});
  } else {
    const dx = clamp(x, -box.left, item.width - box.right), dy = clamp(y, -box.top, item.height - box.bottom);
    setBox({left: box.left + dx, top: box.top + dy, right: box.right + dx, bottom: box.bottom + dy});
  }
}

for (const [kind, stage] of stages) {
  const pointers = new Map();
  let start = null, apart = 0;
  const share = event => { const area = stage.getBoundingClientRect(); return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]; };
  stage.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, event);
    const draws = drawing && kind === "part" && pointers.size === 1;
    start = draws ? {draws, at: pixel(event)} : {x: event.clientX, y: event.clientY, left, top};
    if (draws || scale > 1 || pointers.size === 2) { stage.setPointerCapture(event.pointerId); if (event.pointerType === "mouse") event.preventDefault(); }
    if (draws) stage.focus({preventScroll: true});
    if (pointers.size === 2) { const [a, b] = [...pointers.values()]; apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); }
  });
  stage.addEventListener("pointermove", event => {
    if (!pointers.has(event.pointerId) || start === null) return;
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (apart > 0) zoomBy(now / apart, ...share({clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2}));
      apart = now;
    } else if (start.draws) {
      const [x, y] = pixel(event), [x0, y0] = start.at;
      setBox({left: Math.min(x, x0), top: Math.min(y, y0), right: Math.max(x, x0), bottom: Math.max(y, y0)});
    } else if (scale > 1) {
      const area = stage.getBoundingClientRect();
      left = start.left + (event.clientX - start.x) / area.width * 100;
      top = start.top + (event.clientY - start.y) / area.height * 100;
      place();
    }
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, event => {
    pointers.delete(event.pointerId);
    if (start?.draws && name === "pointerup" && box !== null) onDrawn();
    start = null;
  });
  stage.addEventListener("wheel", event => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...share(event)); } }, {passive: false});
  stage.addEventListener("dblclick", event => { if (!drawing) zoom(scale > 1 ? 1 : 3, ...share(event)); });
  if (kind === "part") stage.addEventListener("keydown", moveByKey);
}

wipeAt.addEventListener("input", slide);
for (const name of ["view", "against"]) byId(name).addEventListener("change", arrange);
byId("zoom-in").addEventListener("click", () => zoomBy(1.5));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
byId("zoom-reset").addEventListener("click", () => zoom(1));
