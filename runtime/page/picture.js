// A frame with its heat-map over it, on one canvas that changes in one step.

import { colourLevels } from "./heat.js";
import { onChange, settings } from "./settings.js";

export class Picture {
  #canvas;
  #frame = null;
  #levels = null;
  #limit = null;
  #heat = document.createElement("canvas");

  constructor(canvas) {
    this.#canvas = canvas;
    onChange(() => this.draw());
  }

  // Show images: blobs of the frame and, where there is a map, of its levels.
  async show(frame, levels, limit) {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const [newFrame, newLevels] = await Promise.all([
      createImageBitmap(frame),
      levels === null ? null : createImageBitmap(levels, options),
    ]);
    this.#frame?.close();
    this.#levels?.close();
    [this.#frame, this.#levels, this.#limit] = [newFrame, newLevels, limit];
    this.draw();
  }

  draw() {
    const frame = this.#frame;
    if (frame === null) return;
    const canvas = this.#canvas;
    if (canvas.width !== frame.width || canvas.height !== frame.height) {
      canvas.width = frame.width;
      canvas.height = frame.height;
    }
    const context = canvas.getContext("2d");
    context.drawImage(frame, 0, 0);
    if (this.#levels !== null && settings.overlay) {
      colourLevels(this.#levels, this.#limit, settings.opacity, this.#heat);
      context.imageSmoothingQuality = "high";
      context.drawImage(this.#heat, 0, 0, canvas.width, canvas.height);
    }
  }
}
