// The one connection to the live stream. The browser reconnects by itself and says what it saw last.
const listeners = new Set();
let source = null;

export function onMessage(listener) {
  listeners.add(listener);
  connect();
}

function show(state, text) {
  const element = document.getElementById("connection");
  if (!element) return;
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

function connect() {
  if (source) return;
  source = new EventSource("/live");
  source.addEventListener("open", () => show("live", "live"));
  source.addEventListener("error", () => {
    show("lost", "reconnecting");
    if (source.readyState === EventSource.CLOSED) { // refused: the browser gives up, we do not
      source = null;
      setTimeout(connect, 3000);
    }
  });
  source.addEventListener("progress", (event) => {
    show("live", "live");
    const message = JSON.parse(event.data);
    for (const listener of listeners) listener(message);
  });
}

addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => { if (event.persisted) { source = null; connect(); } });
