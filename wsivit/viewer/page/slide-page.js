// One slide: its view, its layers, and everything in the panel.

import { getArrays, getJson } from "./api.js";
import { byId, element, fillSelect, length, niceLength, notify, percent, shellWord, showDialog, squareMm } from "./format.js";
import { Labelling } from "./labelling.js";
import { CellLayer, HeatLayer, MASK_COLORS, MarkLayer, OutlineLayer, RegionLayer } from "./layers.js";
import { classColors, measure, scoreColors } from "./score-map.js";
import { SlideView } from "./slide-view.js";
import { readState, writeState } from "./state.js";
import { showTile } from "./tile-details.js";
import { TileTable, exact } from "./tile-table.js";
import { Walk } from "./walk.js";

const MICRONS_AT_1X = 10;
const MEASURED_AT_ONCE = 3e5; // cells; more are measured once the threshold rests

export class SlidePage {
  static async open(key) {
    const page = new SlidePage(await getJson(`slide/${key}`));
    await page.load();
    return page;
  }

  constructor(slide) {
    Object.assign(this, { slide, layers: [], columns: {}, runs: {}, run: null, otherRun: null, table: null, chosen: -1 });
    this.mark = new MarkLayer();
    this.abort = new AbortController();
    this.view = new SlideView(byId("map"), slide, this.layers);
    this.view.onReplaced = () => this.replaced();
    this.view.onDraw = () => this.drawn();
    this.restoreView();
    this.title();
    notify(slide.notice);
    this.listen();
  }

  on(target, kind, listener) {
    target.addEventListener(kind, listener, { signal: this.abort.signal });
  }

  title() {
    document.title = `${this.slide.name} · wsivit view`;
    byId("title").textContent = this.slide.name;
    byId("values").textContent = "";
  }

  restoreView() {
    const { x, y, d } = readState();
    if (Number.isFinite(Number(x)) && Number(d) > 0) this.view.show(Number(x), Number(y), Number(d));
    else this.view.fit();
  }

  // --- what the store has

  async load() {
    const { slide } = this;
    this.state = readState();
    const { store, key } = slide;
    for (const id of ["heat", "compare", "lists", "labelling", "tile"]) byId(id).hidden = true;
    if (store) {
      const [tiles, colors] = await Promise.all([getArrays(`slide/${key}/tiles`), getArrays("colors")]);
      this.table = new TileTable(store, tiles.arrays);
      this.colors = colors;
      this.heat = new HeatLayer(colors);
      this.layers.push(this.heat);
      const mask = new CellLayer("mask", "Tissue", false, 0.35);
      this.layers.push(mask);
      mask.load = async () => {
        const { arrays, downsample } = await getArrays(`slide/${key}/mask`);
        const [height, width] = arrays.mask.shape;
        mask.set(arrays.mask, width, height, MASK_COLORS, [0, 0], downsample);
      };
      for (const name of store.qc) this.addQc(name);
      for (const name of new Set([...store.labels, ...(store.read_only ? [] : [store.painted])])) await this.addLabels(name);
      this.layers.push(new OutlineLayer(this.table));
    }
    if (slide.annotations) this.layers.push(new RegionLayer(await getJson(`slide/${key}/annotations`)));
    this.layers.push(this.mark);
    const on = this.state.on?.split(",");
    for (const layer of this.layers) {
      if (on && layer !== this.mark) layer.visible = on.includes(layer.id);
      const opacity = Number(this.state[`o-${layer.id}`]);
      if (this.state[`o-${layer.id}`] && opacity >= 0 && opacity <= 1) layer.opacity = opacity;
      if (layer.visible) await layer.load?.();
    }
    if (store) {
      byId("lists").hidden = false;
      this.walk = new Walk(this, (i) => this.jump(i));
      if (!store.read_only && store.offered.length) {
        byId("labelling").hidden = false;
        this.labelling = new Labelling(this, (column) => this.painted(column));
      }
      if (store.runs.length) await this.setUpScores();
      this.walk.offer(this.state.list);
      if (byId("list").value) this.walk.choose(byId("list").value);
    }
    this.listLayers();
    byId("copy-command").hidden = !this.run;
    byId("panel").hidden = this.layers.every(({ name }) => !name);
    this.view.redraw();
    this.ready = true;
  }

