// What this viewer chose; kept by his browser.

const DEFAULTS = { overlay: true, opacity: 0.6, span: "120" };
const listeners = new Set();

function read() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem("cada-edge") ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export const settings = read();

export function change(values) {
  Object.assign(settings, values);
  try {
    localStorage.setItem("cada-edge", JSON.stringify(settings));
  } catch {
    // A browser that keeps nothing: the choice holds until the page is loaded again.
  }
  listeners.forEach((listener) => listener());
}

export function onChange(listener) {
  listeners.add(listener);
}
