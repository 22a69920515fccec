// What `learn` made: each version with its measures before and after, and which one answers.
import {ask} from "./api.js";
import {byId, element, when} from "./elements.js";

export async function load() {
  const found = await ask("/api/versions"), versions = [...found.versions].reverse();
  const note = byId("versions-note");
  note.textContent = found.note ?? "";
  note.hidden = !found.note;
  byId("versions").replaceChildren(...versions.map(card));
}

function card(version) {
  const head = element("h3", {}, element("span", {text: version.number ? `Version ${version.number}` : "Version 0, as it was trained"}));
  if (version.answering) head.append(element("span", {class: "badge good", text: "Answers here"}));
  if (version.active && !version.answering) head.append(element("span", {class: "badge", text: "Active after a restart"}));
  const made = element("article", {class: "card"}, head);
  if (!version.number) return made;
  made.append(element("p", {class: "muted", text: `${when(version.time)}, from version ${version.from_version}, ${version.learnt}`}));
  made.append(element("p", {text: `${version.offered ? "Offered" : "Not offered"}: ${version.why}`}));
  const names = Object.keys(version.measures);
  if (names.length) {
    const heads = ["Share of right answers", "Before", "After", "Change"].map(text => element("th", {scope: "col", text}));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...names.map(name => row(name, version.measures[name]))));
    made.append(element("div", {class: "scroll", tabIndex: 0, role: "region", "aria-label": `Measures of version ${version.number}`}, table));
  }
  if (!version.active) made.append(element("p", {class: "muted"}, "To use it: ", element("code", {text: version.command})));
  return made;
}

function row(name, {before, after, gain}) {
  const kind = gain.high !== null && gain.high < 0 ? "fell" : gain.low !== null && gain.low > 0 ? "rose" : "";
  return element("tr", {}, element("th", {scope: "row", text: name}), cell(before), cell(after), cell(gain, kind, true));
}

function cell({value, low, high}, kind = "", signed = false) {
  const shown = number => (signed && number > 0 ? "+" : "") + number.toFixed(2);
  const made = element("td", {class: kind, text: `${shown(value)} `});
  if (low !== null && high !== null) made.append(element("small", {text: `${shown(low)} to ${shown(high)}`}));
  return made;
}
