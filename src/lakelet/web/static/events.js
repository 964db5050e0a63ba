// The event log, followed: new events that meet the filters come in at the top.
import { chip } from "/static/format.js";
import { onMessage } from "/static/live.js";

const LEVELS = ["METRICS", "INFO", "WARN", "ERROR"], MOST_ROWS = 500;
const table = document.getElementById("events");
const filters = JSON.parse(table.dataset.filters);
const body = table.querySelector("tbody");
const seen = new Set([...body.querySelectorAll("a[href^='/events/']")].map((link) => link.getAttribute("href")));

function meets(event) {
  const text = filters.q.toLowerCase();
  return (!filters.level || LEVELS.indexOf(event.level) >= LEVELS.indexOf(filters.level))
    && (!filters.dataset || event.dataset === filters.dataset)
    && (!filters.type || event.type === filters.type)
    && (!filters.update || event.update_id.startsWith(filters.update))
    && (!text || [event.message, event.dataset ?? "", event.type].some((value) => value.toLowerCase().includes(text)));
}

function cell(className, ...children) {
  const element = document.createElement("td");
  element.className = className;
  element.append(...children);
  return element;
}

function link(href, text) {
  const element = document.createElement("a");
  element.href = href;
  element.textContent = text;
  return element;
}

function row(event) {
  const element = document.createElement("tr");
  element.append(cell("small", link(`/events/${event.sequence}`, event.timestamp.slice(0, 19).replace("T", " "))), cell("", chip(event.level, event.level)),
    cell("optional small mono", event.type), cell("cut", event.message),
    cell("optional small mono", link(`/updates/${event.update_id}`, event.update_id.slice(0, 6))));
  return element;
}

if (table.dataset.follow === "yes") onMessage((message) => {
  if (message.missed) { location.reload(); return; }
  for (const event of message.events.filter(meets)) {
    const href = `/events/${event.sequence}`;
    if (seen.has(href)) continue;
    seen.add(href);
    body.prepend(row(event));
    document.getElementById("no-events")?.remove();
  }
  while (body.rows.length > MOST_ROWS) body.lastElementChild.remove();
}, { lines: true });
