// What lies over the slide. Each layer has a name, whether and how strongly it shows, and draws itself.

import { ColoredGrid, classColors, difference, outline, rgba, scoreColors } from "./score-map.js";
import { drawCells, screenBox, strokePath } from "./slide-view.js";

const OUTLINED_CELLS = 1.5e6;
const TILE_OUTLINE_FROM = 24; // pixels of the screen

class Layer {
  constructor(id, name, visible, opacity) {
    Object.assign(this, { id, name, visible, opacity });
  }
}

/** The scores of a run, and of a second one behind a curtain or as a difference. */
export class HeatLayer extends Layer {
  constructor(colors) {
    super("heat", "Heatmap", true, 0.5);
    Object.assign(this, { colors, run: null, other: null, mode: "", cmap: "coolwarm", k: 100, onlyOver: false, smooth: false, compare: "", curtain: 0.5 });
  }

  /** The bytes that a mode shows of a run; null where the run has no such class. */
  bytes(run, mode = this.mode) {
    const { arrays, classes } = run;
    if (!mode.startsWith("class:")) return arrays[mode];
    const k = classes.indexOf(mode.slice(6));
    const size = arrays.coverage.length;
    return k < 0 ? null : arrays.bands.subarray(k * size, (k + 1) * size);
  }

  /** The threshold in the unit of the scores. */
  get threshold() {
    const [lower, upper] = this.run.ends;
    return lower + ((upper - lower) * this.k) / this.run.steps;
  }

  get isClass() {
    return this.mode.startsWith("class:");
  }

  table(run) {
    if (this.mode === "best") return classColors(run.class_colors, 1);
    const ramp = this.colors.arrays[this.compare === "difference" ? "RdBu_r" : this.isClass ? this.cmap : "viridis"];
    return scoreColors(ramp, run.steps, this.isClass && this.onlyOver && this.compare !== "difference" ? this.k : 0);
  }

  /** Colour anew: after another run, class, threshold or colour map. Returns the milliseconds it took. */
  recolor() {
    const started = performance.now();
    this.grid = this.run && this.colored(this.run, this.grid);
    this.otherGrid = this.other && this.compare !== "difference" ? this.colored(this.other, this.otherGrid) : null;
    return performance.now() - started;
  }

  colored(run, before) {
    const [height, width] = run.arrays.coverage.shape;
    const fits = before?.canvas.width === width && before.canvas.height === height;
    const grid = fits ? before : new ColoredGrid(width, height);
    let bytes = this.bytes(run) ?? new Uint8Array(width * height);
    if (this.compare === "difference" && this.other) bytes = difference(bytes, this.bytes(this.other) ?? new Uint8Array(bytes.length), run.steps);
    grid.color(bytes, this.table(run));
    const traced = this.isClass && this.compare !== "difference" && bytes.length <= OUTLINED_CELLS;
    grid.outline = null;
    grid.trace = traced ? () => (grid.outline ??= outline(bytes, width, height, this.k)) : null;
    return grid;
  }

  draw(context, view) {
    if (!this.grid) return;
    const split = this.compare === "curtain" && this.otherGrid ? this.curtain * view.width * view.ratio : null;
    this.drawGrid(context, view, this.run, this.grid, 0, split ?? view.width * view.ratio);
    if (split !== null) {
      this.drawGrid(context, view, this.other, this.otherGrid, split, view.width * view.ratio);
      context.globalAlpha = 1;
      context.fillStyle = "#000";
      context.fillRect(split - view.ratio, 0, 2 * view.ratio, view.height * view.ratio);
    }
  }

  drawGrid(context, view, run, grid, left, right) {
    context.save();
    context.beginPath();
    context.rect(left, 0, right - left, view.height * view.ratio);
    context.clip();
    drawCells(context, view, grid.canvas, [0, 0], run.downsample0, this.smooth && this.mode !== "best");
    if (grid.trace) {
      context.globalAlpha = Math.min(1, 2 * this.opacity);
      strokePath(context, view, grid.trace(), [0, 0], run.downsample0, "#101010");
    }
    context.restore();
  }

