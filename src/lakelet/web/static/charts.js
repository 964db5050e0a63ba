// Charts: uPlot draws what the page's data blocks hold, in the colours of the theme.
const drawn = new Map();

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

// 24 hours, UTC, and the day where it begins or where ticks are days.
function times(_, ticks) {
  const isDaily = ticks.length > 1 && ticks[1] - ticks[0] >= 86400;
  const isFine = ticks.length > 1 && ticks[1] - ticks[0] < 60;
  return ticks.map((tick, i) => {
    const text = new Date(tick * 1000).toISOString();
    if (isDaily) return text.slice(5, 10);
    const time = text.slice(11, isFine ? 19 : 16);
    return i === 0 || time.startsWith("00:00") ? `${time}\n${text.slice(5, 10)}` : time;
  });
}

// Room for the first and the last bar.
function padded(_, low, high) {
  const room = low === high ? 60 : (high - low) / 40;
  return [low - room, high + room];
}

function options(data, width) {
  const ink = token("--ink-soft"), line = token("--line");
  const colours = [token("--accent"), token("--gold"), token("--bad"), token("--ok"), token("--bronze"), token("--silver"), token("--run")];
  const isTime = data.kind !== "category";
  const scales = [...new Set(data.series.map((series) => series.scale ?? "y"))];
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
  return {
    width, height: data.height ?? 200, cursor: { drag: { x: false, y: false } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    legend: { live: false }, scales: { x: { time: isTime, range: padded }, ...Object.fromEntries(scales.map((scale) => [scale, { range: (_, low, high) => [Math.min(0, low), (high || 1) * 1.08] }])) },
    axes: [isTime ? { ...axis, values: times, space: 70 } : { ...axis, values: (_, ticks) => ticks.map((tick) => data.labels[tick] ?? ""), splits: () => data.labels.map((_, i) => i) },
      ...scales.map((scale, i) => ({ ...axis, scale, side: i === 0 ? 3 : 1, size: 56, values: (_, ticks) => ticks.map((tick) => compact.format(tick)), grid: { show: i === 0, stroke: line, width: 1 } }))],
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
