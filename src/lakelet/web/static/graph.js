// The graph of the datasets: dagre places them, layer by layer; this draws them as SVG and keeps their state.
import { datasetPath, number, seconds, words } from "/static/format.js";

const SVG = "http://www.w3.org/2000/svg";
const NODE = { width: 212, height: 66 }, OUTSIDE = { width: 104, height: 28 };
const HEADING = 22;
const MOST_TIGHTENED = 120; // datasets: beyond it the shortest edges take dagre half a minute, any good ones half a second

function make(name, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

const TECHNIQUES = { COMPLETE_RECOMPUTE: "recomputed", NO_OP: "no change", GROUP_AGGREGATE: "by group", APPEND_ONLY: "appended" };
const fit = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const layerOf = (layer) => ["bronze", "silver", "gold"].find((name) => layer.toLowerCase().includes(name)) ?? "";
const outsideLabel = (label) => fit(label.split(/[:/]/).filter(Boolean).at(-1) ?? label, 12);

// Cut a text to the room that it has, as the browser measures it.
function setFitted(element, text, room) {
  element.textContent = text;
  let length = text.length;
  while (length > 4 && element.getComputedTextLength() > room) {
    length -= 1;
    element.textContent = `${text.slice(0, length)}…`;
  }
}

export class Graph {
  constructor(frame, data) {
    this.frame = frame;
    this.nodes = new Map();
    this.edges = [];
    this.scale = 1;
    this.data = data;
    this.draw();
  }

  layout() {
    const graph = new dagre.graphlib.Graph({ compound: true });
    const ranker = this.data.datasets.length <= MOST_TIGHTENED ? "network-simplex" : "tight-tree";
    graph.setGraph({ rankdir: "LR", nodesep: 18, ranksep: 34, edgesep: 8, marginx: 12, marginy: 14 + HEADING / 2, ranker });
    graph.setDefaultEdgeLabel(() => ({}));
    const clustered = this.data.layers.length > 1;
    if (clustered) for (const layer of this.data.layers.filter(Boolean)) graph.setNode(`layer:${layer}`, {});
    for (const dataset of this.data.datasets) {
      graph.setNode(dataset.name, { ...NODE });
      if (clustered && dataset.layer) graph.setParent(dataset.name, `layer:${dataset.layer}`);
    }
    for (const edge of this.data.edges) {
      if (edge.external) graph.setNode(`outside:${edge.from}`, { ...OUTSIDE });
      graph.setEdge(edge.external ? `outside:${edge.from}` : edge.from, edge.to, {});
    }
    dagre.layout(graph);
    return graph;
  }

  draw() {
    const graph = this.layout();
    this.width = Math.ceil(graph.graph().width) || 200;
    this.height = Math.ceil(graph.graph().height) || 100;
    this.svg = make("svg", { viewBox: `0 0 ${this.width} ${this.height}` });
    const marker = make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" });
    marker.append(make("path", { d: "M0 0L8 4L0 8z", class: "arrow" }));
    const defs = make("defs");
    defs.append(marker);
    this.svg.append(defs);
    for (const name of graph.nodes().filter((item) => item.startsWith("layer:"))) this.drawBand(name.slice(6), graph.node(name));
    for (const edge of this.data.edges) {
      const from = edge.external ? `outside:${edge.from}` : edge.from;
      const line = make("path", { d: curve(graph.edge(from, edge.to).points), class: `edge${edge.streaming ? "" : " batch"}`, "marker-end": "url(#arrow)" });
      this.edges.push({ from: edge.from, to: edge.to, line });
      this.svg.append(line);
    }
    for (const name of graph.nodes().filter((item) => item.startsWith("outside:"))) this.drawOutside(name.slice(8), graph.node(name));
    for (const dataset of this.data.datasets) this.drawNode(dataset, graph.node(dataset.name));
    this.frame.replaceChildren(this.svg);
    for (const dataset of this.data.datasets) {
      setFitted(this.nodes.get(dataset.name).name, dataset.short_name, NODE.width - 26);
      this.show(dataset.name, null);
    }
    this.fit();
  }

  drawBand(layer, box) {
    if (!box || !box.width) return;
    const x = box.x - box.width / 2, y = box.y - box.height / 2;
    this.svg.append(make("rect", { x, y: y - HEADING, width: box.width, height: box.height + HEADING + 8, rx: 12, class: "band" }));
    this.svg.append(make("text", { x: x + 12, y: y - 5, class: "band-label" }, layer));
  }

  drawOutside(label, box) {
    const group = make("g", { class: "node outside", transform: `translate(${box.x - box.width / 2} ${box.y - box.height / 2})` });
    group.append(make("title", {}, label), make("rect", { width: box.width, height: box.height, rx: 15, class: "box" }),
      make("text", { x: box.width / 2, y: 18, "text-anchor": "middle" }, outsideLabel(label)));
    this.svg.append(group);
  }

  drawNode(dataset, box) {
    const link = make("a", { href: datasetPath(dataset.name) });
    const group = make("g", { class: `node${dataset.kind === "VIEW" ? " view" : ""}`, "data-layer": layerOf(dataset.layer), transform: `translate(${box.x - box.width / 2} ${box.y - box.height / 2})` });
    const name = make("text", { x: 16, y: 22, class: "title" });
    const parts = { title: make("title"), status: make("text", { x: 28, y: 40, class: "status" }), counts: make("text", { x: 16, y: 57, class: "counts" }),
      rules: make("text", { x: NODE.width - 12, y: 57, class: "rules", "text-anchor": "end" }),
      kind: make("text", { x: NODE.width - 12, y: 40, class: "kind", "text-anchor": "end" }) };
    group.append(parts.title, make("rect", { width: NODE.width, height: NODE.height, rx: 8, class: "box" }),
      make("rect", { width: 5, height: NODE.height - 12, y: 6, x: 4, rx: 2.5, class: "stripe" }), name,
      parts.kind, make("circle", { cx: 20, cy: 36, r: 4, class: "lamp" }), parts.status, parts.counts, parts.rules);
    link.append(group);
    for (const [event, near] of [["pointerenter", true], ["pointerleave", false], ["focus", true], ["blur", false]]) {
      link.addEventListener(event, () => this.highlight(dataset.name, near));
    }
    parts.name = name;
    this.nodes.set(dataset.name, { dataset, group, link, ...parts });
    this.svg.append(link);
  }

  highlight(name, near) {
    for (const edge of this.edges) if (edge.from === name || edge.to === name) edge.line.classList.toggle("near", near);
  }

  show(name, state) {
    const node = this.nodes.get(name);
    if (!node) return;
    const isView = node.dataset.kind === "VIEW";
    node.group.dataset.status = state?.status ?? "";
    node.status.textContent = state?.status ? words(state.status) : isView ? "view" : "not run yet";
    node.kind.textContent = state?.technique ? TECHNIQUES[state.technique] ?? words(state.technique) : isView ? "" : node.dataset.kind_label;
    const counts = [];
    if (state) {
      if (state.input !== null) counts.push(`${number(state.input)} in`);
      if (state.upserted !== null) counts.push(`${number(state.upserted)} upserted`);
      else if (state.written !== null) counts.push(`${number(state.written)} written`);
      if (state.deleted) counts.push(`${number(state.deleted)} deleted`);
      if (state.dropped) counts.push(`${number(state.dropped)} dropped`);
      if (!isView && state.seconds !== null && counts.length < 3) counts.push(seconds(state.seconds));
    }
    const failed = Object.values(state?.failed ?? {}).reduce((sum, count) => sum + count, 0);
    node.rules.textContent = failed ? `⚠ ${number(failed)}` : "";
    const shown = [...counts], room = NODE.width - 28 - (node.rules.textContent ? 48 : 0);
    do { node.counts.textContent = shown.join(" · "); } while (node.counts.getComputedTextLength() > room && shown.pop());
    node.title.textContent = `${node.dataset.name}, ${node.dataset.kind_label}: ${node.status.textContent}${state?.technique ? `, ${words(state.technique)}` : ""}${counts.length ? `, ${counts.join(", ")}` : ""}${failed ? `, ${number(failed)} rule failures` : ""}`;
  }

  zoom(scale) {
    this.scale = Math.max(0.15, Math.min(2, scale));
    this.svg.setAttribute("width", Math.round(this.width * this.scale));
    this.svg.setAttribute("height", Math.round(this.height * this.scale));
  }

  fit() {
    const room = this.frame.clientWidth - 2;
    this.zoom(room > 0 ? Math.min(1.15, Math.max(room / this.width, Math.min(0.6, 700 / this.height))) : 1);
  }
}

function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first.x} ${first.y}`;
  for (let i = 0; i < rest.length - 1; i += 1) {
    const here = rest[i], next = rest[i + 1];
    path += `Q${here.x} ${here.y} ${(here.x + next.x) / 2} ${(here.y + next.y) / 2}`;
  }
  const last = rest.at(-1);
  return `${path}L${last.x} ${last.y}`;
}
