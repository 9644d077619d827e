// Which page is shown, and the keys.

import { byId, element, notify, showDialog } from "./format.js";
import { SlidePage } from "./slide-page.js";
import { dropChanges, flushState, readState, writeState } from "./state.js";
import { StudyList } from "./study.js";

const KEYS = [
  ["arrows, + −", "move and zoom (in the slide)"],
  ["f", "show the complete slide"],
  ["g", "go to coordinates"],
  ["Enter", "open the tile under the pointer, or in the middle"],
  ["j, k", "next tile of the list, and the one before"],
  ["n, b", "next slide of the study, and the one before"],
  ["h", "heatmap on and off"],
  [", .", "threshold lower, higher"],
  ["1 … 9", "paint that label under the pointer, or in the middle"],
  ["[ ]", "smaller, larger brush"],
  ["u", "undo the last stroke"],
  ["l", "paint by dragging, on and off"],
  ["p", "save the view as PNG"],
  ["s", "all slides"],
  ["?", "these keys"],
];

const study = new StudyList();
const viewer = { page: null, study, errors: [] };
window.wsivit = viewer;

let turn = 0;

async function show() {
  const mine = ++turn;
  const { slide } = readState();
  const key = slide ?? (study.total === 1 ? study.rows[0]?.key : null);
  if (viewer.page && viewer.page.slide.key === key) return;
  viewer.page?.close();
  viewer.page = null;
  notify("");
  byId("slide").hidden = byId("status").hidden = byId("slide-actions").hidden = !key;
  byId("study").hidden = Boolean(key);
  byId("to-study").hidden = !key || study.total === 1;
  if (!key) {
    document.title = "wsivit view";
    byId("title").textContent = "wsivit view";
    study.draw();
    return;
  }
  try {
    const page = await SlidePage.open(key);
    if (mine !== turn) page.close();
    else viewer.page = page;
  } catch (error) {
    if (mine === turn) notify(`The slide cannot be shown: ${error.message}`);
  }
}

/** Go to another address, as a link does. */
function go(hash) {
  flushState();
  dropChanges();
  location.hash = hash;
}

window.addEventListener("hashchange", () => {
  dropChanges();
  const { slide } = readState();
  if (viewer.page && slide === viewer.page.slide.key) viewer.page.restoreView();
  else show();
});

function step(by) {
  const row = viewer.page && study.neighbour(viewer.page.slide.key, by);
  if (row) go(`slide=${row.key}`);
}

function toggle(box) {
  box.checked = !box.checked;
  box.dispatchEvent(new Event("change"));
}

function press(id) {
  const select = byId(id);
  return (by) => {
    const at = select.selectedIndex + by;
    if (at >= 0 && at < select.length) select.selectedIndex = at;
  };
}

function threshold(by) {
  const slider = byId("threshold");
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
}

function help() {
  const rows = KEYS.map(([key, does]) => element("tr", {}, element("td", {}, element("kbd", {}, key)), element("td", {}, does)));
  showDialog("Keys", element("table", {}, element("tbody", {}, ...rows)));
}

const anywhere = { "?": help };
const inSlide = {
  f: (page) => page.view.fit(),
  g: (page) => page.goTo(),
  Enter: (page) => {
    const i = page.table ? page.table.under(page.place0) : -1;
    if (i >= 0) page.choose(i);
  },
  j: (page) => page.walk?.step(1),
  k: (page) => page.walk?.step(-1),
  n: () => step(1),
  b: () => step(-1),
  h: () => byId("layer-heat") && toggle(byId("layer-heat")),
  ",": (page) => page.run && threshold(-1),
  ".": (page) => page.run && threshold(1),
  "[": () => press("brush")(-1),
  "]": () => press("brush")(1),
  u: (page) => page.labelling?.undo(),
  l: (page) => page.labelling && toggle(byId("painting")),
  p: (page) => page.png(),
  s: () => study.total > 1 && go(""),
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("dialog").open) return;
  const typing = target.matches("input:not([type=checkbox]):not([type=range]), textarea");
  if (typing || (target.matches("select") && key.length === 1)) return;
  if (key === "Enter" && target.matches("button, a, select, input, summary")) return;
  const { page } = viewer;
  const action = anywhere[key] ?? (page && inSlide[key]);
  if (action) {
    event.preventDefault();
    action(page);
  } else if (page?.labelling && /^[1-9]$/.test(key)) page.labelling.dab(Number(key) - 1, page.place0);
});

byId("help").addEventListener("click", help);
byId("to-study").addEventListener("click", (event) => {
  event.preventDefault();
  go("");
});

window.addEventListener("error", ({ message }) => notify(message));
window.addEventListener("unhandledrejection", ({ reason }) => notify(reason?.message ?? String(reason)));

const { slide: given } = readState();
if (given) show();
study.load(() => given || show()).then(() => {
  byId("to-study").hidden = !readState().slide || study.total === 1;
}).catch(({ message }) => notify(message));
