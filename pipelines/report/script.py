"""The page's own script: draws the figures in the colours of the theme, switches their x axis, links tree and list.

A figure is `{id, height, traces, layout, axes}`. Where a trace has `along` (axis -> x values) in place of `x`, `axes`
names the axes, and the choice made on the page decides. Colours are names of CSS variables, resolved when drawing.
"""

JS = r"""
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const chosen = () => document.querySelector(".axis input:checked")?.value;
// Only parts that are there: plotly stumbles over one that is undefined.
const painted = (trace, part) => trace[part] && {[part]: {...trace[part], color: colour(trace[part].color)}};

function axis(own, title) {
  const base = {gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
                automargin: true, fixedrange: true, tickfont: {size: 12}};
  return {...base, ...own, title: {text: title ?? own?.title ?? "", standoff: 8, font: {size: 12.5}}};
}

function draw(figure) {
  const along = chosen();
  const traces = figure.traces.map(({along: xs, ...trace}) => ({
    ...trace, x: xs ? xs[along] : trace.x, ...painted(trace, "line"), ...painted(trace, "marker")}));
  const layout = {
    ...figure.layout, height: figure.height, margin: {l: 8, r: 10, t: 10, b: 8},
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: {family: "system-ui, sans-serif", color: colour("--soft")},
    hoverlabel: {bgcolor: colour("--card"), bordercolor: colour("--line"),
                 font: {color: colour("--text"), size: 13}, align: "left", namelength: -1},
    ...(figure.hover ? {hovermode: figure.hover} : {}),
    xaxis: axis({...figure.layout.xaxis, ...(figure.axes ? {dtick: null, ...figure.axes[along]} : {})}),
    yaxis: axis(figure.layout.yaxis),
  };
  Plotly.react(figure.id, traces, layout, {responsive: true, displayModeBar: false});
}

const drawAll = () => figures.forEach(draw);
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.querySelectorAll(".axis input").forEach(input =>
  input.addEventListener("change", () => figures.filter(figure => figure.axes).forEach(draw)));

document.querySelectorAll("[data-kind]").forEach(element => {
  const same = document.querySelectorAll(`[data-kind="${element.dataset.kind}"]`);
  const mark = on => same.forEach(other => other.classList.toggle("on", on));
  for (const event of ["mouseenter", "focus"]) element.addEventListener(event, () => mark(true));
  for (const event of ["mouseleave", "blur"]) element.addEventListener(event, () => mark(false));
});
"""
