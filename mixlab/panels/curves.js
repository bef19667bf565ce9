// Small charts of several runs. The model lists the charts, and holds short columns of numbers for each run; this script
// only draws. A chart is {column, title, and any of
//   x: the column on the horizontal axis, by default "step"; xTitle names any other, and all runs share its extent
//   format, xFormat: how numbers are written, by name in FORMATS
//   thin: a second column, drawn thin; ticks: a column of places to mark at the bottom
//   line: a value to draw a line at
//   range, floor, fromZero, whole: what the axis spans; sparse: nulls do not lift the pen; stairs: drawn as steps
//   lacks: the chart is left out while no run has any other value than this one
//   note: whether the curve ends in a cross if the run has a note; the note itself stands in the legend}.

import { html, power, svg } from "./shared.js";

const HEIGHT = 165;
const GAP = 16;
const TWO_COLUMNS = 560; // the narrowest place, in pixels, for two charts side by side
const MARGIN = { left: 58, right: 10, top: 26, bottom: 26 };

function short(value) {
  return Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.01)
    ? value.toExponential(1)
    : String(Number(value.toPrecision(3)));
}

function percent(value) {
  return `${Number((100 * value).toPrecision(2))} %`;
}

const FORMATS = {
  short,
  percent,
  power,
};

/** Appends an element of SVG, and returns it. */
function add(parent, name, attributes, text = "") {
  const node = svg(name, attributes, [text]);
  parent.append(node);
  return node;
}

