// Scores as bytes: coloured, compared with a threshold and measured here, without a request.
// A byte b > 0 says that the score reaches (b - 1) / steps; 0 that there is none.

/** 256 colours, RGBA in one number each, for bytes of scores. */
export function scoreColors(ramp, steps, from = 0) {
  const colors = new Uint32Array(256);
  for (let byte = 1; byte <= steps + 1; byte++) {
    if (byte <= from) continue;
    const at = Math.round(((byte - 1) / steps) * 255);
    colors[byte] = rgba(ramp[3 * at], ramp[3 * at + 1], ramp[3 * at + 2]);
  }
  return colors;
}

/** Colours of codes that begin at `first`. */
export function classColors(colors, first) {
  const table = new Uint32Array(256);
  colors.forEach(([r, g, b], k) => { table[first + k] = rgba(r, g, b); });
  return table;
}

export const rgba = (r, g, b, a = 255) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** A canvas with a cell for each byte. */
export class ColoredGrid {
  constructor(width, height) {
    this.canvas = document.createElement("canvas");
    [this.canvas.width, this.canvas.height] = [width, height];
    this.context = this.canvas.getContext("2d");
    this.image = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  color(bytes, table) {
    const { pixels } = this;
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[bytes[i]];
    this.context.putImageData(this.image, 0, 0);
  }
}

/** The difference of two bands as bytes of a diverging scale: 0 where either has no score. */
export function difference(a, b, steps) {
  const out = new Uint8Array(a.length);
  for (let i = 0; i < a.length; i++) {
    if (a[i] && b[i]) out[i] = 1 + Math.round((a[i] - b[i] + steps) / 2);
  }
  return out;
}

/** Sizes of cells along an axis in millimetres; the last may reach past the slide. */
function cellSides(count, step, size, mpp) {
  return Float64Array.from({ length: count }, (_, i) => (Math.min((i + 1) * step, size) - Math.min(i * step, size)) * (mpp / 1000));
}

/** Area in mm² at or over threshold k / steps, its share of what is known, and the largest connected focus. */
export function measure(bytes, width, height, k, { downsample0, size0, mpp }) {
  const sideX = cellSides(width, downsample0[0], size0[0], mpp[0]);
  const sideY = cellSides(height, downsample0[1], size0[1], mpp[1]);
  const sums = new Float64Array(width + 1);
  for (let x = 0; x < width; x++) sums[x + 1] = sums[x] + sideX[x];
  // Runs of cells in a row, joined with those of the row above that they touch, corners too.
  const most = Math.ceil(width / 2) * height;
  const [parent, begin, end] = [new Int32Array(most), new Int32Array(most), new Int32Array(most)];
  const areas = new Float64Array(most);
  const root = (i) => {
    while (parent[i] !== i) i = parent[i] = parent[parent[i]];
    return i;
  };
  let [runs, above, known] = [0, 0, 0]; // `above` is the first run of the row above
  for (let y = 0; y < height; y++) {
    const first = runs;
    const row = y * width;
    let start = -1;
    let knownSide = 0;
    for (let x = 0; x <= width; x++) {
      const byte = x < width ? bytes[row + x] : 0;
      if (byte) knownSide += sideX[x];
      if (byte > k) {
        if (start < 0) start = x;
      } else if (start >= 0) {
        [parent[runs], begin[runs], end[runs]] = [runs, start, x];
        areas[runs] = (sums[x] - sums[start]) * sideY[y];
        runs += 1;
        start = -1;
      }
    }
    known += knownSide * sideY[y];
    let at = above;
    for (let id = first; id < runs; id++) {
      while (at < first && end[at] < begin[id]) at++;
      for (let i = at; i < first && begin[i] <= end[id]; i++) {
        const [a, b] = [root(i), root(id)];
        if (a !== b) {
          parent[a] = b;
          areas[b] += areas[a];
        }
      }
    }
    above = first;
  }
  let [area, focus] = [0, 0];
  for (let i = 0; i < runs; i++) {
    if (parent[i] !== i) continue;
    area += areas[i];
    focus = Math.max(focus, areas[i]);
  }
  return { area, share: known ? area / known : 0, focus };
}

/** The border between cells below and at or over a threshold, in cells. */
export function outline(bytes, width, height, k) {
  const path = new Path2D();
  const over = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bytes[y * width + x] > k;
  for (let y = 0; y <= height; y++) {
    let start = -1;
    for (let x = 0; x <= width; x++) {
      const edge = x < width && over(x, y) !== over(x, y - 1);
      if (edge && start < 0) start = x;
      if (!edge && start >= 0) {
        path.moveTo(start, y);
        path.lineTo(x, y);
        start = -1;
      }
    }
  }
  for (let x = 0; x <= width; x++) {
    let start = -1;
    for (let y = 0; y <= height; y++) {
      const edge = y < height && over(x, y) !== over(x - 1, y);
      if (edge && start < 0) start = y;
      if (!edge && start >= 0) {
        path.moveTo(x, start);
        path.lineTo(x, y);
        start = -1;
      }
    }
  }
  return path;
}
