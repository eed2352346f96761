// One source: its newest frame, verdict, scores and what became of its frames.

import * as format from "./format.js";
import { Picture } from "./picture.js";
import { change, settings } from "./settings.js";
import { Trace } from "./trace.js";

const LIVE_SECONDS = 3; // an older frame is not shown as live, whatever the source says

const CHIPS = {
  live: ["ok", "● Live"],
  idle: ["quiet", "◌ No new frame"],
  waiting: ["warn", "◌ Waiting"],
  lost: ["bad", "▲ Lost"],
  gave_up: ["bad", "■ Given up"],
  ended: ["quiet", "■ Ended"],
  unknown: ["bad", "? Unknown"],
};

const COUNTS = {
  inspected: "Inspected",
  rejects: "Rejects",
  captured: "Captured",
  delivered: "Delivered",
  dropped: "Dropped",
  corrupt: "Corrupt",
  waiting: "Waiting",
  source_gaps: "Gaps",
};

const TEMPLATE = `
  <header><h2></h2><p class="chip"></p></header>
  <div class="body">
    <div class="screen"><canvas role="img"></canvas><p class="sign" hidden><strong></strong><span></span></p></div>
    <div class="verdict"><b></b><span></span></div>
    <dl class="counts"></dl>
  </div>
  <div class="trace">
    <div class="trace-head"><span class="note"></span><button type="button" class="span"></button></div>
    <canvas role="img"></canvas>
  </div>`;

// Why a source is lost, and when it is tried again.
function reason(source, runHasEnded, now) {
  if (source.retry_at_s === null || runHasEnded) return source.message;
  const left = source.retry_at_s - now;
  const next = left > 0 ? `Opened again in ${format.age(left)}` : "Being opened again";
  return `${next}: ${source.message}`;
}

export class SourceCard {
  #picture;
  #trace;
  #parts;
  #counts = {};
  #shown = null; // the head of the picture on the screen
  #source = null;

