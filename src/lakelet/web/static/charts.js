// Charts: uPlot draws what the page's data blocks hold, in the colours of the theme.
const drawn = new Map();

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options(data, width) {
  const ink = token("--ink-soft"), line = token("--line");
  const colours = [token("--accent"), token("--gold"), token("--bad"), token("--ok"), token("--bronze"), token("--silver"), token("--run")];
  const isTime = data.kind !== "category";
  const scales = [...new Set(data.series.map((series) => series.scale ?? "y"))];
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
  return {
    width, height: data.height ?? 200, cursor: { drag: { x: false, y: false } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    scales: { x: { time: isTime } },
    axes: [isTime ? axis : { ...axis, values: (_, ticks) => ticks.map((tick) => data.labels[tick] ?? ""), splits: () => data.labels.map((_, i) => i) },
      ...scales.map((scale, i) => ({ ...axis, scale, side: i === 0 ? 3 : 1, size: 64, grid: { show: i === 0, stroke: line, width: 1 } }))],
    series: [{ label: isTime ? "UTC" : "", value: isTime ? undefined : (_, i) => data.labels[i] ?? "" },
      ...data.series.map((series, i) => ({ label: series.label, scale: series.scale ?? "y", stroke: colours[i % colours.length], width: 2,
        fill: series.bars ? `${colours[i % colours.length]}55` : undefined, points: { size: 5, show: data.x.length < 60 },
        paths: series.bars ? uPlot.paths.bars({ size: [0.7, 40] }) : undefined, spanGaps: true }))],
  };
}

function draw(element) {
  const block = document.getElementById(element.dataset.chart);
  if (!block) return;
  const data = JSON.parse(block.textContent);
  drawn.get(element)?.destroy();
  const x = data.kind === "category" ? data.labels.map((_, i) => i) : data.x.map((at) => Date.parse(at) / 1000);
  if (!x.length) return;
  data.x ??= x;
  drawn.set(element, new uPlot(options(data, element.clientWidth), [x, ...data.series.map((series) => series.values)], element));
}

function drawAll() {
  for (const [element, chart] of drawn) if (!element.isConnected) { chart.destroy(); drawn.delete(element); }
  document.querySelectorAll("[data-chart]").forEach(draw);
}
addEventListener("load", drawAll);
if (document.readyState === "complete") drawAll();
document.addEventListener("refreshed", drawAll);
document.addEventListener("themed", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let resizing = null;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 150); });
