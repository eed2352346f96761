// Rejects as thumbnails, the newest first, and one of them large.

import * as format from "./format.js";
import { Picture } from "./picture.js";

const SHOWN = 30;

export class Rejects {
  #list = document.getElementById("rejects");
  #note = document.getElementById("rejects-note");
  #viewer = document.getElementById("viewer");
  #canvas = document.getElementById("viewer-picture");
  #picture = new Picture(this.#canvas);
  #items = [];
  #elements = new Map();
  #open = null;
  #undrawn = 0;

  constructor() {
    const button = (name) => document.getElementById(`viewer-${name}`);
    button("close").addEventListener("click", () => this.#viewer.close());
    button("newer").addEventListener("click", () => this.#step(-1));
    button("older").addEventListener("click", () => this.#step(1));
    this.#viewer.addEventListener("keydown", (event) => {
      if (event.target.type === "checkbox" && event.key === " ") return;
      if (event.key === "ArrowLeft") this.#step(-1);
      else if (event.key === "ArrowRight") this.#step(1);
      else return;
      event.preventDefault();
    });
    this.#viewer.addEventListener("click", (event) => {
      if (event.target === this.#viewer) this.#viewer.close();
    });
    this.#viewer.addEventListener("close", () => {
      this.#elements.get(this.#open?.number)?.querySelector("button").focus();
      this.#open = null;
    });
  }

  show(items, undrawn) {
    this.#undrawn = undrawn;
    // Under a pointer nothing moves: what is about to be clicked stays where it is.
    const isHeld = matchMedia("(hover: hover)").matches && this.#list.matches(":hover") && this.#items.length > 0;
    if (isHeld) {
      const newest = this.#items[0].number;
      const waiting = items.filter((item) => item.number > newest).length;
      format.put(this.#note, waiting ? `${waiting} new` : this.#count());
      return;
    }
    this.#items = items.slice(0, SHOWN);
    const wanted = new Set(this.#items.map((item) => item.number));
    for (const [number, element] of this.#elements) {
      if (!wanted.has(number)) {
        element.remove();
        this.#elements.delete(number);
      }
    }
    this.#items.forEach((item, place) => {
      const element = this.#elements.get(item.number) ?? this.#make(item);
      if (this.#list.children[place] !== element) this.#list.insertBefore(element, this.#list.children[place] ?? null);
    });
    format.put(this.#note, this.#count());
    if (this.#open !== null) this.#showPlace();
  }

  #count() {
    const more = this.#undrawn ? `, ${format.count(this.#undrawn)} without a picture` : "";
    return this.#items.length ? `latest ${this.#items.length}${more}` : "none so far";
  }

  #make(item) {
    const element = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const image = document.createElement("img");
    image.src = `/api/rejects/${item.number}/thumb.jpg?of=${item.of}`;
    image.alt = "";
    image.decoding = "async";
    const text = document.createElement("span");
    const score = document.createElement("b");
    score.textContent = `✕ ${format.score(item.score)}`;
    const when = document.createElement("small");
    when.textContent = format.clock(item.captured_at_s);
    text.append(score, when);
    button.append(image, text);
    button.ariaLabel = `Reject ${item.number}: score ${format.score(item.score)}, ${item.name}, ${when.textContent}`;
    button.addEventListener("click", () => this.#show(item));
    element.append(button);
    this.#elements.set(item.number, element);
    return element;
  }

  #step(by) {
    const place = this.#items.findIndex((item) => item.number === this.#open?.number);
    const next = this.#items[place + by];
    if (place >= 0 && next !== undefined) this.#show(next);
  }

  async #show(item) {
    this.#open = item;
    const title = document.getElementById("viewer-title");
    const score = document.createElement("b");
    score.textContent = `✕ ${format.comparison(item.score, item.threshold)}`;
    title.replaceChildren(score, ` · ${item.name} · frame ${item.frame} · ${format.clock(item.captured_at_s)}`);
    this.#canvas.ariaLabel = `Reject ${item.number} of ${item.name}`;
    this.#showPlace();
    if (!this.#viewer.open) this.#viewer.showModal();
    const load = async (name) => {
      const response = await fetch(`/api/rejects/${item.number}/${name}?of=${item.of}`);
      if (!response.ok) throw new Error(`${response.status}`);
      return response.blob();
    };
    try {
      const [frame, levels] = await Promise.all([load("frame.jpg"), item.has_map ? load("map.png") : null]);
      if (this.#open?.number === item.number) await this.#picture.show(frame, levels, item.limit_level);
    } catch {
      title.append(" · its picture is not kept any more");
    }
  }

  #showPlace() {
    const place = this.#items.findIndex((item) => item.number === this.#open.number);
    format.put(document.getElementById("viewer-place"), place < 0 ? "" : `${place + 1} of ${this.#items.length}`);
    document.getElementById("viewer-newer").disabled = place <= 0;
    document.getElementById("viewer-older").disabled = place < 0 || place >= this.#items.length - 1;
  }
}
