// The tiles of a store: where they lie, and which one is at a place.

const STATUS = { 0: "ok", 1: "padded: reaches past the slide", 2: "unreadable", 3: "not predicted", 4: "never scanned" };

export class TileTable {
  constructor(store, arrays) {
    this.grid = store.grid;
    this.arrays = arrays;
    this.count = arrays.col.length;
    const { n_cols: cols, n_rows: rows } = store.grid;
    this.index = new Int32Array(cols * rows).fill(-1);
    for (let i = 0; i < this.count; i++) this.index[arrays.row[i] * cols + arrays.col[i]] = i;
    /** Level-0 pixels from one tile to the next, and of a tile. */
    this.stride0 = [store.grid.step * store.grid.downsample_x, store.grid.step * store.grid.downsample_y];
    this.size0 = [store.grid.tile_size * store.grid.downsample_x, store.grid.tile_size * store.grid.downsample_y];
    /** Corner of the first cell when each tile is drawn as one of a stride, in its middle. */
    this.origin0 = [(this.size0[0] - this.stride0[0]) / 2, (this.size0[1] - this.stride0[1]) / 2];
  }

  at(col, row) {
    const { n_cols: cols, n_rows: rows } = this.grid;
    return col < 0 || row < 0 || col >= cols || row >= rows ? -1 : this.index[row * cols + col];
  }

  /** The tile whose middle is nearest to a place in level-0 pixels; -1 for none. */
  under([x, y]) {
    return this.at(Math.floor((x - this.origin0[0]) / this.stride0[0]), Math.floor((y - this.origin0[1]) / this.stride0[1]));
  }

  middle(i) {
    const { col, row } = this.arrays;
    return [col[i] * this.stride0[0] + this.size0[0] / 2, row[i] * this.stride0[1] + this.size0[1] / 2];
  }

  box(i) {
    const { col, row } = this.arrays;
    const [x, y] = [col[i] * this.stride0[0], row[i] * this.stride0[1]];
    return [x, y, x + this.size0[0], y + this.size0[1]];
  }

  /** Tiles in a square of `n` around a tile. */
  around(i, n) {
    const { col, row } = this.arrays;
    const reach = (n - 1) / 2;
    const found = [];
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const j = this.at(col[i] + dx, row[i] + dy);
        if (j >= 0) found.push(j);
      }
    }
    return found;
  }

  /** One byte per cell of the grid from one value per tile; 0 where there is no tile. */
  toGrid(byteOf) {
    const bytes = new Uint8Array(this.index.length);
    for (let i = 0; i < this.count; i++) bytes[this.arrays.row[i] * this.grid.n_cols + this.arrays.col[i]] = byteOf(i);
    return bytes;
  }

  status(i) {
    return STATUS[this.arrays.status[i]] ?? "unknown";
  }
}

/** The shortest decimal that is this float32 and no other. */
export function exact(value) {
  if (!Number.isFinite(value)) return "none";
  for (let digits = 1; digits < 10; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value) return String(text);
  }
  return String(value);
}

/** Entropy of probabilities as a share of the highest possible; one class alone is the probability of yes. */
export function entropy(probabilities) {
  const p = probabilities.length === 1 ? [probabilities[0], 1 - probabilities[0]] : probabilities;
  const total = p.reduce((sum, value) => sum + value, 0) || 1;
  return -p.reduce((sum, value) => sum + (value > 0 ? (value / total) * Math.log(value / total) : 0), 0) / Math.log(p.length);
}
