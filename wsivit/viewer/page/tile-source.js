// The pixels of a slide: which tiles of which level are on the screen, fetched newest first, and drawn.

const AT_ONCE = 6; // requests: as many as browsers allow to one server
const KEPT_PIXELS = 32e6;
const BASE_SIZE = 1024;

export class TileSource {
  /** `changed` is called when something new can be drawn, `replaced` when the server has another pyramid by now. */
  constructor(slide, changed, replaced) {
    this.slide = slide;
    this.changed = changed;
    this.replaced = replaced;
    this.tiles = new Map(); // by address, the one drawn last at the end
    this.pixels = 0;
    this.wanted = [];
    this.running = new Map();
    this.base = null;
    this.times = [];
    this.loadBase();
  }

  async loadBase() {
    const response = await fetch(`slide/${this.slide.key}/thumbnail?size=${BASE_SIZE}`);
    if (response.status !== 200) return;
    this.base = await createImageBitmap(await response.blob());
    this.changed();
  }

  /** The coarsest level with at least a pixel for each on the screen, or nearly. */
  levelFor(view) {
    const { levels } = this.slide;
    const perPixel = 1 / (view.scale * view.ratio);
    let best = 0;
    levels.forEach((level, k) => {
      if (level.downsample[0] <= perPixel * 1.2) best = k;
    });
    return best;
  }

  /** Tiles of a level that lie in the view, those in its middle first. */
  *visible(view, k) {
    const level = this.slide.levels[k];
    const [stepX, stepY] = [level.step[0] * level.downsample[0], level.step[1] * level.downsample[1]];
    const reachX = (level.tile[0] / level.step[0] - 1) * stepX;
    const reachY = (level.tile[1] / level.step[1] - 1) * stepY;
    const lastCol = Math.ceil(level.width / level.step[0]) - 1;
    const lastRow = Math.ceil(level.height / level.step[1]) - 1;
    const right = view.x0 + view.width / view.scale;
    const bottom = view.y0 + view.height / view.scale;
    const found = [];
    for (let row = Math.max(0, Math.floor((view.y0 - reachY) / stepY)); row <= Math.min(lastRow, Math.floor(bottom / stepY)); row++) {
      for (let col = Math.max(0, Math.floor((view.x0 - reachX) / stepX)); col <= Math.min(lastCol, Math.floor(right / stepX)); col++) {
        found.push([col, row]);
      }
    }
    yield* found;
  }

  address(k, col, row) {
    return `slide/${this.slide.key}/tile/${this.slide.pyramid}/${k}/${col}/${row}`;
  }

  draw(context, view) {
    const { size0, background } = this.slide;
    context.fillStyle = `rgb(${background})`;
    context.fillRect(0, 0, view.width * view.ratio, view.height * view.ratio);
    context.imageSmoothingEnabled = true;
    if (this.base) this.place(context, view, this.base, 0, 0, size0[0], size0[1]);
    if (!this.slide.levels.length) return true;
    const chosen = this.levelFor(view);
    const missing = [];
    for (const [col, row] of this.visible(view, chosen)) {
      if (!this.tiles.has(this.address(chosen, col, row))) missing.push([col, row]);
    }
    if (missing.length) {
      for (let k = this.slide.levels.length - 1; k > chosen; k--) this.drawLevel(context, view, k);
    }
    this.drawLevel(context, view, chosen);
    this.want(view, chosen, missing);
    return missing.length === 0;
  }

  drawLevel(context, view, k) {
    const level = this.slide.levels[k];
    for (const [col, row] of this.visible(view, k)) {
      const address = this.address(k, col, row);
      const tile = this.tiles.get(address);
      if (!tile) continue;
      this.tiles.delete(address);
      this.tiles.set(address, tile); // used last
      const left = col * level.step[0];
      const top = row * level.step[1];
      const width = Math.min(level.tile[0], level.width - left);
      const height = Math.min(level.tile[1], level.height - top);
      const box = [left * level.downsample[0], top * level.downsample[1], (left + width) * level.downsample[0], (top + height) * level.downsample[1]];
      if (tile.bitmap) this.place(context, view, tile.bitmap, ...box, width, height);
      else if (tile.state === "unreadable") hatch(context, view, box);
    }
  }

