// Draws the scaling game. Python plays and sends what may be seen: the steps so far, and every sentence.

import { filled, freshId, html, live, makeError, svg } from "./shared.js";

const PLOT = { left: 48, right: 74, top: 12, height: 250, bottom: 40 };
const MOVES = [
  { move: "halve", sign: "÷2", key: "↓" },
  { move: "keep", sign: "keep", key: "Space" },
  { move: "double", sign: "×2", key: "↑" },
];
const KEYS = { ArrowDown: "halve", ArrowRight: "keep", " ": "keep", ArrowUp: "double" };
const LEGEND = [
  ["good", "usable, and a good step"],
  ["skipped", "too large: overflow, the step is skipped"],
  ["underflowed", "too small: small gradients underflow"],
];
const SHAPES = {
  good: "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",
  skipped: "M-4.5 -4.5L4.5 4.5M-4.5 4.5L4.5 -4.5",
  underflowed: "M-5 -4H5L0 5Z",
};

export default {
  render({ model, el }) {
    const id = freshId("mixlab-scaling-game");
    const field = makeField(model, id);
    const parts = [makeWords(model), field, makeMoves(model, field), makeTable(model), makeError(model)];
    const root = html("div", { class: "mixlab-panel mixlab-scaling-game" }, parts.map((part) => part.node));
    root.addEventListener("keydown", (event) => playKey(model, event, field));
    const redraw = () => parts.forEach((part) => part.redraw());
    const end = live(model, el, root, { "change:_drawing change:_error": redraw }, field.redraw);
    redraw();
    return end;
  },
};

/** Arrow keys play wherever the focus is; Space presses a focused button. A key held down is one move. */
function playKey(model, event, field) {
  const move = KEYS[event.key];
  const combined = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
  if (!move || combined || (event.key === " " && event.target !== field.node)) return;
  event.preventDefault();
  if (!event.repeat && move in model.get("_drawing").choices) model.send({ move });
}

// Words and buttons

function makeWords(model) {
  const score = html("strong", { class: "mixlab-sg-score" });
  const news = html("span");
  const node = html("p", { class: "mixlab-sg-status", role: "status", "aria-live": "polite", "aria-atomic": "true" }, [score, " ", news]);
  const redraw = () => {
    const drawing = model.get("_drawing");
    score.textContent = drawing.score;
    news.textContent = drawing.news;
  };
  return { node, redraw };
}

function makeMoves(model, field) {
  const buttons = MOVES.map(({ move, sign, key }) => {
    const to = html("span", { class: "mixlab-sg-to" });
    const button = html("button", { type: "button", class: "mixlab-sg-move" }, [
      html("b", {}, [sign]), to, html("kbd", { "aria-hidden": "true" }, [key]),
    ]);
    button.addEventListener("click", (event) => {
      model.send({ move });
      if (event.detail) field.node.focus({ preventScroll: true }); // after the mouse, Space means keep
    });
    return { move, button, to };
  });
  const again = html("button", { type: "button", class: "mixlab-sg-again" }, ["New game"]);
  again.addEventListener("click", () => {
    model.send({ restart: true });
    field.node.focus({ preventScroll: true });
  });
  const redraw = () => {
    const { choices } = model.get("_drawing");
    const lost = buttons.some(({ button }) => button === document.activeElement);
    for (const { move, button, to } of buttons) {
      button.disabled = !(move in choices);
      to.textContent = choices[move] ? `→ ${choices[move]}` : "";
    }
    if (lost && document.activeElement?.disabled !== false) again.focus({ preventScroll: true });
  };
  return { node: html("div", { class: "mixlab-sg-moves" }, [...buttons.map(({ button }) => button), again]), redraw };
}

function makeTable(model) {
  const names = ["", "lost", "skipped", "underflowed", "good", ""].map((name) => html("th", name ? { scope: "col" } : { "aria-hidden": "true" }, [name]));
  const body = html("tbody");
  const caption = html("caption", {}, ["The same steps, played by four loss scalers"]);
  const node = html("table", { class: "mixlab-sg-table" }, [caption, html("thead", {}, [html("tr", {}, names)]), body]);
  const redraw = () => {
    const { table } = model.get("_drawing");
    node.hidden = table.length === 0;
    body.replaceChildren(...table.map(({ player, cells, note, best }) =>
      html("tr", player === "you" ? { class: "mixlab-sg-you" } : {}, [
        html("th", { scope: "row" }, [player]),
        ...cells.map((cell) => html("td", {}, [cell])),
        html("td", { class: "mixlab-sg-note" }, [[best ? "★ fewest lost" : "", note].filter(Boolean).join("; ")]),
      ]),
    ));
  };
  return { node, redraw };
}

// Field

function makeField(model, id) {
  const chart = svg("svg", { role: "img", class: "mixlab-sg-chart" });
  const keys = "Arrow up doubles the scale, arrow down halves it, Space keeps it; then the step is played.";
  const node = html("div", { class: "mixlab-sg-field", tabindex: 0, role: "group", "aria-label": `The game. ${keys}` }, [makeLegend(), chart]);
  const redraw = () => {
    const drawing = model.get("_drawing");
    const placed = makeGeometry(drawing, chart.clientWidth || node.clientWidth - 8 || 700);
    const { width, height } = placed;
    filled(chart, { height, viewBox: `0 0 ${width} ${height}`, "aria-label": `${drawing.score}. ${drawing.news}` });
    chart.replaceChildren(drawPatterns(id), ...drawFuture(placed), ...drawWindows(placed, id), ...drawAxes(placed), ...drawScales(placed), ...drawChoices(placed));
  };
  return { node, redraw };
}

