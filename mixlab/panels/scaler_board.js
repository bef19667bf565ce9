// Draws the scaler board. Python sends levels, marks and every sentence; here they are placed under the steps' buttons.

import { change, freshId, html, live, makeError, oneTabStop, sized, svg, typedBox } from "./shared.js";

const LEFT = 44; // of the first step; the buttons above the chart and the chart's columns share both
const RIGHT = 26;
const TOP = 22;
const LANE = { head: 24, plot: 62, gap: 12 };
const GLYPHS = { fell: "▼", kept: "○", grew: "▲", end: "✕" };

export default {
  render({ model, el }) {
    const id = freshId("mixlab-scaler-board");
    const controls = makeControls(model, id);
    const steps = makeSteps(model, id);
    const chart = makeChart(model);
    const words = makeWords(model);
    const parts = [controls, steps, chart, words];
    const root = html("div", { class: "mixlab-panel mixlab-scaler-board" }, [controls.node, steps.node, chart.node, words.node]);

    const redraw = () => parts.forEach((part) => part.redraw());
    const traits = ["overflows", "init_exponent", "growth_interval", "hysteresis", "consecutive_hysteresis", "_drawing", "_error", "_refused", "_taken"];
    const events = traits.map((name) => `change:${name}`).join(" ");
    const end = live(model, el, root, { [events]: redraw }, chart.redraw);
    redraw();
    return end;
  },
};

// Controls

function makeControls(model, id) {
  const makeBox = (name, words, title) => typedBox(model, `${id}-${name}`, name, words, () => String(model.get(name)), { title, size: 5 });
  const boxes = [
    makeBox("init_exponent", "Start at 2ᵏ, k =", "k of the scale 2ᵏ before the first step"),
    makeBox("growth_interval", "Growth interval", "clean steps before the scale grows"),
    makeBox("hysteresis", "Hysteresis (Megatron, DeepSpeed)", "the number of overflows at which Megatron and DeepSpeed first lower their scale"),
  ];
  const check = html("input", { type: "checkbox", id: `${id}-consecutive` });
  check.addEventListener("change", () => change(model, "consecutive_hysteresis", check.checked));
  const consecutive = html("label", { for: check.id, class: "mixlab-sb-check", title: "every clean step restores DeepSpeed's hysteresis" }, [
    check, "DeepSpeed: consecutive hysteresis",
  ]);
  const presets = model.get("_choices").presets.map(([name, overflows]) => {
    const button = html("button", { type: "button", class: "mixlab-sb-preset" }, [name]);
    button.addEventListener("click", () => change(model, "overflows", overflows));
    return button;
  });
  const group = { class: "mixlab-sb-line mixlab-sb-presets", role: "group", "aria-label": "Overflows" };
  const node = html("div", {}, [
    html("div", { class: "mixlab-sb-line", role: "group", "aria-label": "Scalers" }, [...boxes.map((box) => box.node), consecutive]),
    html("div", group, [html("span", { class: "mixlab-sb-title", "aria-hidden": "true" }, ["Overflows"]), ...presets]),
  ]);
  const redraw = () => {
    boxes.forEach((box) => box.redraw());
    check.checked = model.get("consecutive_hysteresis");
    presets.forEach((button, i) => button.setAttribute("aria-pressed", same(model.get("_choices").presets[i][1], model.get("overflows"))));
  };
  return { node, redraw };
}

function same(some, others) {
  return some.length === others.length && some.every((step, i) => step === others[i]);
}

// Steps

function makeSteps(model, id) {
  const hint = html("p", { class: "mixlab-sb-hint", id: `${id}-hint` }, [
    "Click the steps that overflow; or move to them with ← → Home End, and press Space or Enter.",
  ]);
  const count = model.get("_drawing").steps;
  const buttons = Array.from({ length: count }, (_, step) => {
    const button = html("button", { type: "button", class: "mixlab-sb-step", "aria-label": `step ${step}`, title: `step ${step}` });
    button.addEventListener("click", () => (toggle(model, step), goTo(step)));
    return button;
  });
  const goTo = oneTabStop(buttons);
  const row = html("div", { class: "mixlab-sb-steps", role: "group", "aria-label": "Steps that overflow", "aria-describedby": hint.id }, buttons);
  row.style.gridTemplateColumns = `repeat(${count}, minmax(0, 1fr))`;
  row.style.margin = `0 ${RIGHT}px 0 ${LEFT}px`;
  const redraw = () => {
    const overflows = new Set(model.get("overflows"));
    buttons.forEach((button, step) => {
      button.setAttribute("aria-pressed", overflows.has(step));
      button.textContent = overflows.has(step) ? "×" : "";
    });
  };
  return { node: html("div", {}, [hint, row]), redraw };
}

function toggle(model, step) {
  const others = model.get("overflows").filter((other) => other !== step);
  const without = others.length < model.get("overflows").length;
  change(model, "overflows", without ? others : [...others, step].sort((a, b) => a - b));
}

