// A slide on the screen: Leaflet moves it, one canvas draws it. Positions are level-0 pixels, y downwards.

import { TileSource, screenBox } from "./tile-source.js";

const SLIDE_CRS = L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(1, 0, 1, 0) });
const FINEST = 3; // screen pixels for a level-0 pixel, as a power of 2
const ANIMATION = { zoomAnimation: false, fadeAnimation: false, markerZoomAnimation: false };

export class SlideView {
  /** `layers` are drawn over the slide in order: each has `visible`, `opacity` and `draw(context, view)`. */
  constructor(element, slide, layers, source) {
    this.element = element;
    this.slide = slide;
    this.layers = layers;
    this.frames = 0;
    this.drawTimes = [];
    const [width, height] = slide.size0;
    this.map = L.map(element, {
      crs: SLIDE_CRS, attributionControl: false, zoomControl: false, zoomSnap: 0, zoomDelta: 0.5, wheelDebounceTime: 10,
      wheelPxPerZoomLevel: 100, minZoom: Math.log2(64 / Math.max(width, height)), maxZoom: FINEST, ...ANIMATION,
    });
    element.setAttribute("role", "application");
    element.setAttribute("aria-label", `Slide ${slide.name}: arrows move, plus and minus zoom, Enter opens the tile in the middle`);
    element.tabIndex = 0;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "pixels";
    element.prepend(this.canvas);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.source = source ?? new TileSource(slide, () => this.redraw(), () => this.onReplaced?.());
    this.pending = false;
    this.map.on("move zoom resize viewreset", () => this.redraw());
    this.resizing = new ResizeObserver(() => this.map.invalidateSize({ animate: false }));
    this.resizing.observe(element);
  }

  /** What of the slide is on the screen: `x0, y0` of the corner, `scale` in CSS pixels per level-0 pixel. */
  get view() {
    const scale = 2 ** this.map.getZoom();
    const corner = this.map.getPixelBounds().min;
    const size = this.map.getSize();
    return { x0: corner.x / scale, y0: corner.y / scale, scale, width: size.x, height: size.y, ratio: window.devicePixelRatio || 1 };
  }

  get center() {
    const { x0, y0, scale, width, height } = this.view;
    return [x0 + width / scale / 2, y0 + height / scale / 2];
  }

  /** Level-0 place of a mouse or touch event. */
  placeOf(event) {
    const box = this.element.getBoundingClientRect();
    const { x0, y0, scale } = this.view;
    return [x0 + (event.clientX - box.left) / scale, y0 + (event.clientY - box.top) / scale];
  }

  /** Show a place in the middle, at so many level-0 pixels per pixel of the screen. */
  show(x, y, downsample = 1 / this.view.scale) {
    this.map.setView([y, x], -Math.log2(downsample), { animate: false });
  }

  fit() {
    const [x, y, width, height] = this.slide.bounds;
    const size = this.map.getSize();
    this.show(x + width / 2, y + height / 2, Math.max(width / (size.x || 1), height / (size.y || 1)) * 1.04);
  }

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      if (this.map._loaded && this.canvas.isConnected) this.draw();
    });
  }

  draw() {
    const started = performance.now();
    const { view, canvas, context } = this;
    const [width, height] = [Math.round(view.width * view.ratio), Math.round(view.height * view.ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.complete = this.source.draw(context, view);
    for (const layer of this.layers) {
      if (!layer.visible || !layer.opacity) continue;
      context.save();
      context.globalAlpha = layer.opacity;
      layer.draw(context, view);
      context.restore();
    }
    this.frames += 1;
    this.drawTimes.push(performance.now() - started);
    this.onDraw?.(view);
  }

  close() {
    this.resizing.disconnect();
    this.source.close();
    this.map.remove();
    this.canvas.remove();
  }
}

/** Draw a canvas with one pixel per cell where its cells lie. */
export function drawCells(context, view, canvas, origin0, cell0, smooth) {
  // Only the part on the screen: browsers are slow with the rest.
  const [x0, y0] = origin0;
  const left = Math.max(0, Math.floor((view.x0 - x0) / cell0[0]) - 1);
  const top = Math.max(0, Math.floor((view.y0 - y0) / cell0[1]) - 1);
  const right = Math.min(canvas.width, Math.ceil((view.x0 + view.width / view.scale - x0) / cell0[0]) + 1);
  const bottom = Math.min(canvas.height, Math.ceil((view.y0 + view.height / view.scale - y0) / cell0[1]) + 1);
  if (right <= left || bottom <= top) return;
  context.imageSmoothingEnabled = smooth;
  const scale = view.scale * view.ratio;
  context.drawImage(
    canvas, left, top, right - left, bottom - top,
    (x0 + left * cell0[0] - view.x0) * scale, (y0 + top * cell0[1] - view.y0) * scale,
    (right - left) * cell0[0] * scale, (bottom - top) * cell0[1] * scale,
  );
}

/** Stroke a path that is in units of `unit0` level-0 pixels. */
export function strokePath(context, view, path, origin0, unit0, color, width = 1.5) {
  const scale = view.scale * view.ratio;
  context.setTransform(scale * unit0[0], 0, 0, scale * unit0[1], (origin0[0] - view.x0) * scale, (origin0[1] - view.y0) * scale);
  context.lineWidth = (width * view.ratio) / (scale * unit0[0]);
  context.strokeStyle = color;
  context.stroke(path);
  context.setTransform(1, 0, 0, 1, 0, 0);
}

export { screenBox };