  /** Draw a picture over a box of level-0 pixels. Edges lie on whole pixels of the screen, so that no seams show. */
  place(context, view, bitmap, left, top, right, bottom, width = bitmap.width, height = bitmap.height) {
    const [x0, y0, x1, y1] = screenBox(view, [left, top, right, bottom]);
    if (x1 > x0 && y1 > y0) context.drawImage(bitmap, 0, 0, width, height, x0, y0, x1 - x0, y1 - y0);
  }

  /** Replace what is wanted: the middle of the view first. What was wanted before is dropped. */
  want(view, k, missing) {
    const level = this.slide.levels[k];
    const middleX = (view.x0 + view.width / view.scale / 2) / level.downsample[0] / level.step[0] - 0.5;
    const middleY = (view.y0 + view.height / view.scale / 2) / level.downsample[1] / level.step[1] - 0.5;
    missing.sort((a, b) => Math.hypot(a[0] - middleX, a[1] - middleY) - Math.hypot(b[0] - middleX, b[1] - middleY));
    this.wanted = missing.map(([col, row]) => this.address(k, col, row)).filter((address) => !this.running.has(address));
    const still = new Set(missing.map(([col, row]) => this.address(k, col, row)));
    for (const [address, controller] of this.running) if (!still.has(address)) controller.abort();
    this.pump();
  }

  pump() {
    while (this.running.size < AT_ONCE && this.wanted.length) this.load(this.wanted.shift());
  }

  async load(address) {
    const controller = new AbortController();
    this.running.set(address, controller);
    const started = performance.now();
    try {
      const response = await fetch(address, { signal: controller.signal });
      const state = response.headers.get("X-Wsivit-Tile");
      if (state === "changed") this.replaced();
      else if (response.status === 204) this.keep(address, { state, pixels: 0 });
      else if (response.ok) {
        const bitmap = await createImageBitmap(await response.blob()).catch(() => null);
        this.keep(address, bitmap ? { bitmap, pixels: bitmap.width * bitmap.height } : { state: "unreadable", pixels: 0 });
        this.times.push(performance.now() - started);
      } else this.keep(address, { state: "unreadable", pixels: 0 });
    } catch (error) {
      if (error.name !== "AbortError") this.keep(address, { state: "unreadable", pixels: 0 });
    } finally {
      this.running.delete(address);
      this.pump();
      this.changed();
    }
  }

  keep(address, tile) {
    this.tiles.set(address, tile);
    this.pixels += tile.pixels;
    for (const [old, { bitmap, pixels }] of this.tiles) {
      if (this.pixels <= KEPT_PIXELS) break;
      bitmap?.close();
      this.pixels -= pixels;
      this.tiles.delete(old);
    }
  }

  close() {
    this.wanted = [];
    for (const controller of this.running.values()) controller.abort();
    for (const { bitmap } of this.tiles.values()) bitmap?.close();
    this.tiles.clear();
  }
}

/** A box of level-0 pixels in pixels of the canvas, whole ones. */
export function screenBox(view, [left, top, right, bottom]) {
  const scale = view.scale * view.ratio;
  return [
    Math.round((left - view.x0) * scale), Math.round((top - view.y0) * scale),
    Math.round((right - view.x0) * scale), Math.round((bottom - view.y0) * scale),
  ];
}

/** Diagonal lines on a pale ground: there is something here, and it cannot be read. */
function hatch(context, view, box) {
  const [x0, y0, x1, y1] = screenBox(view, box);
  context.save();
  context.beginPath();
  context.rect(x0, y0, x1 - x0, y1 - y0);
  context.clip();
  context.fillStyle = "#cfcfcf";
  context.fill();
  context.strokeStyle = "#3c3c3c";
  context.lineWidth = 2;
  context.beginPath();
  for (let x = x0 - (y1 - y0); x < x1; x += 12) {
    context.moveTo(x, y1);
    context.lineTo(x + (y1 - y0), y0);
  }
  context.stroke();
  context.restore();
}
