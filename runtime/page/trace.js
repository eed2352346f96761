// A source's scores over time against the threshold.

const HEIGHT = 92;
const COLUMN = { age: 0, highest: 1, lowest: 2, frames: 3, anomalous: 4 };

export class Trace {
  #canvas;
  #bins = [];
  #span = 120;
  #binSeconds = 0.25;
  #threshold = null;
  #receivedAt = 0;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.draw());
  }

  show(bins, span, binSeconds, threshold) {
    this.#bins = bins;
    this.#span = span;
    this.#binSeconds = binSeconds;
    this.#threshold = threshold;
    this.#receivedAt = performance.now();
    this.draw();
  }

  draw() {
    const width = this.#canvas.clientWidth;
    if (width === 0) return;
    const ratio = devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * ratio)) this.#canvas.width = Math.round(width * ratio);
    if (this.#canvas.height !== Math.round(HEIGHT * ratio)) this.#canvas.height = Math.round(HEIGHT * ratio);
    const context = this.#canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    const style = getComputedStyle(this.#canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const scale = this.#scale(width);
    this.#drawGrid(context, width, scale, colour);
    for (const bin of this.#bins) this.#drawBin(context, bin, scale, colour);
    this.#drawThreshold(context, width, scale, colour);
  }

  // The axis holds the threshold and what is around it; of a far outlier an arrow at the top tells.
  #scale(width) {
    const highest = Math.max(0, ...this.#bins.map((bin) => bin[COLUMN.highest]));
    const lowest = Math.min(0, ...this.#bins.map((bin) => bin[COLUMN.lowest]));
    const limit = this.#threshold;
    const top = limit > 0 ? Math.min(Math.max(highest * 1.12, limit * 1.5), limit * 3) : highest * 1.12 || 1;
    const bottom = Math.max(lowest * 1.12, -top / 2);
    const plot = { left: 34, right: width - 4, top: 8, bottom: HEIGHT - 16 };
    const elapsed = (performance.now() - this.#receivedAt) / 1000;
    return {
      plot,
      top,
      bottom,
      x: (age) => plot.right - ((age + elapsed) / this.#span) * (plot.right - plot.left),
      y: (value) => plot.bottom - ((value - bottom) / (top - bottom)) * (plot.bottom - plot.top),
    };
  }

  #drawGrid(context, width, { plot, top, bottom, y }, colour) {
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colour("soft");
    context.strokeStyle = colour("line");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(plot.left, Math.round(y(0)) + 0.5);
    context.lineTo(plot.right, Math.round(y(0)) + 0.5);
    context.stroke();
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText("0", plot.left - 6, y(0));
    if (this.#threshold === null) context.fillText(top.toFixed(1), plot.left - 6, plot.top + 4);
    context.textBaseline = "alphabetic";
    const minutes = this.#span / 60;
    for (let part = 0; part <= 4; part += 1) {
      const at = plot.right - (part / 4) * (plot.right - plot.left);
      context.textAlign = part === 0 ? "right" : part === 4 ? "left" : "center";
      const ago = (minutes * part) / 4;
      const text = part === 0 ? "now" : ago < 1 || ago % 1 ? `−${ago * 60} s` : `−${ago} min`;
      context.fillText(text, at, HEIGHT - 3);
    }
  }

  #drawBin(context, bin, { plot, x, y, top, bottom }, colour) {
    const left = x(bin[COLUMN.age]);
    const wide = Math.max(1.5, (this.#binSeconds / this.#span) * (plot.right - plot.left) - 0.3);
    if (left + wide < plot.left) return;
    const clip = (value) => Math.min(top, Math.max(bottom, value));
    const upper = y(clip(bin[COLUMN.highest]));
    const lower = y(clip(bin[COLUMN.lowest]));
    const isBad = bin[COLUMN.anomalous] > 0;
    const from = Math.max(plot.left, left);
    // A faint stem makes single parts of a slow line visible; the range of the bin stands on it.
    context.fillStyle = colour(isBad ? "bad" : "trace");
    context.globalAlpha = isBad ? 0.45 : 0.22;
    context.fillRect(from, upper, wide, Math.max(0, y(0) - upper));
    context.globalAlpha = 1;
    context.fillRect(from, upper, wide, Math.max(2.5, lower - upper));
    if (isBad) {
      // A sign beside the colour.
      context.beginPath();
      context.moveTo(from + wide / 2 - 4, 0);
      context.lineTo(from + wide / 2 + 4, 0);
      context.lineTo(from + wide / 2, 7);
      context.fill();
    }
  }

  #drawThreshold(context, width, { plot, y }, colour) {
    if (this.#threshold === null) return;
    const at = Math.round(y(this.#threshold)) + 0.5;
    context.strokeStyle = colour("ink");
    context.lineWidth = 1.5;
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(plot.left, at);
    context.lineTo(plot.right, at);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = colour("ink");
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(this.#threshold.toFixed(2), plot.left - 4, at);
  }
}
