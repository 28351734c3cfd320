"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const isDark = matchMedia("(prefers-color-scheme: dark)");
const PALETTES = { // each at least 3 to 1 against its paper
  light: ["#1d4ed8", "#b45309", "#047857", "#dc2626", "#7c3aed", "#0e7490", "#be185d", "#4d7c0f"],
  dark: ["#60a5fa", "#fbbf24", "#34d399", "#f87171", "#c084fc", "#22d3ee", "#f472b6", "#a3e635"],
};
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "star"];
const PATTERNS = ["", "/", ".", "\\", "x", "-", "+", "|"];

function dressed(trace) {
  const palette = PALETTES[isDark.matches ? "dark" : "light"];
  const { colour = 0, dash = 0, symbol = 0 } = trace.meta ?? {};
  const color = palette[colour % palette.length];
  const paper = getComputedStyle(document.documentElement).getPropertyValue("--card").trim();
  return trace.type === "bar"
    ? { ...trace, marker: { color, line: { color: paper, width: 1 }, pattern: { shape: PATTERNS[colour % PATTERNS.length], fgcolor: paper, fillmode: "overlay", size: 6, solidity: 0.25 } } }
    : { ...trace, line: { ...trace.line, color, dash: DASHES[dash % DASHES.length], width: 1.8 }, marker: { color, size: 9, symbol: SYMBOLS[symbol % SYMBOLS.length] } };
}

function draw(id) {
  const { data: traces, layout } = data.figures[id];
  const style = getComputedStyle(document.documentElement);
  const [ink, line, card] = ["--ink", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zeroline: false, linecolor: line, automargin: true, exponentformat: "e" };
  const hasLegend = traces.some((trace) => trace.showlegend ?? traces.length > 1);
  const titled = (own) => ({ ...own, ...axis, title: { standoff: 8, font: { size: 13 }, ...own?.title } });
  Plotly.react(id, traces.map(dressed), {
    ...layout, showlegend: hasLegend, template: {}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 13, family: "system-ui, sans-serif" }, margin: { l: 48, r: 12, t: 8, b: 36 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left", traceorder: "normal" },
    hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink } },
    xaxis: titled(layout.xaxis), yaxis: titled(layout.yaxis),
  }, { displayModeBar: false, responsive: true });
  if (layout.height) byId(id).style.height = `${layout.height}px`;
  byId(id).dataset.drawn = "yes";
}

// a figure is drawn when it comes near, and again when it is to be dark or light
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    watcher.unobserve(entry.target);
    draw(entry.target.id);
  }
}, { rootMargin: "400px" });
for (const id of Object.keys(data.figures)) watcher.observe(byId(id));
isDark.addEventListener("change", () => Object.keys(data.figures).filter((id) => byId(id).dataset.drawn).forEach(draw));
addEventListener("beforeprint", () => Object.keys(data.figures).forEach(draw));