  addQc(name) {
    const layer = new CellLayer(`qc-${name}`, `QC: ${name}`, false, 0.6);
    layer.load = () => {
      const values = this.table.arrays[`qc:${name}`];
      const { n_cols: width, n_rows: height } = this.slide.store.grid;
      const bytes = this.table.toGrid((i) => (Number.isNaN(values[i]) ? 0 : 1 + Math.round(200 * Math.min(1, Math.max(0, values[i])))));
      layer.set(bytes, width, height, scoreColors(this.colors.arrays.magma, 200), this.table.origin0, this.table.stride0);
    };
    this.layers.push(layer);
  }

  async addLabels(name) {
    const painted = name === this.slide.store.painted;
    const layer = new CellLayer(`labels-${name}`, painted ? `Labels: ${name} (painted)` : `Labels: ${name}`, painted, 0.5);
    layer.load = () => this.drawLabels(name);
    this.layers.push(layer);
    this.takeLabels(name, await getArrays(`slide/${this.slide.key}/labels?name=${encodeURIComponent(name)}`));
  }

  takeLabels(name, { arrays, classes, colors }) {
    this.columns[name] = { codes: arrays.codes, classes, colors };
  }

  drawLabels(name) {
    const { codes, classes } = this.columns[name];
    // A class has the colour that it has in the run.
    const colors = classes.map((label, k) => this.run?.class_colors[this.run.classes.indexOf(label)] ?? this.columns[name].colors[k]);
    const { n_cols: width, n_rows: height } = this.slide.store.grid;
    const layer = this.layers.find(({ id }) => id === `labels-${name}`);
    const legend = classes.map((label, k) => [colors[k], label]);
    layer.set(this.table.toGrid((i) => codes[i] + 1), width, height, classColors(colors, 1), this.table.origin0, this.table.stride0, legend);
  }

  /** The column that is painted. */
  get column() {
    return this.columns[this.slide.store.painted];
  }

  painted(column) {
    const name = this.slide.store.painted;
    this.takeLabels(name, column);
    this.drawLabels(name);
    this.mark.boxes = this.chosen < 0 ? [] : [this.table.box(this.chosen)];
    this.layers.find(({ id }) => id === `labels-${name}`).visible = true;
    this.listLayers();
    this.walk.offer();
    this.view.redraw();
    this.other?.redraw();
  }

  markTiles(tiles) {
    this.mark.boxes = tiles.map((i) => this.table.box(i));
    this.view.redraw();
  }

  patch(i) {
    return `slide/${this.slide.key}/patch/${i}`;
  }

  // --- scores

  async loadRun(name) {
    this.runs[name] ??= await getArrays(`slide/${this.slide.key}/scores?run=${encodeURIComponent(name)}`);
    return this.runs[name];
  }

  async setUpScores() {
    const { store } = this.slide;
    const { state } = this;
    const named = store.runs.map((run) => [run, run]);
    fillSelect(byId("run"), named, state.run);
    fillSelect(byId("run-b"), named, state.with ?? store.runs.find((run) => run !== byId("run").value));
    fillSelect(byId("cmap"), Object.keys(this.colors.arrays).map((name) => [name, name]), state.cmap ?? "coolwarm");
    byId("threshold").value = state.t ? Math.round(200 * Number(state.t)) : 100;
    byId("only-over").checked = state.over === "1";
    byId("smooth").checked = state.smooth === "1";
    byId("compare-mode").value = state.as ?? "";
    byId("curtain").value = state.curtain ?? 500;
    byId("heat").hidden = false;
    byId("compare").hidden = store.runs.length < 2;
    try {
      await this.chooseRun();
      await this.chooseCompare();
    } catch (error) {
      byId("heat").hidden = true;
      notify(`The scores cannot be shown: ${error.message}`);
    }
  }

