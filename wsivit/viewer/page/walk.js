// Lists of tiles to walk through with j and k, and their contact sheet.

import { byId, element, fillSelect } from "./format.js";
import { entropy } from "./tile-table.js";

const LONGEST = 1000;
const ON_SHEET = 60;

export class Walk {
  /** `page` has the table, the run, labels and so on; `jump(i)` shows a tile. */
  constructor(page, jump) {
    Object.assign(this, { page, jump, tiles: [], at: -1 });
    byId("list").addEventListener("change", () => this.choose(byId("list").value));
  }

  /** Offer the lists that there are data for. */
  offer(chosen) {
    const { run, table, columns, otherRun } = this.page;
    const options = [["", "choose a list"]];
    if (run) {
      for (const name of run.classes) options.push([`strongest:${name}`, `strongest: ${name}`]);
      options.push(["doubtful", "most doubtful"]);
      for (const name of Object.keys(columns)) options.push([`wrong:${name}`, `wrong against labels: ${name}`]);
      if (otherRun) options.push(["disagree", `disagreeing with ${otherRun.run}`]);
    }
    if (table.arrays.status.some((status) => status === 2)) options.push(["unreadable", "unreadable"]);
    for (const name of Object.keys(table.arrays).filter((key) => key.startsWith("qc:"))) options.push([name, `QC: ${name.slice(3)}`]);
    for (const [name, column] of Object.entries(columns)) {
      for (const label of column.classes) options.push([`label:${name}:${label}`, `${name}: ${label}`]);
    }
    fillSelect(byId("list"), options, chosen ?? byId("list").value);
  }

  /** Tiles of a list, best first. */
  find(list) {
    const { run, table, columns, otherRun } = this.page;
    const [kind, ...rest] = list.split(":");
    const n = table.count;
    const classes = run?.classes ?? [];
    const p = run?.arrays.values;
    const row = (i) => p.subarray(i * classes.length, (i + 1) * classes.length);
    const known = (i) => p && !Number.isNaN(p[i * classes.length]) && ![2, 4].includes(table.arrays.status[i]);
    let value;
    if (kind === "strongest") {
      const k = classes.indexOf(rest.join(":"));
      value = (i) => (known(i) ? row(i)[k] : NaN);
    } else if (kind === "doubtful") value = (i) => (known(i) ? entropy(row(i)) : NaN);
    else if (kind === "wrong") {
      const column = columns[rest.join(":")];
      const codes = column?.classes.map((name) => classes.indexOf(name)) ?? [];
      value = (i) => {
        const truth = codes[column?.codes[i]] ?? -1;
        if (truth < 0 || !known(i)) return NaN;
        const best = Math.max(...row(i));
        return row(i)[truth] < best ? best - row(i)[truth] : NaN;
      };
    } else if (kind === "disagree" && otherRun) {
      const q = otherRun.arrays.values;
      const shared = classes.map((name) => otherRun.classes.indexOf(name));
      value = (i) => (known(i) ? Math.max(...shared.map((k, c) => (k < 0 ? 0 : Math.abs(row(i)[c] - q[i * otherRun.classes.length + k])))) : NaN);
    } else if (kind === "unreadable") value = (i) => (table.arrays.status[i] === 2 ? 1 : NaN);
    else if (kind === "qc") value = (i) => table.arrays[list][i] || NaN;
    else if (kind === "label") {
      const column = columns[rest[0]];
      const code = column?.classes.indexOf(rest.slice(1).join(":")) ?? -1;
      value = (i) => (column && column.codes[i] === code ? 1 : NaN);
    } else return [];
    const values = Float64Array.from({ length: n }, (_, i) => value(i));
    const found = [];
    for (let i = 0; i < n; i++) if (!Number.isNaN(values[i])) found.push(i);
    found.sort((a, b) => values[b] - values[a] || a - b);
    this.total = found.length;
    return found.slice(0, LONGEST);
  }

  choose(list) {
    this.total = 0;
    this.tiles = list ? this.find(list) : [];
    this.at = -1;
    this.page.listChosen(list);
    byId("sheet").replaceChildren(
      ...this.tiles.slice(0, ON_SHEET).map((tile, place) =>
        element("li", {}, element(
          "button", { type: "button", "aria-label": `Tile ${tile}, place ${place + 1}`, onclick: () => this.go(place) },
          element("img", { src: this.page.patch(tile), alt: "", loading: "lazy" }),
        )),
      ),
    );
    this.say();
  }

  /** Go on by a step: j is 1, k is -1. */
  step(by) {
    if (this.tiles.length) this.go(Math.min(this.tiles.length - 1, Math.max(0, this.at + by)));
  }

  go(place) {
    this.at = place;
    byId("sheet").querySelectorAll("button").forEach((button, i) => {
      if (i === place) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    byId("sheet").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
    this.jump(this.tiles[place]);
    this.say();
  }

  say() {
    const of = this.total > this.tiles.length ? `the first ${this.tiles.length} of ${this.total}` : `${this.tiles.length}`;
    byId("list-place").textContent = !byId("list").value ? "" : this.at < 0 ? `${of} tiles: j is the next, k the one before` : `${this.at + 1} of ${of}`;
  }
}