  constructor() {
    this.element = document.createElement("article");
    this.element.className = "card";
    this.element.innerHTML = TEMPLATE; // no word of a source is in it
    const find = (selector) => this.element.querySelector(selector);
    this.#parts = {
      title: find("h2"), chip: find(".chip"), screen: find(".screen"), canvas: find(".screen canvas"),
      sign: find(".sign"), signText: find(".sign strong"), signNote: find(".sign span"),
      verdict: find(".verdict"), word: find(".verdict b"), figures: find(".verdict span"),
      note: find(".trace .note"), span: find(".span"), graph: find(".trace canvas"),
    };
    for (const [name, label] of Object.entries(COUNTS)) {
      const pair = document.createElement("div");
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = label;
      pair.append(term, value);
      find(".counts").append(pair);
      this.#counts[name] = value;
    }
    this.#picture = new Picture(this.#parts.canvas);
    this.#trace = new Trace(this.#parts.graph);
    this.#parts.span.addEventListener("click", () => change({ span: settings.span === "120" ? "3600" : "120" }));
  }

  async showPicture(head, frame, levels) {
    await this.#picture.show(frame, levels, head.limit_level);
    this.#shown = head;
  }

  showTrace(trace, threshold) {
    const bins = trace.sources[this.#source?.name] ?? [];
    this.#trace.show(bins, trace.span_s, trace.bin_s, threshold);
    const rejects = bins.reduce((sum, bin) => sum + bin[4], 0);
    const span = trace.span_s === 120 ? "2 minutes" : "hour";
    const text = `Score, last ${span}`;
    format.put(this.#parts.note, `${text}: ${rejects} ${rejects === 1 ? "reject" : "rejects"}`);
    format.put(this.#parts.span, trace.span_s === 120 ? "Show 1 hour" : "Show 2 minutes");
    const last = this.#source?.last?.score;
    this.#parts.graph.ariaLabel = `${text}; now ${format.score(last)}, threshold ${format.score(threshold)}`;
  }

  // Show a source's state; `now` is the inspection's clock in seconds, null without a connection.
  show(source, runHasEnded, now) {
    this.#source = source;
    format.put(this.#parts.title, source.name);
    this.#parts.title.title = source.name;
    const status = this.#status(source, runHasEnded, now);
    const [tone, text] = CHIPS[status];
    this.#parts.chip.dataset.tone = tone;
    format.put(this.#parts.chip, text);
    this.element.dataset.status = status;
    this.#showScreen(source, status, runHasEnded, now);
    this.#showVerdict(status);
    this.#showCounts(source);
  }

  #status(source, runHasEnded, now) {
    if (now === null) return "unknown";
    if (source.status === "lost" || source.status === "gave_up") return source.status;
    if (runHasEnded || source.status === "ended") return "ended";
    if (source.status === "waiting") return "waiting";
    const newest = this.#shown?.captured_at_s ?? 0;
    return now - newest > LIVE_SECONDS ? "idle" : "live";
  }

  #showScreen(source, status, runHasEnded, now) {
    const { screen, sign, signText, signNote, canvas } = this.#parts;
    const at = this.#shown?.captured_at_s ?? source.last?.captured_at_s ?? null;
    const isOld = !["live", "idle", "ended"].includes(status);
    screen.dataset.shown = this.#shown === null ? "none" : status === "live" ? "live" : isOld ? "old" : "idle";
    sign.hidden = status === "live" && this.#shown !== null;
    const passed = at === null || now === null ? "" : `, ${format.age(now - at)} ago`;
    const signs = {
      unknown: at === null ? "No frame" : `Last seen: frame of ${format.clock(at)}`,
      idle: at === null ? "Waiting for the first frame" : `Last frame ${format.clock(at)}${passed}`,
      waiting: at === null ? "Waiting for the first frame" : `No frame since ${format.clock(at)}`,
      ended: at === null ? "No frame" : `Ended; last frame ${format.clock(at)}`,
      live: "Waiting for the picture",
    };
    format.put(signText, signs[status] ?? (at === null ? "No frame yet" : `No frame since ${format.clock(at)}`));
    format.put(signNote, status === "unknown" ? "This page has no connection" : isOld ? reason(source, runHasEnded, now) : "");
    const frame = this.#shown === null ? "no frame" : `frame ${this.#shown.frame} of ${source.name}`;
    const label = `${status === "live" ? "Live" : "Not live"}: ${frame}`;
    if (canvas.ariaLabel !== label && status !== "live") canvas.ariaLabel = label;
    if (status === "live" && !canvas.ariaLabel?.startsWith("Live")) canvas.ariaLabel = `Live: ${source.name}`;
  }

  // The verdict is of the frame on the screen, and none of a source that is not there.
  #showVerdict(status) {
    const { verdict, word, figures } = this.#parts;
    const head = this.#shown;
    let [tone, text, note] = ["quiet", "–", ""];
    if (status === "lost" || status === "gave_up") [tone, text, note] = ["warn", "▲ NOT INSPECTED", ""];
    else if (status === "unknown") [tone, text] = ["quiet", "? UNKNOWN"];
    else if (head !== null && status !== "waiting") {
      if (head.is_anomalous === null) [text, note] = ["– NO LIMIT", `score ${format.score(head.score)}`];
      else {
        [tone, text] = head.is_anomalous ? ["bad", "✕ REJECT"] : ["ok", "✓ OK"];
        note = format.comparison(head.score, head.threshold);
        // An old OK is no news; an old reject still is.
        if (status !== "live" && !head.is_anomalous) tone = "quiet";
      }
    }
    verdict.dataset.tone = tone;
    format.put(word, text);
    const place = head === null || !note ? "" : `frame ${format.count(head.frame)}`;
    if (figures.dataset.text !== note + place) {
      figures.dataset.text = note + place;
      const small = document.createElement("small");
      small.textContent = place;
      figures.replaceChildren(note, small);
    }
  }

  #showCounts(source) {
    const values = { ...source.counts, inspected: source.inspected, rejects: source.anomalous };
    for (const [name, element] of Object.entries(this.#counts)) {
      format.put(element, format.count(values[name]));
      element.classList.toggle("off", ["corrupt", "source_gaps"].includes(name) && values[name] > 0);
    }
  }
}
