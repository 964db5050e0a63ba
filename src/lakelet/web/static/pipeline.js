// The pipeline page: graph and list, live.
import { chip, number, seconds, words } from "/static/format.js";
import { Graph } from "/static/graph.js";
import { onMessage } from "/static/live.js";

const data = JSON.parse(document.getElementById("page-data").textContent);
const states = new Map(Object.entries(data.update.datasets));
let updateId = data.update.update_id;
let graph = null;

const byId = (id) => document.getElementById(id);
const rows = new Map([...document.querySelectorAll("#list tbody tr")].map((row) => [row.dataset.name, row]));

function drawGraph() {
  if (graph || byId("graph-panel").hidden) return;
  if (!data.datasets.length) { byId("graph").textContent = "The pipeline has no datasets yet."; return; }
  graph = new Graph(byId("graph"), data);
  for (const [name, state] of states) graph.show(name, state);
}

// -- live

function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function showRow(name, state) {
  const row = rows.get(name);
  if (!row) return;
  const cell = (field) => row.querySelector(`[data-field="${field}"]`);
  if (state.status) {
    const before = cell("status").querySelector(".chip");
    if (!before || before.dataset.status !== state.status) cell("status").replaceChildren(chip(state.status));
  }
  for (const field of ["input", "written", "upserted", "deleted"]) setText(cell(field), number(state[field]));
  setText(cell("dropped"), number(state.dropped || null));
  setText(cell("failed"), Object.entries(state.failed).map(([rule, count]) => `${rule} ${number(count)}`).join(", "));
  setText(cell("seconds"), seconds(state.seconds));
  setText(cell("technique"), words(state.technique));
}

const NOTHING = { status: null, technique: null, input: null, written: null, upserted: null, deleted: null, dropped: 0, failed: {}, seconds: null };

function showHeadline(update) {
  byId("state").replaceChildren(chip(update.runner.stopping ? "STOPPING" : update.state));
  const link = byId("update-link");
  link.href = update.update_id ? `/updates/${update.update_id}` : "/updates";
  link.firstElementChild.textContent = (update.update_id ?? "–").slice(0, 6);
  setText(byId("seconds"), seconds(update.seconds));
  setText(byId("written"), number(update.written));
  setText(byId("dropped"), number(update.dropped));
  byId("warnings").replaceChildren(...update.warnings.map((text) => {
    const note = document.createElement("div");
    note.className = "notice warn";
    note.textContent = text;
    return note;
  }));
  showRunner(update.runner);
}

let canStart = data.update.runner.can_start;
function showRunner(runner) {
  canStart = runner.can_start;
  for (const button of document.querySelectorAll('[data-needs="start"]')) button.disabled = !runner.can_start;
  for (const button of document.querySelectorAll('[data-needs="stop"]')) button.disabled = !runner.can_stop;
  byId("actions").dataset.running = runner.running ? "yes" : "no";
  const owner = byId("owner");
  if (!runner.owner) owner.replaceChildren();
  else if (!owner.firstElementChild) {
    const note = document.createElement("div");
    note.className = "notice";
    note.textContent = `Process ${runner.owner.pid} on ${runner.owner.host} runs an update. It is shown live; starting and stopping is its own business.`;
    owner.append(note);
  }
  showSelection();
}

let wasRunning = data.update.runner.running;
onMessage((update) => {
  if (update.update_id !== updateId) {
    updateId = update.update_id;
    for (const name of rows.keys()) { states.set(name, NOTHING); showRow(name, NOTHING); graph?.show(name, NOTHING); }
  }
  for (const [name, state] of Object.entries(update.datasets)) {
    states.set(name, state);
    showRow(name, state);
    graph?.show(name, state);
  }
  showHeadline(update);
  const unknown = Object.keys(update.datasets).some((name) => !rows.has(name));
  if ((wasRunning && !update.runner.running && update.runner.errors.length) || unknown) location.reload(); // new files, or why they do not load
  wasRunning = update.runner.running;
});

// -- tabs

const tabs = [...document.querySelectorAll('[role="tab"]')];
function select(tab) {
  for (const other of tabs) {
    const isChosen = other === tab;
    other.setAttribute("aria-selected", String(isChosen));
    other.tabIndex = isChosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !isChosen;
  }
  byId("graph-tools").hidden = tab.id !== "tab-graph";
  history.replaceState(null, "", tab.id === "tab-list" ? "#list" : location.pathname + location.search);
  drawGraph();
}
for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[(tabs.indexOf(tab) + 1) % tabs.length];
    select(next);
    next.focus();
  });
}
if (location.hash === "#list") {
  select(byId("tab-list"));
  addEventListener("load", () => setTimeout(() => scrollTo(0, 0))); // a browser scrolls to the table of that name
}
addEventListener("hashchange", () => select(byId(location.hash === "#list" ? "tab-list" : "tab-graph")));

// -- selection

const form = byId("selection");
const chosen = () => [...form.querySelectorAll('input[type="checkbox"]:checked')];
function showSelection() {
  for (const button of form.querySelectorAll('[data-needs="selection"]')) button.disabled = !canStart || chosen().length === 0;
}
form.addEventListener("change", showSelection);
form.addEventListener("submit", (event) => {
  const isFull = event.submitter?.hasAttribute("data-full");
  for (const box of form.querySelectorAll('input[type="checkbox"]')) box.name = isFull ? "full_refresh" : "refresh";
});
byId("filter").addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
byId("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const [name, row] of rows) row.hidden = !name.toLowerCase().includes(wanted);
});

byId("zoom-in").addEventListener("click", () => graph?.zoom(graph.scale * 1.25));
byId("zoom-out").addEventListener("click", () => graph?.zoom(graph.scale / 1.25));
byId("zoom-fit").addEventListener("click", () => graph?.fit());
addEventListener("load", drawGraph);
if (document.readyState === "complete") drawGraph();