  legend() {
    if (!this.run) return [];
    if (this.mode === "best") return this.run.classes.map((name, k) => [this.run.class_colors[k], name]);
    const name = this.compare === "difference" ? "RdBu_r" : this.isClass ? this.cmap : "viridis";
    const [lower, upper] = this.isClass ? this.run.ends : [0, 1];
    const ends = this.compare === "difference" ? [lower - upper, upper - lower] : [lower, upper];
    return { ramp: this.colors.arrays[name], ends };
  }
}

/** Codes of tiles, or cells of a mask, one colour each. */
export class CellLayer extends Layer {
  constructor(id, name, visible, opacity) {
    super(id, name, visible, opacity);
    this.grid = null;
  }

  set(bytes, width, height, table, origin0, cell0, legend = []) {
    if (!this.grid || this.grid.canvas.width !== width || this.grid.canvas.height !== height) this.grid = new ColoredGrid(width, height);
    this.grid.color(bytes, table);
    Object.assign(this, { origin0, cell0, entries: legend });
  }

  legend() {
    return this.entries ?? [];
  }

  draw(context, view) {
    if (this.grid) drawCells(context, view, this.grid.canvas, this.origin0, this.cell0, false);
  }
}

export const MASK_COLORS = Uint32Array.from({ length: 256 }, (_, byte) => (byte ? rgba(30, 120, 60) : 0));

/** The outlines of tiles, once they are large enough on the screen. */
export class OutlineLayer extends Layer {
  constructor(table) {
    super("outlines", "Tile outlines", false, 0.7);
    this.table = table;
  }

  legend() {
    return [];
  }

  draw(context, view) {
    const { table } = this;
    if (table.stride0[0] * view.scale < TILE_OUTLINE_FROM) return;
    const firstCol = Math.floor((view.x0 - table.size0[0]) / table.stride0[0]);
    const firstRow = Math.floor((view.y0 - table.size0[1]) / table.stride0[1]);
    const lastCol = Math.ceil((view.x0 + view.width / view.scale) / table.stride0[0]);
    const lastRow = Math.ceil((view.y0 + view.height / view.scale) / table.stride0[1]);
    context.lineWidth = view.ratio;
    context.strokeStyle = "#20303c";
    for (let row = firstRow; row <= lastRow; row++) {
      for (let col = firstCol; col <= lastCol; col++) {
        const i = table.at(col, row);
        if (i >= 0) strokeBox(context, view, table.box(i));
      }
    }
  }
}

/** Regions that people drew. */
export class RegionLayer extends Layer {
  constructor(regions) {
    super("annotations", "Annotations", true, 0.9);
    this.regions = regions.map(({ name, color, geometry }) => ({ name, color, path: pathOf(geometry) }));
  }

  legend() {
    return [...new Map(this.regions.map(({ name, color }) => [name, [color, name]])).values()];
  }

  draw(context, view) {
    for (const { path, color } of this.regions) strokePath(context, view, path, [0, 0], [1, 1], `rgb(${color})`, 2.5);
  }
}

/** The tile that is chosen, and what the brush would paint. */
export class MarkLayer extends Layer {
  constructor() {
    super("mark", "", true, 1);
    this.boxes = [];
  }

  draw(context, view) {
    this.boxes.forEach((box) => {
      context.lineWidth = 4 * view.ratio;
      context.strokeStyle = "#fff";
      strokeBox(context, view, box);
      context.lineWidth = 2 * view.ratio;
      context.strokeStyle = "#000";
      strokeBox(context, view, box);
    });
  }
}

function strokeBox(context, view, box) {
  const [x0, y0, x1, y1] = screenBox(view, box);
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

function pathOf({ type, coordinates }) {
  const path = new Path2D();
  for (const polygon of type === "Polygon" ? [coordinates] : coordinates) {
    for (const ring of polygon) {
      ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
  }
  return path;
}
