// Painting labels on tiles: keys 1 to 9 or dragging; each stroke is sent at once, and can be undone.

import { sendStroke } from "./api.js";
import { byId, element, notify } from "./format.js";

export class Labelling {
  /** `page` has the table and the run; `painted(column)` is called with the column as it is now. */
  constructor(page, painted) {
    Object.assign(this, { page, painted, strokes: [], current: 0, stroke: null, sending: Promise.resolve() });
    const { store, key } = page.slide;
    this.offered = store.offered;
    byId("brushes").replaceChildren(
      ...this.offered.map((label, k) =>
        element("button", { type: "button", "aria-pressed": "false", onclick: () => this.select(k) }, k < 9 ? `${k + 1} ${label}` : label),
      ),
    );
    byId("undo").onclick = () => this.undo();
    byId("regions").href = `slide/${key}/regions?name=${encodeURIComponent(store.painted)}`;
    this.select(0);
  }

  select(k) {
    this.current = k;
    byId("brushes").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
  }

  get brush() {
    return Number(byId("brush").value);
  }

  /** Tiles that the brush covers at a place. */
  under(place) {
    const { table } = this.page;
    const i = table.under(place);
    return i < 0 ? [] : table.around(i, this.brush);
  }

  /** Paint one dab with a label, by its number. */
  dab(k, place) {
    if (k >= this.offered.length) return;
    this.select(k);
    this.begin();
    this.extend(place);
    this.end();
  }

  begin() {
    this.stroke = new Map();
  }

  extend(place) {
    const { column } = this.page;
    for (const i of this.under(place)) {
      if (!this.stroke.has(i)) this.stroke.set(i, column.codes[i] < 0 ? null : column.classes[column.codes[i]]);
    }
    this.page.markTiles([...this.stroke.keys()]);
  }

  end() {
    const { stroke } = this;
    this.stroke = null;
    if (!stroke?.size) return;
    this.strokes.push(stroke);
    const label = this.offered[this.current];
    this.send(Object.fromEntries([...stroke.keys()].map((i) => [i, label])), `${stroke.size} tiles: ${label}`);
  }

  undo() {
    const stroke = this.strokes.pop();
    if (stroke) this.send(Object.fromEntries(stroke), `undone: ${stroke.size} tiles`);
  }

  /** Send strokes one after the other, so that an undo arrives after what it undoes. */
  send(labels, said) {
    byId("label-state").textContent = "saving…";
    this.sending = this.sending.then(async () => {
      try {
        this.painted(await sendStroke(this.page.slide.key, labels, this.page.run?.run ?? ""));
        byId("label-state").textContent = `${said}; saved in labels/${this.page.slide.store.painted}`;
      } catch (error) {
        byId("label-state").textContent = "not saved";
        notify(`The labels were not saved: ${error.message}`);
      }
    });
  }
}
