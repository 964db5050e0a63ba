// Values as the server writes them: the same words and units.
const numbers = new Intl.NumberFormat("en-US");
export const number = (value) => (value === null || value === undefined ? "–" : numbers.format(value));

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const minutes = Math.floor(value / 60), rest = Math.floor(value % 60);
  if (minutes < 60) return `${minutes} min ${String(rest).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export const words = (constant) => (constant ? constant.toLowerCase().replaceAll("_", " ") : "");
export const datasetPath = (name) => `/datasets/${encodeURIComponent(name)}`;

export function chip(status, text) {
  const element = document.createElement("span");
  element.className = "chip";
  element.dataset.status = status ?? "";
  element.textContent = text ?? (words(status) || "not run yet");
  return element;
}