  async chooseRun() {
    this.run = await this.loadRun(byId("run").value);
    const classes = this.run.classes.map((name) => [`class:${name}`, name]);
    const more = { best: "most probable class", uncertainty: `uncertainty (${this.run.uncertainty_kind})`, coverage: "coverage" };
    const modes = [...classes, ...Object.entries(more).filter(([mode]) => this.run.arrays[mode])];
    fillSelect(byId("mode"), modes, byId("mode").value || this.state.mode || `class:${this.run.classes[this.run.main_class]}`);
    if (![...byId("mode").options].some(({ value }) => value === byId("mode").value)) byId("mode").value = classes[0][0];
    this.heat.run = this.run;
    for (const layer of this.layers) if (layer.visible && layer.id.startsWith("labels-")) layer.load();
    this.scoresChanged();
    this.walk?.offer();
    if (this.chosen >= 0) this.choose(this.chosen);
  }

  async chooseCompare() {
    const mode = byId("compare-mode").value;
    this.otherRun = mode ? await this.loadRun(byId("run-b").value) : null;
    this.heat.other = this.otherRun;
    this.heat.compare = mode;
    byId("curtain-label").hidden = mode !== "curtain";
    this.link(mode === "linked");
    this.scoresChanged();
    this.walk?.offer();
  }

  /** A second view beside the first, that follows it. */
  link(wanted) {
    byId("map-b").hidden = !wanted;
    this.view.map.invalidateSize({ animate: false });
    if (!wanted && this.other) {
      this.other.close();
      this.other = null;
    }
    if (wanted && !this.other) {
      const second = new HeatLayer(this.colors);
      const layers = this.layers.map((layer) => (layer === this.heat ? second : layer));
      this.other = new SlideView(byId("map-b"), this.slide, layers);
      this.other.heat = second;
      let moving = false;
      const follow = (from, to) => () => {
        if (moving || !this.other) return;
        moving = true;
        to.show(...from.center, 1 / from.view.scale);
        moving = false;
      };
      this.other.show(...this.view.center, 1 / this.view.view.scale);
      this.followed = follow(this.view, this.other);
      this.view.map.on("move", () => this.followed());
      this.other.map.on("move", follow(this.other, this.view));
    }
  }

  /** Take the controls over into the picture: no request is made. */
  scoresChanged() {
    const { heat } = this;
    Object.assign(heat, {
      mode: byId("mode").value, cmap: byId("cmap").value, k: Number(byId("threshold").value), onlyOver: byId("only-over").checked,
      smooth: byId("smooth").checked, curtain: Number(byId("curtain").value) / 1000,
    });
    this.recolorTime = heat.recolor();
    if (this.other) {
      const { visible, opacity, mode, cmap, k, onlyOver, smooth } = heat;
      Object.assign(this.other.heat, { visible, opacity, mode, cmap, k, onlyOver, smooth, run: this.otherRun });
      this.other.heat.recolor();
      this.other.redraw();
    }
    byId("cmap").disabled = !heat.isClass || heat.compare === "difference";
    byId("threshold").disabled = !heat.isClass;
    byId("threshold-value").textContent = `${heat.threshold.toFixed(3)} ${heat.run.unit}`;
    clearTimeout(this.measuring);
    if (heat.run.arrays.coverage.length > MEASURED_AT_ONCE) this.measuring = setTimeout(() => this.measure(), 120);
    else this.measure();
    writeState({
      run: byId("run").value, mode: heat.mode, cmap: heat.cmap === "coolwarm" ? null : heat.cmap, t: heat.k === 100 ? null : heat.k / 200,
      over: heat.onlyOver ? 1 : null, smooth: heat.smooth ? 1 : null, with: heat.compare ? byId("run-b").value : null,
      as: heat.compare || null, curtain: heat.compare === "curtain" ? byId("curtain").value : null,
    });
    this.listLayers();
    this.view.redraw();
  }