function extent(values, chart) {
  if (chart.range) return chart.range;
  let low = chart.floor ? chart.floor[0] : Math.min(...values);
  let high = Math.max(...values, chart.floor ? chart.floor[1] : -Infinity);
  if (!Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  if (chart.line !== undefined) [low, high] = [Math.min(low, chart.line), Math.max(high, chart.line)];
  if (chart.whole) return [Math.floor(low) - 1, Math.ceil(high) + 1];
  if (chart.fromZero) low = Math.min(0, low);
  return high > low ? [low, high] : [low, low + 1];
}

function ticks([low, high], whole) {
  const values = [0, 1, 2].map((i) => low + (i * (high - low)) / 2);
  return whole ? [...new Set(values.map(Math.round))] : values;
}

function across(chart, runs, lastStep) {
  if (!chart.x) return [0, Math.max(lastStep, 1)];
  const places = runs.flatMap((run) => run[chart.x]);
  return places.length ? [Math.min(...places), Math.max(...places, Math.min(...places) + 1)] : [0, 1];
}

function drawChart(parent, chart, runs, lastStep, width) {
  const picture = add(parent, "svg", { width, height: HEIGHT, class: "mixlab-chart", "aria-hidden": "true" });
  const values = runs.flatMap((run) => [...run[chart.column], ...(chart.thin ? run[chart.thin] : [])])
    .filter((value) => value !== null);
  const [range, domain] = [extent(values, chart), across(chart, runs, lastStep)];
  const x = (place) =>
    MARGIN.left + ((place - domain[0]) / (domain[1] - domain[0])) * (width - MARGIN.left - MARGIN.right);
  const y = (value) =>
    HEIGHT - MARGIN.bottom - ((value - range[0]) / (range[1] - range[0])) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  add(picture, "text", { x: 0, y: 15, class: "mixlab-title" }, chart.title);
  for (const value of ticks(range, chart.whole)) {
    add(picture, "line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value), class: "mixlab-grid" });
    add(picture, "text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, FORMATS[chart.format](value));
  }
  for (const [place, anchor] of [[domain[0], "start"], [domain[1], "end"]]) {
    const words = chart.x ? FORMATS[chart.xFormat](place) : place ? `step ${place}` : "0";
    add(picture, "text", { x: x(place), y: HEIGHT - 8, "text-anchor": anchor }, words);
  }
  if (chart.xTitle) add(picture, "text", { x: x((domain[0] + domain[1]) / 2), y: HEIGHT - 8, "text-anchor": "middle" }, chart.xTitle);
  if (!values.length) {
    add(picture, "text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing to show yet");
  }
  if (chart.line !== undefined) {
    add(picture, "line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(chart.line), y2: y(chart.line), class: "mixlab-rule" });
  }
  for (const run of runs) drawRun(picture, chart, run, x, y);
}

function pointsOf(run, column, chart) {
  return run[chart.x ?? "step"].map((place, i) => [place, run[column][i]])
    .filter(([, value]) => !chart.sparse || value !== null);
}

// A null lifts the pen.
function pathOf(points, x, y, stairs) {
  let path = "";
  let pen = "M";
  for (const [place, value] of points) {
    if (value !== null) {
      const [px, py] = [x(place).toFixed(1), y(value).toFixed(1)];
      path += stairs && pen === "L" ? `H${px}V${py}` : `${pen}${px} ${py}`;
    }
    pen = value === null ? "M" : "L";
  }
  return path;
}

function drawRun(picture, chart, run, x, y) {
  const points = pointsOf(run, chart.column, chart);
  const style = { fill: "none", stroke: run.color, "stroke-dasharray": run.dash };
  add(picture, "path", { d: pathOf(points, x, y, chart.stairs), "stroke-width": 2, ...style });
  if (chart.thin) {
    add(picture, "path", { d: pathOf(pointsOf(run, chart.thin, chart), x, y, chart.stairs), "stroke-width": 1, ...style });
  }
  const last = points.findLast(([, value]) => value !== null);
  if (last && !chart.x) add(picture, "circle", { cx: x(last[0]), cy: y(last[1]), r: 3, fill: run.color });
  if (chart.note && run.note) drawEnd(picture, run, last, x, y);
  for (const place of chart.ticks ? run[chart.ticks] : []) {
    add(picture, "line", {
      x1: x(place), x2: x(place), y1: HEIGHT - MARGIN.bottom, y2: HEIGHT - MARGIN.bottom - 10, stroke: run.color,
    });
  }
}

// Where the loss stopped being a number, the curve ends in a cross.
function drawEnd(picture, run, last, x, y) {
  const [px, py] = last ? [x(last[0]), y(last[1])] : [x(0), HEIGHT / 2];
  add(picture, "path", { d: `M${px - 6} ${py - 6}l12 12m0 -12l-12 12`, stroke: run.color, "stroke-width": 3 });
}

function drawLegend(parent, runs) {
  const list = html("ul", { class: "mixlab-legend" });
  for (const run of runs) {
    const item = html("li");
    const picture = add(item, "svg", { viewBox: "0 0 40 8", width: 40, height: 8, "aria-hidden": "true" });
    add(picture, "line", { x1: 0, x2: 40, y1: 4, y2: 4, stroke: run.color, "stroke-width": 3, "stroke-dasharray": run.dash });
    item.append(html("span", {}, [` ${run.label}`, ...(run.note ? [": ", html("b", {}, [`✕ ${run.note}`])] : [])]));
    list.append(item);
  }
  parent.append(list);
}

function hasSomething(chart, runs) {
  return chart.lacks === undefined || runs.some((run) => run[chart.column].some((value) => value !== null && value !== chart.lacks));
}

function draw(root, model, width) {
  const live = model.get("live");
  const runs = [...model.get("finished"), ...(live.step ? [live] : [])].filter((run) => run.step.length);
  const lastStep = Math.max(1, ...runs.map((run) => run.step.at(-1)));
  root.replaceChildren();
  root.setAttribute("aria-label", `${model.get("heading")}. ${model.get("summary")}`);
  drawLegend(root, runs);
  const grid = html("div", { class: "mixlab-charts" });
  const columns = width >= TWO_COLUMNS ? 2 : 1;
  const chartWidth = Math.floor((width - GAP * (columns - 1)) / columns);
  grid.style.gridTemplateColumns = `repeat(${columns}, ${chartWidth}px)`;
  const shown = model.get("charts").filter((chart) => hasSomething(chart, runs));
  for (const chart of shown) drawChart(grid, chart, runs, lastStep, chartWidth);
  root.append(grid);
}

export default {
  render({ model, el }) {
    const root = html("div", { class: "mixlab-curves", role: "img" });
    el.append(root);
    // As last observed. Measured while drawing, it may belong to a layout that never shows, as when the theme changes.
    let width = 0;
    let asked = false;
    const redraw = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        if (width) draw(root, model, width); // 0: not on the page yet, or hidden
      });
    };
    const resized = new ResizeObserver(([entry]) => {
      width = entry.contentRect.width;
      redraw();
    });
    resized.observe(root);
    model.on("change", redraw);
    return () => {
      model.off("change", redraw);
      resized.disconnect();
    };
  },
};
