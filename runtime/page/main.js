// Asks the inspection how it goes, and says so the moment that it does not answer.

import { Events, Figures } from "./figures.js";
import * as format from "./format.js";
import { Rejects } from "./rejects.js";
import { change, onChange, settings } from "./settings.js";
import { SourceCard } from "./source_card.js";

const STATE_EVERY_MS = 400;
const TRACE_EVERY_MS = 1000;
const LOST_AFTER_MS = 2500;
const TIMEOUT_MS = 5000;

const byId = (name) => document.getElementById(name);
const figures = new Figures();
const events = new Events();
const rejects = new Rejects();
const cards = [];
const seen = []; // number of the picture that each source shows
let state = null;
let stateAt = -Infinity; // by performance.now
let newestReject = -1;
let latestRejects = [];

async function get(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (response.status === 401) location.reload();
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function isCutOff() {
  return performance.now() - stateAt > LOST_AFTER_MS;
}

// The inspection's clock, which need not be this machine's.
function now() {
  return state.now_s + (performance.now() - stateAt) / 1000;
}

function render() {
  if (state === null) return;
  const cutOff = isCutOff();
  document.body.classList.toggle("cut-off", cutOff);
  const alarm = byId("alarm");
  alarm.hidden = !cutOff;
  if (cutOff) format.put(alarm, `▲ No connection to the inspection since ${format.clock(state.now_s)}. Nothing here is live.`);
  else format.put(byId("clock"), format.clock(now()));
  const lost = state.sources.filter((source) => ["lost", "gave_up"].includes(source.status)).length;
  const [tone, text] = cutOff ? ["bad", "? Unknown"]
    : state.run === "ended" ? ["quiet", "■ Ended"]
    : lost ? ["bad", `▲ ${lost} of ${state.sources.length} lost`]
    : state.run === "paused" ? ["warn", "‖ Paused"]
    : state.run === "running" ? ["ok", "● Running"] : ["warn", "◌ Waiting"];
  byId("run").dataset.tone = tone;
  format.put(byId("run"), text);
  const title = cutOff ? "▲ no connection" : lost ? `▲ ${lost} lost` : `${format.count(state.anomalous)} rejects`;
  if (document.title !== `${title} · cada-edge`) document.title = `${title} · cada-edge`;
  const isEnded = state.run === "ended";
  state.sources.forEach((source, place) => cards[place]?.show(source, isEnded, cutOff ? null : now()));
}

function showState() {
  const model = state.model;
  format.put(byId("model"), `${model.file} · ${model.backend}`);
  byId("model").title = `sha256 ${model.sha256}, cada-edge ${model.version}`;
  byId("no-sources").hidden = state.sources.length > 0;
  while (cards.length < state.sources.length) {
    cards.push(new SourceCard());
    byId("sources").append(cards.at(-1).element);
  }
  figures.show(state);
  events.show(state.events);
  render();
}

async function followState() {
  for (;;) {
    try {
      const found = await (await get("/api/state")).json();
      if (state !== null && found.inspection !== state.inspection) {
        // Started again: numbers, sources and rejects are others under the same names.
        location.reload();
        return;
      }
      state = found;
      stateAt = performance.now();
      showState();
      if (state.newest_reject !== newestReject) {
        const { inspection, rejects } = await (await get("/api/rejects")).json();
        if (inspection !== state.inspection) continue;
        latestRejects = rejects.map((reject) => ({ ...reject, of: inspection }));
        newestReject = state.newest_reject;
      }
      rejects.show(latestRejects, state.rejects_without_picture);
    } catch (error) {
      console.info(`No answer: ${error.message}`);
    }
    await pause(STATE_EVERY_MS);
  }
}

async function followPictures() {
  for (;;) {
    try {
      if (document.hidden) await pause(300);
      else await showPictures(await (await get(`/api/live?seen=${seen.map((each) => each ?? "").join()}`)).arrayBuffer());
    } catch {
      await pause(1000);
    }
  }
}

async function showPictures(body) {
  const length = new DataView(body).getUint32(0);
  const { pictures } = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
  let at = 4 + length;
  for (const head of pictures) {
    const parts = head.sizes.map((size, place) => {
      const type = place === 0 ? "image/jpeg" : "image/png";
      const part = new Blob([new Uint8Array(body, at, size)], { type });
      at += size;
      return part;
    });
    if (cards[head.source] === undefined) {
      await pause(100); // its card comes with the next state
      continue;
    }
    await cards[head.source].showPicture(head, parts[0], parts[1] ?? null);
    seen[head.source] = head.number;
  }
  render();
}

async function showTraces() {
  if (state === null || document.hidden) return;
  const trace = await (await get(`/api/trace?span_s=${settings.span}`)).json();
  state.sources.forEach((source, place) => {
    cards[place]?.showTrace(trace, source.last?.threshold ?? state.model.threshold);
  });
}

async function followTraces() {
  for (;;) {
    await showTraces().catch(() => {});
    await pause(state === null ? 100 : TRACE_EVERY_MS);
  }
}

function bindSettings() {
  const boxes = [byId("overlay"), byId("viewer-overlay")];
  const show = () => {
    boxes.forEach((box) => (box.checked = settings.overlay));
    byId("opacity").value = Math.round(settings.opacity * 100);
    byId("opacity").disabled = !settings.overlay;
  };
  boxes.forEach((box) => box.addEventListener("change", () => change({ overlay: box.checked })));
  byId("opacity").addEventListener("input", (event) => change({ opacity: event.target.value / 100 }));
  onChange(show);
  let span = settings.span;
  onChange(() => {
    if (span !== settings.span) showTraces().catch(() => {});
    span = settings.span;
  });
  show();
}

document.addEventListener("visibilitychange", () => {
  // Timers slept while nobody looked: the next answer decides, but no frame of before is live.
  if (!document.hidden && state !== null) {
    state = { ...state, now_s: now() };
    stateAt = performance.now();
    render();
  }
});

bindSettings();
setInterval(render, 500);
followState();
followPictures();
followTraces();