// Words

function makeWords(model) {
  const legend = html("p", { class: "mixlab-sb-legend" });
  const status = html("p", { class: "mixlab-sb-status", role: "status", "aria-live": "polite" });
  const error = makeError(model);
  const redraw = () => {
    const { legend: kinds, sentence } = model.get("_drawing");
    legend.replaceChildren(...Object.entries(kinds).map(([kind, words]) => html("span", {}, [html("b", {}, [GLYPHS[kind]]), ` ${words}`])));
    if (status.textContent !== sentence) status.textContent = sentence;
    error.redraw();
  };
  return { node: html("div", {}, [legend, status, error.node]), redraw };
}

// Chart

function makeChart(model) {
  const node = svg("svg", { role: "img", class: "mixlab-sb-chart" });
  const redraw = () => {
    const drawing = model.get("_drawing");
    const width = Math.max(node.parentNode?.clientWidth - 16 || 700, 320);
    const height = TOP + drawing.lanes.length * (LANE.head + LANE.plot + LANE.gap) + 8;
    const unit = (width - LEFT - RIGHT) / drawing.steps;
    const x = (step) => LEFT + step * unit;
    sized(node, width, height);
    node.setAttribute("aria-label", drawing.sentence);
    const tints = drawing.overflows.map((step) => svg("rect", { x: x(step), y: 0, width: unit, height, class: "mixlab-sb-tint" }));
    const lanes = drawing.lanes.map((lane, i) => drawLane(drawing, lane, x, TOP + i * (LANE.head + LANE.plot + LANE.gap)));
    node.replaceChildren(...tints, ...drawSteps(drawing.steps, x), ...lanes);
  };
  return { node, redraw };
}

function drawSteps(steps, x) {
  const every = Array.from({ length: Math.ceil(steps / 5) }, (_, i) => 5 * i);
  return [
    svg("text", { x: LEFT - 8, y: 14, "text-anchor": "end", class: "mixlab-sb-tick" }, ["step"]),
    ...every.map((step) => svg("text", { x: x(step + 0.5), y: 14, "text-anchor": "middle", class: "mixlab-sb-tick" }, [step])),
  ];
}

function drawLane({ domain: [low, high], ticks, steps }, { name, color, levels, marks, ending, gaveUp }, x, top) {
  const floor = top + LANE.head + LANE.plot;
  const y = (level) => floor - 4 - ((level - low) / (high - low)) * (LANE.plot - 8);
  const end = x(steps) + 12;
  const text = (attributes, words) => svg("text", attributes, [words]);
  const grid = ticks.flatMap(([level, label]) => [
    svg("path", { d: `M${LEFT} ${y(level)}H${end}`, class: "mixlab-sb-grid" }),
    text({ x: LEFT - 6, y: y(level) + 4, "text-anchor": "end", class: "mixlab-sb-tick" }, label),
  ]);
  const heading = svg("text", { x: LEFT, y: top + 14, class: "mixlab-sb-heading" }, [
    svg("tspan", { class: "mixlab-sb-name" }, [name]),
    svg("tspan", { dx: 8, class: gaveUp ? "mixlab-sb-gave-up" : "" }, [ending]),
  ]);
  const swatch = svg("rect", { x: LEFT - 16, y: top + 4, width: 10, height: 10, fill: color });
  const line = svg("path", { d: linePath(levels, x, y, gaveUp ? null : end), stroke: color, class: "mixlab-sb-line-of-scale" });
  const signs = marks.map(([step, kind]) => drawMark(kind, step, levels, x, y, color));
  return svg("g", {}, [swatch, heading, ...grid, line, ...signs]);
}

/** A step line: flat during each step, up or down at its end; after the last step it goes on to `end`. */
function linePath(levels, x, y, end) {
  let d = "";
  levels.forEach((level, step) => {
    if (level === null) return;
    const last = step === levels.length - 1;
    const gap = step === 0 || levels[step - 1] === null;
    d += `${gap ? "M" : "L"}${x(step)} ${y(level)}H${last && end ? end : x(step + 1)}`;
  });
  return d;
}

/** A policy's reaction: in the middle of the step if the scale stays, at its end if it moves. */
function drawMark(kind, step, levels, x, y, color) {
  const moves = kind === "fell" || kind === "grew";
  const level = moves ? levels[step + 1] : levels[step];
  if (level === null) return svg("g");
  const at = `translate(${x(step + (moves ? 1 : 0.5))} ${moves ? (y(levels[step] ?? level) + y(level)) / 2 : y(level)})`;
  const shapes = { fell: "M-5 -4H5L0 5Z", grew: "M-5 4H5L0 -5Z", kept: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", end: "M-6 -6L6 6M-6 6L6 -6" };
  return svg("path", { d: shapes[kind], transform: at, fill: color, stroke: color, class: `mixlab-sb-mark mixlab-sb-${kind}` });
}
