// Draws the loss-scale panel. Python sends bars, borders and every sentence; here they are placed, moved and looked up.

import { change, freshId, html, live, makeError, power, sized, svg, typedBox } from "./shared.js";

const ZONES = ["zero", "subnormal", "normal", "overflow"];
const PLOT = { left: 60, right: 14, top: 58, height: 190, bottom: 62 };
const CARD_WIDTH = 96;

export default {
  render({ model, el }) {
    const id = freshId("mixlab-loss-scale");
    const controls = makeControls(model, id);
    const chart = makeChart(model, id);
    const words = makeWords(model);
    const root = html("div", { class: "mixlab-panel mixlab-loss-scale" }, [controls.node, chart.node, words.node]);

    const move = () => [controls, chart, words].forEach((part) => part.move());
    const redraw = () => [controls, chart, words].forEach((part) => part.redraw());
    const handlers = {
      "change:scale_exponent": move,
      "change:_refused change:_taken": controls.move,
      "change:_drawing": redraw,
      "change:format change:layer change:kind": controls.redraw,
      "change:_error": words.redraw,
    };
    const end = live(model, el, root, handlers, chart.redraw);
    redraw();
    return end;
  },
};

/** The entry for the current scale, from a list with one entry per scale. */
function atScale(model, list) {
  return list[model.get("scale_exponent") - model.get("_choices").scales[0]];
}

// Controls

function makeControls(model, id) {
  const scale = makeScale(model, id);
  const format = makeFormat(model, id);
  const layer = makeSelect(model, `${id}-layer`, "layer", "Layer", "layers");
  const kind = makeSelect(model, `${id}-kind`, "kind", "Show", "kinds");
  const choices = html("div", { class: "mixlab-ls-choices" }, [
    format.node,
    html("div", { class: "mixlab-ls-selects" }, [layer.node, kind.node]),
  ]);
  return {
    node: html("div", { class: "mixlab-ls-controls" }, [scale.node, choices]),
    move: scale.move,
    redraw: () => [scale, format, layer, kind].forEach((control) => control.redraw()),
  };
}

function makeScale(model, id) {
  const [min, max] = model.get("_choices").scales;
  const limits = { min, max, step: 1 };
  const range = html("input", { type: "range", id: `${id}-range`, ...limits });
  const box = typedBox(model, `${id}-exponent`, "scale_exponent", "k =", () => String(model.get("scale_exponent")), {
    "aria-label": "Exponent k of the loss scale", title: `${min} to ${max}`, size: 4,
  });
  const value = html("output", { class: "mixlab-ls-value", for: range.id });
  const usable = html("div", { class: "mixlab-ls-usable" });
  const label = html("label", { for: range.id }, ["Loss scale 2ᵏ"]);
  const move = () => {
    const k = model.get("scale_exponent");
    const text = atScale(model, model.get("_choices").scaleValues);
    range.value = k;
    box.redraw();
    range.setAttribute("aria-valuetext", `${power(k)} = ${text}`);
    value.textContent = `= ${text}`;
  };
  range.addEventListener("input", () => change(model, "scale_exponent", range.valueAsNumber));
  const redraw = () => {
    showUsable(usable, model.get("_drawing").window, min, max);
    move();
  };
  const track = html("div", { class: "mixlab-ls-track" }, [range, usable]);
  const entry = html("div", { class: "mixlab-ls-entry" }, [box.node, value]);
  return { node: html("div", { class: "mixlab-ls-scale" }, [label, track, entry]), move, redraw };
}

/** Lays the band of usable scales under the slider's track, as far as the slider reaches. */
function showUsable(band, window, min, max) {
  const [low, high] = window ? [Math.max(window[0], min), Math.min(window[1], max)] : [0, -1];
  band.hidden = low > high;
  const at = (k) => `calc(8px + (100% - 16px) * ${(k - min) / (max - min)})`;
  band.style.left = at(low - 0.4);
  band.style.right = `calc(100% - ${at(high + 0.4)})`;
  band.textContent = "usable";
}

function makeFormat(model, id) {
  const buttons = model.get("_choices").formats.map((name) => {
    const input = html("input", { type: "radio", name: `${id}-format`, value: name });
    input.addEventListener("change", () => change(model, "format", name));
    return html("label", {}, [input, html("span", {}, [name])]);
  });
  const redraw = () => {
    for (const { firstChild } of buttons) firstChild.checked = firstChild.value === model.get("format");
  };
  const group = { class: "mixlab-ls-formats", role: "radiogroup", "aria-label": "Format" };
  const title = html("span", { class: "mixlab-ls-title", "aria-hidden": "true" }, ["Format"]);
  return { node: html("div", group, [title, ...buttons]), redraw };
}

