// The one connection to the live stream. It says what was seen last when it is made again; a page that nobody sees has none.
const listeners = new Set();
let source = null, seen = "", withLines = false;

// Log lines are the longest part of a message: only a page that shows them asks for them, before it connects.
export function onMessage(listener, { lines = false } = {}) {
  listeners.add(listener);
  if (lines && !withLines) { withLines = true; disconnect(); }
  connect();
}

function show(state, text) {
  const element = document.getElementById("connection");
  if (!element) return;
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

function disconnect() {
  source?.close();
  source = null;
}

function connect() {
  if (source || document.hidden) return;
  const query = new URLSearchParams({ ...(withLines ? {} : { lines: "no" }), ...(seen ? { after: seen } : {}) });
  const opened = source = new EventSource(`/live?${query}`);
  opened.addEventListener("open", () => show("live", "live"));
  opened.addEventListener("error", () => {
    if (opened !== source) return;
    show("lost", "reconnecting");
    if (opened.readyState === EventSource.CLOSED) { // refused: the browser gives up, we do not
      source = null;
      setTimeout(connect, 3000);
    }
  });
  opened.addEventListener("progress", (event) => {
    show("live", "live");
    seen = event.lastEventId;
    const message = JSON.parse(event.data);
    for (const listener of listeners) listener(message);
  });
}

document.addEventListener("visibilitychange", () => document.hidden ? disconnect() : connect());
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