  measure() {
    const { heat } = this;
    const shown = heat.isClass && heat.bytes(heat.run);
    byId("measures").hidden = !shown;
    if (!shown) return;
    const [height, width] = heat.run.arrays.coverage.shape;
    this.measured = measure(shown, width, height, heat.k, heat.run);
    byId("area").textContent = squareMm(this.measured.area);
    byId("share").textContent = percent(this.measured.share);
    byId("focus").textContent = squareMm(this.measured.focus);
  }

  // --- layers

  listLayers() {
    const changed = () => {
      writeState({
        on: this.layers.filter(({ visible, name }) => visible && name).map(({ id }) => id).join(",") || "none",
        ...Object.fromEntries(this.layers.filter(({ name }) => name).map(({ id, opacity }) => [`o-${id}`, opacity])),
      });
      if (this.other) Object.assign(this.other.heat, { visible: this.heat.visible, opacity: this.heat.opacity });
      this.view.redraw();
      this.other?.redraw();
    };
    const focused = document.activeElement?.id;
    byId("layers").replaceChildren(
      ...this.layers.filter(({ name, id }) => name && (id !== "heat" || this.run)).map((layer) => {
        const box = element("input", { type: "checkbox", id: `layer-${layer.id}` });
        box.checked = layer.visible;
        box.addEventListener("change", async () => {
          layer.visible = box.checked;
          if (layer.visible) await layer.load?.();
          this.listLayers();
          changed();
        });
        const opacity = element("input", { type: "range", min: 0, max: 1, step: 0.05, id: `opacity-${layer.id}`, "aria-label": `Opacity of ${layer.name}` });
        opacity.value = layer.opacity;
        opacity.addEventListener("input", () => {
          layer.opacity = Number(opacity.value);
          changed();
        });
        return element("li", {}, element("label", {}, box, layer.name), opacity, ...(layer.visible ? legendOf(layer) : []));
      }),
    );
    if (focused) byId(focused)?.focus({ preventScroll: true });
  }

  // --- values

  values(place) {
    const { slide, table, run, otherRun } = this;
    const [x, y] = place;
    const parts = [`${Math.floor(x)}, ${Math.floor(y)} px`];
    if (slide.mpp) parts.push(`${length(Math.round(x * slide.mpp[0] * 10) / 10)}, ${length(Math.round(y * slide.mpp[1] * 10) / 10)}`);
    const i = table ? table.under(place) : -1;
    if (i >= 0) {
      parts.push(`tile ${i}`);
      for (const shown of [run, otherRun]) {
        if (!shown) continue;
        const p = shown.arrays.values.subarray(i * shown.classes.length, (i + 1) * shown.classes.length);
        const told = Number.isNaN(p[0]) ? "no score" : shown.classes.map((name, k) => `${name} ${exact(p[k])}`).join(", ");
        parts.push(otherRun ? `${shown.run}: ${told}` : told);
      }
      if (table.arrays.status[i] > 1) parts.push(table.status(i));
      if (this.column && this.column.codes[i] >= 0) parts.push(`label ${this.column.classes[this.column.codes[i]]}`);
    }
    return parts.join(" · ");
  }

  choose(i) {
    this.chosen = i;
    this.markTiles([i]);
    showTile(this, i, (j) => this.jump(j));
    byId("values").textContent = this.values(this.table.middle(i));
  }

  jump(i) {
    const side = this.table.size0[0] * this.view.view.scale;
    const downsample = side >= 32 ? 1 / this.view.view.scale : this.table.size0[0] / 128;
    this.view.show(...this.table.middle(i), downsample);
    this.choose(i);
  }

  listChosen(list) {
    writeState({ list: list || null });
  }