function makeSelect(model, id, trait, title, choices) {
  const pairs = model.get("_choices")[choices];
  const options = pairs.map(([value, label]) => html("option", { value }, [label]));
  const select = html("select", { id }, options);
  select.addEventListener("change", () => change(model, trait, select.value));
  const redraw = () => {
    select.value = model.get(trait);
    for (const option of options) option.disabled = !wasSeen(model, { [trait]: option.value });
  };
  const label = html("label", { for: id, class: "mixlab-ls-title" }, [title]);
  return { node: html("div", { class: "mixlab-ls-select" }, [label, select]), redraw };
}

function wasSeen(model, { layer = model.get("layer"), kind = model.get("kind") }) {
  return model.get("_choices").seen.some((pair) => pair[0] === layer && pair[1] === kind);
}

// Words

function makeWords(model) {
  const status = html("p", { class: "mixlab-ls-status", role: "status", "aria-live": "polite" });
  const details = html("p", { class: "mixlab-ls-details" });
  const error = makeError(model);
  const move = () => {
    status.textContent = atScale(model, model.get("_drawing").sentences);
  };
  const redraw = () => {
    move();
    details.textContent = model.get("_drawing").details;
    error.redraw();
  };
  return { node: html("div", {}, [status, details, error.node]), move, redraw };
}

// Chart

function makeChart(model, id) {
  const node = svg("svg", { role: "img", class: "mixlab-ls-chart" });
  let moving = { bars: [], outline: svg("g"), shares: [], more: [] };
  const geometry = () => makeGeometry(model.get("_drawing"), node.clientWidth || 720);
  let placed = geometry();

  const move = () => {
    const { sentences, zoneShares } = model.get("_drawing");
    const k = model.get("scale_exponent");
    node.setAttribute("aria-label", atScale(model, sentences));
    for (const path of moving.bars) path.setAttribute("transform", `translate(${k * placed.unit} 0)`);
    moving.outline.style.display = k === 0 ? "none" : "";
    atScale(model, zoneShares).forEach((share, i) => (moving.shares[i].textContent = share));
    showMore(moving.more, placed, k);
  };
  const redraw = () => {
    placed = geometry();
    sized(node, placed.width, placed.height);
    const zones = drawZones(placed, id);
    const bars = drawBars(placed, id);
    const cards = drawCards(placed);
    const more = drawMore(placed);
    node.replaceChildren(drawPatterns(placed, id), ...zones, ...bars.nodes, bars.outline, ...drawAxes(placed), ...cards.nodes, ...more);
    moving = { bars: bars.paths, outline: bars.outline, shares: cards.shares, more };
    move();
  };
  return { node, move, redraw };
}

/** Pixels: x(e) of an exponent, y(share), the zones' edges; and everything in the drawing. */
function makeGeometry(drawing, outerWidth) {
  const width = Math.max(outerWidth, 420);
  const height = PLOT.top + PLOT.height + PLOT.bottom;
  const [low, high] = drawing.domain;
  const unit = (width - PLOT.left - PLOT.right) / (high - low);
  const top = Math.max(0.01, ...drawing.bars.map((bar) => bar[1]));
  const x = (e) => PLOT.left + (e - low) * unit;
  const y = (share) => PLOT.top + PLOT.height * (1 - (0.94 * share) / top);
  const edges = [low, ...drawing.borders, high].map(x);
  return { ...drawing, width, height, unit, x, y, edges, foot: PLOT.top + PLOT.height };
}

function drawPatterns({ edges }, id) {
  const pattern = (zone, size, path, turn = 0) =>
    svg("pattern", { id: `${id}-${zone}`, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${turn})` }, [
      svg("path", { d: path, class: `mixlab-ls-hatch mixlab-ls-${zone}` }),
    ]);
  const clips = ZONES.map((zone, i) =>
    svg("clipPath", { id: `${id}-clip-${zone}` }, [
      svg("rect", { x: edges[i], y: PLOT.top, width: edges[i + 1] - edges[i], height: PLOT.height }),
    ]),
  );
  return svg("defs", {}, [
    pattern("zero", 8, "M0 0V8", 45),
    pattern("subnormal", 8, "M2 4h1"),
    pattern("overflow", 8, "M0 0V8M0 0H8", 45),
    ...clips,
  ]);
}

function drawZones({ edges, foot }, id) {
  return ZONES.flatMap((zone, i) => {
    const area = { x: edges[i], y: PLOT.top, width: edges[i + 1] - edges[i], height: foot - PLOT.top };
    const tint = svg("rect", { ...area, class: `mixlab-ls-tint mixlab-ls-${zone}` });
    return zone === "normal" ? [tint] : [tint, svg("rect", { ...area, fill: `url(#${id}-${zone})` })];
  });
}

