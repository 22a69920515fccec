// What other thresholds would call defective: counts over all inspections, and over those that people labelled.
import {ask} from "./api.js";
import {byId, drawn, element} from "./elements.js";

const slider = byId("threshold-at");
let scores = null, cut = null;

export async function load() {
  scores = await ask("/api/thresholds");
  byId("threshold-empty").hidden = scores.total > 0;
  byId("threshold-work").hidden = scores.total === 0;
  if (!scores.total) return;
  const bars = scores.bars.map(bar => drawn("rect", {class: bar.label, x: 1000 * bar.left + 1, y: 150 * (1 - bar.bottom - bar.height), width: Math.max(1, 1000 * bar.width - 2), height: 150 * bar.height}));
  cut = drawn("line", {y1: 0, y2: 150});
  byId("histogram").replaceChildren(...bars, cut);
  byId("ticks").replaceChildren(...scores.ticks.map(([text, place]) => {
    const tick = element("span", {text});
    tick.style.left = `${100 * place}%`;
    return tick;
  }));
  slider.max = scores.thresholds.length - 1;
  slider.value = scores.chosen;
  attempt();
}

function share(number, of) {
  return of ? `${number} of ${of}` : "none known";
}

function attempt() {
  const at = Number(slider.value), value = Number(scores.thresholds[at].toPrecision(4));
  const above = label => scores.above[label][at], all = label => scores.above[label][0];
  const called = ["good", "defective", "unknown"].reduce((sum, label) => sum + above(label), 0);
  byId("count-threshold").textContent = at === scores.chosen ? `${value} (in use)` : String(value);
  byId("count-called").textContent = share(called, scores.total);
  byId("count-escapes").textContent = share(all("defective") - above("defective"), all("defective"));
  byId("count-alarms").textContent = share(above("good"), all("good"));
  byId("threshold-command").textContent = String(value);
  slider.setAttribute("aria-valuetext", String(value));
  for (const name of ["x1", "x2"]) cut.setAttribute(name, 1000 * scores.positions[at]);
}

slider.addEventListener("input", attempt);