function makeLegend() {
  const entries = LEGEND.map(([outcome, words]) => {
    const box = svg("svg", { width: 22, height: 18, viewBox: "-11 -9 22 18", "aria-hidden": "true" }, [
      svg("rect", { x: -11, y: -9, width: 22, height: 18, class: `mixlab-sg-zone mixlab-sg-${outcome}` }), drawSign(outcome, 0, 0),
    ]);
    return html("span", {}, [box, words]);
  });
  return html("div", { class: "mixlab-sg-legend" }, entries);
}

function makeGeometry(drawing, outerWidth) {
  const width = Math.max(outerWidth, 320);
  const [low, high] = drawing.domain;
  const unit = (width - PLOT.left - PLOT.right) / drawing.steps;
  const x = (step) => PLOT.left + step * unit;
  const y = (level) => PLOT.top + PLOT.height * ((high + 0.5 - level) / (high - low + 1));
  return { ...drawing, width, height: PLOT.top + PLOT.height + PLOT.bottom, unit, x, y, foot: PLOT.top + PLOT.height };
}

function drawPatterns(id) {
  const hatch = (outcome, path) =>
    svg("pattern", { id: `${id}-${outcome}`, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, [
      svg("path", { d: path, class: `mixlab-sg-hatch mixlab-sg-${outcome}` }),
    ]);
  return svg("defs", {}, [hatch("skipped", "M0 0V8M0 0H8"), hatch("underflowed", "M0 0V8")]);
}

function drawFuture({ turns, steps, x, foot }) {
  if (turns.length === steps) return [];
  const width = x(steps) - x(turns.length);
  const words = svg("text", { x: x(steps) - 8, y: foot - 10, "text-anchor": "end", class: "mixlab-sg-tick" }, ["steps to come"]);
  const area = svg("rect", { x: x(turns.length), y: PLOT.top, width, height: foot - PLOT.top, class: "mixlab-sg-future" });
  return width > 110 ? [area, words] : [area];
}

/** The usable scales of each step played, and the zones above and below them. */
function drawWindows({ turns, x, y, unit, foot }, id) {
  return turns.flatMap(({ low, high }, step) => {
    const upper = Math.max(y(high + 0.5), PLOT.top);
    const lower = Math.min(y(low - 0.5), foot);
    const column = (top, bottom, outcome) => {
      const area = { x: x(step), y: top, width: unit, height: Math.max(0, bottom - top) };
      const tint = svg("rect", { ...area, class: `mixlab-sg-zone mixlab-sg-${outcome}` });
      return outcome === "good" ? [tint] : [tint, svg("rect", { ...area, fill: `url(#${id}-${outcome})` })];
    };
    const zones = [...column(PLOT.top, upper, "skipped"), ...column(upper, lower, "good"), ...column(lower, foot, "underflowed")];
    return [...zones, svg("path", { d: `M${x(step)} ${upper}h${unit}M${x(step)} ${lower}h${unit}`, class: "mixlab-sg-edge" })];
  });
}

function drawAxes({ ticks, steps, x, y, foot }) {
  const text = (at, height, words, anchor) => svg("text", { x: at, y: height, "text-anchor": anchor, class: "mixlab-sg-tick" }, [words]);
  const every = Array.from({ length: Math.floor(steps / 5) }, (_, i) => 5 * (i + 1));
  return [
    ...ticks.flatMap(([level, label]) => [
      svg("path", { d: `M${PLOT.left} ${y(level)}H${x(steps)}`, class: "mixlab-sg-grid" }),
      text(PLOT.left - 6, y(level) + 4, label, "end"),
    ]),
    ...every.map((step) => text(x(step - 0.5), foot + 16, step, "middle")),
    svg("path", { d: `M${PLOT.left} ${foot}H${x(steps)}`, class: "mixlab-sg-base" }),
    text((PLOT.left + x(steps)) / 2, foot + 34, "step", "middle"),
  ];
}

function drawScales({ turns, x, y }) {
  const d = turns.map(({ exponent }, step) => `${step ? "L" : "M"}${x(step + 0.5)} ${y(exponent)}`).join("");
  return [svg("path", { d, class: "mixlab-sg-path" }), ...turns.map(({ exponent, outcome }, step) => drawSign(outcome, x(step + 0.5), y(exponent)))];
}

function drawSign(outcome, x, y) {
  const transform = `translate(${x} ${y})`;
  return svg("g", { transform, class: `mixlab-sg-sign mixlab-sg-${outcome}` }, [
    svg("path", { d: SHAPES[outcome], class: "mixlab-sg-halo" }), svg("path", { d: SHAPES[outcome] }),
  ]);
}

/** Where the scale may go in the next step. */
function drawChoices({ choices, exponent, turns, x, y }) {
  const at = x(turns.length + 0.5);
  return MOVES.filter(({ move }) => move in choices).flatMap(({ move, sign }, i) => {
    const height = y(exponent + i - 1);
    return [
      svg("circle", { cx: at, cy: height, r: move === "keep" ? 5 : 3.5, class: "mixlab-sg-choice" }),
      svg("text", { x: at + 10, y: height + 4, class: "mixlab-sg-option" }, [`${sign} ${choices[move]}`]),
    ];
  });
}