/** The same bars once for each zone, clipped to it; and their outline, placed as without a scale. */
function drawBars(placed, id) {
  const { bars, x, y, unit, foot, edges } = placed;
  const gap = unit > 5 ? 1 : 0;
  const top = (share) => Math.min(y(share), foot - 2);
  const full = bars.filter((bar) => bar[1] > 0);
  const d = full.map(([e, share]) => `M${x(e) + gap / 2} ${foot}V${top(share)}h${unit - gap}V${foot}z`).join("");
  const paths = ZONES.map((zone) => svg("path", { d, class: `mixlab-ls-bars mixlab-ls-${zone}` }));
  const nodes = paths.map((path, i) => svg("g", { "clip-path": `url(#${id}-clip-${ZONES[i]})` }, [path]));
  const steps = bars.map(([e, share]) => `L${x(e)} ${share ? top(share) : foot}h${unit}`).join("");
  const outline = svg("g", {}, bars.length ? [svg("path", { d: `M${x(bars[0][0])} ${foot}${steps}V${foot}`, class: "mixlab-ls-outline" })] : []);
  if (bars.length) outline.append(drawOutlineName(placed, edges));
  return { nodes, paths, outline };
}

function drawOutlineName({ bars, x, y, unit, width }) {
  const [e, share] = bars.reduce((best, bar) => (bar[1] > best[1] ? bar : best));
  const middle = Math.min(Math.max(x(e) + unit / 2, PLOT.left + 34), width - PLOT.right - 34);
  return svg("text", { x: middle, y: y(share) - 4, class: "mixlab-ls-faint", "text-anchor": "middle" }, ["scale 1"]);
}

function drawAxes(placed) {
  const { x, y, foot, width, xTicks, yTicks, xTitle, yTitle, borders, borderLabels } = placed;
  const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: `mixlab-ls-${kind}` });
  const text = (at, height, words, anchor, kind = "tick") =>
    svg("text", { x: at, y: height, "text-anchor": anchor, class: `mixlab-ls-${kind}` }, [words]);
  const middle = PLOT.top + PLOT.height / 2;
  const title = text(0, 0, yTitle, "middle", "axis");
  title.setAttribute("transform", `translate(11 ${middle}) rotate(-90)`);
  return [
    ...yTicks.flatMap(([share, label]) => [line(PLOT.left, y(share), width - PLOT.right, y(share), "grid"), text(PLOT.left - 5, y(share) + 4, label, "end")]),
    ...xTicks.filter(([e]) => borders.every((border) => Math.abs(x(e) - x(border)) > 20)).map(([e, label]) => text(x(e), foot + 15, label, "middle")),
    ...borders.map((border) => line(x(border), PLOT.top, x(border), foot + 22, "border")),
    ...borders.map((border, i) => text(x(border) + (i === 0 ? 3 : -3), foot + 34, borderLabels[i], i === 0 ? "end" : "start", "limit")),
    line(PLOT.left, foot, width - PLOT.right, foot, "base"),
    text((PLOT.left + width - PLOT.right) / 2, foot + 54, xTitle, "middle", "axis"),
    title,
  ];
}

/** Each zone's name and share above it, pushed apart where zones are narrow, with a line down to the zone. */
function drawCards({ edges, width, zoneNames }) {
  const centers = edges.slice(1).map((right, i) => (edges[i] + right) / 2);
  const spread = pushedApart(centers, CARD_WIDTH, PLOT.left + CARD_WIDTH / 2 - 30, width - CARD_WIDTH / 2);
  const shares = zoneNames.map((_, i) => svg("text", { x: spread[i], y: 36, class: "mixlab-ls-share", "text-anchor": "middle" }));
  const nodes = zoneNames.flatMap((name, i) => [
    svg("text", { x: spread[i], y: 15, class: "mixlab-ls-name", "text-anchor": "middle" }, [name]),
    svg("path", { d: `M${spread[i] - 30} 43h60`, class: `mixlab-ls-key mixlab-ls-${ZONES[i]}` }),
    svg("path", { d: `M${spread[i]} 43L${centers[i]} ${PLOT.top}`, class: "mixlab-ls-leader" }),
    shares[i],
  ]);
  return { nodes, shares };
}

function pushedApart(centers, distance, min, max) {
  const spread = [...centers];
  spread.forEach((_, i) => (spread[i] = Math.max(spread[i], i ? spread[i - 1] + distance : min)));
  for (let i = spread.length - 1; i >= 0; i--) {
    spread[i] = Math.min(spread[i], i < spread.length - 1 ? spread[i + 1] - distance : max);
  }
  return spread;
}

function drawMore({ width, foot }) {
  const arrow = (x, words, anchor) => svg("text", { x, y: foot - 6, "text-anchor": anchor, class: "mixlab-ls-more" }, [words]);
  return [arrow(PLOT.left + 4, "◀ more", "start"), arrow(width - PLOT.right - 4, "more ▶", "end")];
}

/** Shows at the chart's sides whether bars lie beyond them. */
function showMore([left, right], { bars, domain }, k) {
  left.style.display = bars.some(([e, share]) => share && e + k < domain[0]) ? "" : "none";
  right.style.display = bars.some(([e, share]) => share && e + k >= domain[1]) ? "" : "none";
}