  drawn() {
    const { x0, y0, scale, width, height } = this.view.view;
    const [x, y] = [x0 + width / scale / 2, y0 + height / scale / 2];
    writeState({ slide: this.slide.key, x: x.toFixed(1), y: y.toFixed(1), d: (1 / scale).toPrecision(6) });
    const { mpp } = this.slide;
    if (!mpp) {
      byId("zoom").textContent = `1 : ${(1 / scale).toPrecision(3)}, scale unknown`;
      byId("scale-bar").hidden = true;
      return;
    }
    const perPixel = mpp[0] / scale;
    byId("zoom").textContent = `${(MICRONS_AT_1X / perPixel).toPrecision(3)}× (${perPixel.toPrecision(3)} µm/px)`;
    const bar = niceLength(140 * perPixel);
    byId("scale-bar").hidden = false;
    byId("scale-line").style.width = `${bar / perPixel}px`;
    byId("scale-text").textContent = length(bar);
  }

  // --- actions

  command() {
    const { heat, slide, run } = this;
    const words = ["wsivit", "heatmap", slide.store.file, "--run", run.run];
    if (heat.isClass) words.push("--class-name", heat.mode.slice(6), "--threshold", String(heat.k / heat.run.steps), "--cmap", heat.cmap, "--alpha", String(heat.opacity));
    if (heat.isClass && !heat.smooth) words.push("--interpolation", "nearest");
    if (heat.isClass) words.push("--png", `${slide.name}.png`);
    else words.push("--format", heat.mode === "best" ? "argmax" : heat.mode === "uncertainty" ? "uncertainty" : "ome-tiff");
    return words.map(shellWord).join(" ");
  }

  place() {
    const [x, y] = this.view.center;
    const [left, top] = this.slide.bounds;
    const at = `${(x - left).toFixed(0)}, ${(y - top).toFixed(0)}`;
    return `getCurrentViewer().setDownsampleFactor(${(1 / this.view.view.scale).toPrecision(4)}); getCurrentViewer().setCenterPixelLocation(${at})`;
  }

