// The list of slides: cards, of which only those on the screen exist.

import { getJson } from "./api.js";
import { byId, element, fillSelect } from "./format.js";
import { readState, writeState } from "./state.js";

const CARD = { width: 224, height: 262 };
const AGAIN = 700; // milliseconds between two looks for new rows

const isReadable = (row) => ["ready", "listed"].includes(row.state);

export class StudyList {
  constructor() {
    this.rows = [];
    this.shown = [];
    this.changes = 0;
    this.cards = new Map();
    const again = () => this.arrange();
    for (const id of ["study-sort", "study-filter", "study-run"]) byId(id).addEventListener("change", again);
    byId("study-find").addEventListener("input", again);
    byId("study-controls").addEventListener("submit", (event) => event.preventDefault());
    byId("study-scroll").addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(byId("study-scroll"));
  }

  /** Read rows until all are known; calls `first` once the first are. */
  async load(first) {
    for (;;) {
      const answer = await getJson(`study?since=${this.changes}`);
      this.changes = answer.changes;
      this.total = answer.slides;
      for (const { at, ...row } of answer.rows) this.rows[at] = row;
      if (first && this.rows.length) {
        first(answer);
        first = null;
      }
      if (answer.rows.length || answer.complete) {
        this.offer();
        this.arrange();
      }
      if (answer.complete) break;
      await new Promise((done) => setTimeout(done, AGAIN));
    }
    this.complete = true;
  }

  /** Offer to sort and filter by what the rows have. */
  offer() {
    const names = (part) => [...new Set(this.rows.flatMap((row) => Object.keys(row[part] ?? {})))].sort();
    const [runs, qc, labels] = ["runs", "qc", "labels"].map(names);
    const state = readState();
    const keep = (id, options, fallback) => fillSelect(byId(id), options, byId(id).value || state[id] || fallback);
    keep("study-sort", [
      ["name", "name"], ["state", "trouble first"], ["tiles", "number of tiles"], ["unreadable", "unreadable tiles"],
      ...labels.map((name) => [`labels/${name}`, `labelled tiles: ${name}`]),
      ...runs.flatMap((run) => [[`runs/${run}/top`, `${run}: strongest tiles`], [`runs/${run}/share`, `${run}: share over 0.5`], [`runs/${run}/focus`, `${run}: largest focus`]]),
      ...qc.map((name) => [`qc/${name}`, `QC: ${name}`]),
    ], "name");
    keep("study-filter", [
      ["", "all slides"], ["failed", "with trouble"], ["unreadable", "with unreadable tiles"], ["unscored", "without scores"],
      ...labels.map((name) => [`label/${name}`, `labelled: ${name}`]),
    ], "");
    keep("study-run", [["", "none"], ...runs.map((run) => [run, run])], runs[0] ?? "");
  }

  arrange() {
    const [sort, filter, find] = [byId("study-sort").value, byId("study-filter").value, byId("study-find").value.toLowerCase()];
    writeState({ "study-sort": sort === "name" ? null : sort, "study-filter": filter || null });
    const keep = {
      failed: (row) => !isReadable(row),
      unreadable: (row) => row.unreadable > 0,
      unscored: (row) => !Object.keys(row.runs ?? {}).length,
    }[filter] ?? ((row) => !filter || row.labels?.[filter.slice(6)]);
    const value = (row) => {
      if (sort === "state") return isReadable(row) ? 0 : 1;
      const found = sort.split("/").reduce((part, name) => part?.[name], row);
      return typeof found === "object" && found ? Object.values(found).reduce((sum, n) => sum + n, 0) : found;
    };
    this.shown = this.rows.filter((row) => row && keep(row) && row.name.toLowerCase().includes(find));
    if (sort === "name") this.shown.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    else this.shown.sort((a, b) => (value(b) ?? -Infinity) - (value(a) ?? -Infinity) || a.name.localeCompare(b.name));
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    byId("study-count").textContent = `${this.shown.length} of ${this.total} slides`;
    this.draw();
  }

  draw() {
    const scroll = byId("study-scroll");
    if (!scroll.clientWidth) return;
    const across = Math.max(1, Math.floor(scroll.clientWidth / CARD.width));
    if (across !== this.across) {
      for (const card of this.cards.values()) card.remove();
      this.cards.clear();
      this.across = across;
    }
    byId("study-list").style.height = `${Math.ceil(this.shown.length / across) * CARD.height}px`;
    const first = Math.max(0, Math.floor(scroll.scrollTop / CARD.height) - 1) * across;
    const last = Math.min(this.shown.length, (Math.ceil((scroll.scrollTop + scroll.clientHeight) / CARD.height) + 1) * across);
    for (const [at, card] of this.cards) {
      if (at < first || at >= last) {
        card.remove();
        this.cards.delete(at);
      }
    }
    for (let at = first; at < last; at++) {
      if (!this.cards.has(at)) {
        const card = this.card(this.shown[at], at);
        this.cards.set(at, card);
        byId("study-list").append(card);
      }
    }
  }

  card(row, at) {
    const run = byId("study-run").value;
    const scored = row.runs?.[run];
    const readable = isReadable(row);
    const picture = element("span", { class: "picture" });
    if (readable) {
      const query = scored ? `&run=${encodeURIComponent(run)}` : "";
      picture.append(element("img", { src: `slide/${row.key}/thumbnail?size=192${query}`, alt: "", loading: "lazy" }));
    }
    const facts = [
      row.tiles === undefined ? null : `${row.tiles} tiles`,
      row.unreadable ? `${row.unreadable} unreadable` : null,
      scored ? `${scored.class} ${scored.top.toFixed(3)}, ${(100 * scored.share).toFixed(1)} % over 0.5` : null,
      ...Object.entries(row.labels ?? {}).map(([name, counts]) => `${name}: ${Object.entries(counts).map(([label, n]) => `${label} ${n}`).join(", ")}`),
    ].filter(Boolean);
    const link = element(
      "a", { href: `#slide=${row.key}` }, picture, element("strong", {}, row.name),
      element("span", { class: readable ? "facts" : "facts bad" }, readable ? facts.join(" · ") : row.state),
    );
    const item = element("li", { "aria-setsize": this.shown.length, "aria-posinset": at + 1 }, link);
    item.style.transform = `translate(${(at % this.across) * CARD.width}px, ${Math.floor(at / this.across) * CARD.height}px)`;
    return item;
  }

  /** The slide before or after one in the order of the list. */
  neighbour(key, step) {
    const at = this.shown.findIndex((row) => row.key === key);
    return this.shown[at + step];
  }
}
