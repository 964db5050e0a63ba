// What every page has: the live connection, sections that keep themselves fresh, keyboard, theme.
import { onMessage } from "/static/live.js";

// Between two refreshes of a page's live sections: a page that takes the server long to answer asks less often, so that
// looking takes a thirtieth of the time at most.
const LEAST_MS = 3000, MOST_MS = 30000, SHARE = 30;
let refreshedAt = 0, pauseMs = LEAST_MS, waiting = null, asking = false, again = false, unseen = false;

function busy(section) {
  return section.contains(document.activeElement) || (getSelection()?.toString() && section.contains(getSelection().anchorNode));
}

function plan() {
  if (asking) again = true; // how long to wait is known when the answer is here
  else waiting ??= setTimeout(() => refresh().catch(() => {}), Math.max(0, refreshedAt + pauseMs - Date.now()));
}

async function answer() {
  asking = true;
  refreshedAt = Date.now();
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" } });
    return response.ok ? await response.text() : null;
  } finally {
    pauseMs = Math.min(MOST_MS, Math.max(LEAST_MS, SHARE * (Date.now() - refreshedAt)));
    asking = false;
    if (again) plan();
    again = false;
  }
}

async function refresh() {
  waiting = null;
  if (document.hidden) { unseen = true; return; }
  const html = await answer();
  if (html === null) return;
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const section of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(section.id);
    if (!next || busy(section) || section.outerHTML === next.outerHTML) continue;
    const open = [...section.querySelectorAll("details")].map((item) => item.open);
    section.replaceWith(document.adoptNode(next));
    next.querySelectorAll("details").forEach((item, i) => { item.open = open[i] ?? false; });
  }
  document.dispatchEvent(new CustomEvent("refreshed"));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !unseen) return;
  unseen = false;
  plan();
});

let first = true;
onMessage((message) => {
  if (!first && message.news && document.querySelector("[data-live]")) plan();
  first = false;
});

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("lakelet-theme", root.dataset.theme); } catch { /* it lasts until the page is left */ }
  document.dispatchEvent(new CustomEvent("themed"));
}
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("help").addEventListener("click", () => document.getElementById("keys").showModal());

let pressedG = 0;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
  if (event.key === "?") document.getElementById("keys").showModal();
  else if (event.key === "t") switchTheme();
  else if (event.key === "/") {
    const field = [...document.querySelectorAll("[data-search]")].find((item) => item.checkVisibility());
    if (field) { event.preventDefault(); field.focus(); field.select(); }
  } else if (event.key === "g") { pressedG = Date.now(); return; }
  else if (Date.now() - pressedG < 1500) document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
  pressedG = 0;
});