  async png() {
    const { canvas, view } = this.view;
    const picture = document.createElement("canvas");
    const bar = this.slide.mpp ? niceLength(140 * (this.slide.mpp[0] / view.scale)) : 0;
    const strip = Math.round(30 * view.ratio);
    [picture.width, picture.height] = [canvas.width, canvas.height + strip];
    const context = picture.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, picture.width, picture.height);
    context.drawImage(canvas, 0, 0);
    context.fillStyle = "#000";
    context.font = `${13 * view.ratio}px sans-serif`;
    const base = canvas.height + strip / 2;
    const side = bar ? (bar / this.slide.mpp[0]) * view.scale * view.ratio : 0;
    context.fillRect(8, base, side, 3 * view.ratio);
    const scores = this.run && this.heat.visible ? ` · ${this.run.run}, ${this.heat.mode.replace("class:", "")}` : "";
    context.fillText(`${bar ? length(bar) : ""}   ${this.slide.name}${scores}`, side + 16, base + 5 * view.ratio);
    const blob = await new Promise((done) => picture.toBlob(done, "image/png"));
    const link = element("a", { href: URL.createObjectURL(blob), download: `${this.slide.name}-view.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return blob;
  }

  goTo() {
    const input = element("input", { type: "text", id: "go-to", autocomplete: "off", placeholder: "12000, 8000" });
    const unit = element("select", { "aria-label": "Unit" });
    fillSelect(unit, [["px", "level-0 pixels"], ...(this.slide.mpp ? [["um", "µm"]] : [])]);
    const body = element("label", {}, "x, y ", input, unit);
    showDialog("Go to", body, undefined, () => {
      const numbers = input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
      if (numbers.length < 2 || numbers.some(Number.isNaN)) return;
      const [x, y] = unit.value === "um" ? [numbers[0] / this.slide.mpp[0], numbers[1] / this.slide.mpp[1]] : numbers;
      this.view.show(x, y);
    });
    input.focus();
  }

  /** The server has other pixels by now: the slide is gone, or was replaced. */
  async replaced() {
    if (this.asking) return;
    this.asking = true;
    const slide = await getJson(`slide/${this.slide.key}`);
    Object.assign(this.slide, { pyramid: slide.pyramid, levels: slide.levels, notice: slide.notice });
    notify(slide.notice);
    this.asking = false;
    for (const view of [this.view, this.other]) view?.redraw();
  }

  listen() {
    const map = byId("map");
    const whenRun = (what) => () => this.run && what();
    for (const id of ["mode", "cmap", "threshold", "only-over", "smooth", "curtain"]) this.on(byId(id), "input", whenRun(() => this.scoresChanged()));
    this.on(byId("run"), "change", () => this.chooseRun());
    for (const id of ["run-b", "compare-mode"]) this.on(byId(id), "change", () => this.chooseCompare());
    this.on(byId("fit"), "click", () => this.view.fit());
    this.on(byId("go"), "click", () => this.goTo());
    this.on(byId("png"), "click", () => this.png());
    this.on(byId("copy-place"), "click", () => showDialog("Place for QuPath: run this in its script editor", [], this.place()));
    this.on(byId("copy-command"), "click", () => this.run && showDialog("The command that draws this heatmap", [], this.command()));
    this.on(map, "pointermove", (event) => this.pointed(event));
    this.on(map, "pointerleave", () => { this.pointer = null; });
    this.on(map, "pointerdown", (event) => this.pressed(event));
    this.on(map, "pointerup", () => this.released());
    this.on(map, "pointercancel", () => this.released());
    this.view.map.on("click", ({ originalEvent }) => {
      if (byId("painting").checked || !this.table) return;
      const i = this.table.under(this.view.placeOf(originalEvent));
      if (i >= 0) this.choose(i);
    });
    this.on(byId("painting"), "change", () => this.paintMode());
  }

  paintMode() {
    const on = byId("painting").checked;
    byId("map").classList.toggle("painting", on);
    if (on) this.view.map.dragging.disable();
    else this.view.map.dragging.enable();
  }

  pointed(event) {
    this.pointer = this.view.placeOf(event);
    byId("values").textContent = this.values(this.pointer);
    if (!this.labelling || !byId("painting").checked) return;
    if (this.labelling.stroke) this.labelling.extend(this.pointer);
    else this.markTiles(this.labelling.under(this.pointer));
  }

  pressed(event) {
    if (!this.labelling || !byId("painting").checked || event.button !== 0) return;
    byId("map").setPointerCapture(event.pointerId);
    this.labelling.begin();
    this.labelling.extend(this.view.placeOf(event));
  }

  released() {
    if (this.labelling?.stroke) this.labelling.end();
  }

  /** Where the keyboard acts: under the pointer, else in the middle. */
  get place0() {
    return this.pointer ?? this.view.center;
  }

  close() {
    this.abort.abort();
    this.other?.close();
    this.view.close();
    byId("map-b").hidden = true;
    byId("painting").checked = false;
  }
}

function legendOf(layer) {
  const legend = layer.legend();
  if (Array.isArray(legend)) {
    if (!legend.length) return [];
    return [element("span", { class: "legend" }, ...legend.map(([color, name]) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = `rgb(${color})`;
      return element("span", {}, swatch, name);
    }))];
  }
  const canvas = element("canvas", { class: "ramp", width: 256, height: 1, role: "img", "aria-label": `colours from ${legend.ends[0]} to ${legend.ends[1]}` });
  const context = canvas.getContext("2d");
  for (let i = 0; i < 256; i++) {
    context.fillStyle = `rgb(${legend.ramp.subarray(3 * i, 3 * i + 3)})`;
    context.fillRect(i, 0, 1, 1);
  }
  return [element("span", { class: "legend scale" }, legend.ends[0], canvas, legend.ends[1])];
}
