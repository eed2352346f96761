// Numbers, times and ages for people.

export function clock(seconds) {
  const at = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const isToday = Math.abs(Date.now() - at) < 18 * 3600e3;
  return isToday ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

export function age(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-US").replaceAll(",", " ");
}

export function score(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

// Two numbers in as many digits as it takes to tell them apart: "0.93 > 0.93" would be a riddle.
export function comparison(value, limit) {
  let digits = 2;
  while (digits < 7 && value !== limit && value.toFixed(digits) === limit.toFixed(digits)) digits += 1;
  const sign = value > limit ? ">" : "≤";
  return `${value.toFixed(digits)} ${sign} ${limit.toFixed(digits)}`;
}

export function milliseconds(value) {
  return value === undefined ? "–" : value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

// Set only what changed: nothing flickers, and a screen reader is not told the same twice.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
