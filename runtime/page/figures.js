// Figures of the whole line, and the latest events.

import * as format from "./format.js";

const SIGNS = {
  opened: ["ok", "●"], ended: ["quiet", "■"], resized: ["quiet", "↔"], retrying: ["warn", "↻"],
  sink_recovered: ["ok", "●"], page_recovered: ["ok", "●"],
};
const ALARMS = ["lost", "stalled", "gave_up", "sink_failed", "sink_full", "page_failed"];
const EVENTS = 40;

function tile(list, label, isWide = false) {
  const element = document.createElement("div");
  if (isWide) element.className = "wide";
  const [term, value] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = label;
  element.append(term, value);
  list.append(element);
  return value;
}

export class Figures {
  #values = {};
  #latencies = {};

  constructor() {
    const list = document.getElementById("figures");
    for (const [name, label] of [["inspected", "Inspected"], ["rejects", "Rejects"], ["rate", "Rate"], ["dropped", "Dropped"]]) {
      const value = tile(list, label);
      const [number, note] = [document.createElement("span"), document.createElement("small")];
      value.append(number, " ", note);
      this.#values[name] = [number, note];
    }
    const value = tile(list, "Latency, capture to verdict, in ms", true);
    value.className = "many";
    for (const name of ["p50", "p95", "p99", "max"]) {
      const pair = document.createElement("span");
      const [number, note] = [document.createElement("span"), document.createElement("small")];
      note.textContent = name;
      pair.append(note, number);
      value.append(pair);
      this.#latencies[name] = number;
    }
  }

  show(state) {
    const sum = (name) => state.sources.reduce((total, source) => total + (source.counts?.[name] ?? 0), 0);
    const hasCounts = state.sources.some((source) => source.counts !== null);
    const share = state.inspected ? (100 * state.anomalous) / state.inspected : 0;
    this.#put("inspected", format.count(state.inspected), state.seconds === null ? "" : `in ${format.age(state.seconds)}`);
    this.#put("rejects", format.count(state.anomalous), state.inspected ? `${share.toFixed(share < 10 ? 1 : 0)} %` : "");
    this.#put("rate", state.frames_per_second === null ? "–" : state.frames_per_second.toFixed(1), "frames/s");
    this.#put("dropped", hasCounts ? format.count(sum("dropped")) : "–", hasCounts ? `${format.count(sum("corrupt"))} corrupt` : "");
    for (const [name, element] of Object.entries(this.#latencies)) {
      format.put(element, format.milliseconds(state.latency_ms[name]));
    }
  }

  #put(name, number, note) {
    format.put(this.#values[name][0], number);
    format.put(this.#values[name][1], note);
  }
}

export class Events {
  #list = document.getElementById("events");
  #newest = "";

  show(events) {
    const newest = events.length ? `${events.length} ${events[0].at_s} ${events[0].message}` : "none";
    if (newest === this.#newest) return;
    this.#newest = newest;
    this.#list.replaceChildren(...events.slice(0, EVENTS).map((event) => this.#make(event)));
    if (!events.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = "Nothing has happened.";
      this.#list.append(none);
    }
  }

  #make(event) {
    const [tone, sign] = SIGNS[event.kind] ?? [ALARMS.includes(event.kind) ? "bad" : "warn", "▲"];
    const item = document.createElement("li");
    const mark = document.createElement("span");
    mark.dataset.tone = tone;
    mark.textContent = sign;
    mark.ariaLabel = event.kind.replaceAll("_", " ");
    mark.role = "img";
    const time = document.createElement("time");
    time.textContent = format.clock(event.at_s);
    const text = document.createElement("span");
    text.textContent = event.message;
    item.append(mark, time, text);
    return item;
  }
}
