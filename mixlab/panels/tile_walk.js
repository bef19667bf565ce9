// Draws the tile walk. Python sends the moves, totals and sentences; here tiles are placed and their bytes counted.

import { change, filled, freshId, html, live, makeError, sized, svg } from "./shared.js";

const GAP = 34; // between matrices: room for their names
const NAMES = ["A", "B", "C"];
const FRAME_MS = 60;
const WHOLE_WALK_S = 12; // of playing from start to end, for walks of many moves
const KEYS = { ArrowRight: "next", ArrowLeft: "back", ArrowDown: "nextTile", ArrowUp: "lastTile", Home: "start", End: "end", " ": "play" };
const DONE = { zero: "set to zero in fast memory", load: "loaded", store: "stored", free: "freed" };

export default {
  render({ model, el }) {
    const id = freshId("mixlab-tile-walk");
    const walk = makeWalk(model);
    const field = makeField(model, id, walk);
    const parts = [makeControls(model, id, walk), makeButtons(walk, field.node), field, makeWords(model, walk), makeError(model)];
    const root = html("div", { class: "mixlab-panel mixlab-tile-walk" }, parts.map((part) => part.node));
    const redraw = () => parts.forEach((part) => part.redraw());
    walk.onChange = redraw;
    field.node.addEventListener("keydown", (event) => playKey(event, walk));
    const changed = () => (walk.follow(), redraw());
    const events = "change:_drawing change:_error change:block change:fast_bytes change:position";
    const end = live(model, el, root, { [events]: changed }, field.redraw);
    redraw();
    return () => (walk.pause(), end());
  },
};

function playKey(event, walk) {
  const action = KEYS[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  event.preventDefault();
  walk[action]();
}

// The walk: where the reader is in the list of moves

function makeWalk(model) {
  const list = () => model.get("_drawing").moves;
  let at = Math.min(model.get("position"), list().length);
  let timer = null;
  const walk = {
    onChange: () => {},
    get at() { return at; },
    get playing() { return timer !== null; },
    follow() { if (timer === null) at = Math.min(model.get("position"), list().length); },
    goTo(place, keep = true) {
      at = Math.min(Math.max(place, 0), list().length);
      if (keep) change(model, "position", at);
      walk.onChange();
    },
    start() { walk.pause(); walk.goTo(0); },
    end() { walk.pause(); walk.goTo(list().length); },
    next() { walk.pause(); walk.goTo(at + 1); },
    back() { walk.pause(); walk.goTo(at - 1); },
    nextTile() { walk.pause(); walk.goTo(ends().find((place) => place > at) ?? list().length); },
    lastTile() { walk.pause(); walk.goTo(ends().findLast((place) => place < at) ?? 0); },
    play() {
      if (timer !== null) return walk.pause();
      if (at === list().length) at = 0;
      const step = Math.max(1, Math.ceil((list().length * FRAME_MS) / (WHOLE_WALK_S * 1000)));
      timer = setInterval(() => (at >= list().length ? walk.pause() : walk.goTo(at + step, false)), step === 1 ? WHOLE_WALK_S * 1000 / Math.max(list().length, 100) : FRAME_MS);
      walk.onChange();
    },
    pause() {
      if (timer === null) return;
      clearInterval(timer);
      timer = null;
      walk.goTo(at);
    },
  };
  const ends = () => list().flatMap(([kind, matrix], i) => (kind === "free" && matrix === "C" ? [i + 1] : []));
  return walk;
}

/** What the moves up to a place have done: tiles in fast memory, bytes there, bytes moved, finished tiles of C. */
function stateAfter(moves, at) {
  const tiles = {};
  const moved = { A: 0, B: 0, C: 0 };
  const finished = [];
  for (const [kind, matrix, top, bottom, left, right, bytes] of moves.slice(0, at)) {
    if (kind === "load" || kind === "store") moved[matrix] += bytes;
    if (kind === "zero" || kind === "load") tiles[matrix] = { place: [top, bottom, left, right], bytes };
    if (kind === "store") finished.push([top, bottom, left, right]);
    if (kind === "free") delete tiles[matrix];
  }
  const sum = (all) => all.reduce((total, one) => total + one, 0);
  return { tiles, moved, finished, movedInAll: sum(Object.values(moved)), held: sum(Object.values(tiles).map((tile) => tile.bytes)) };
}

// Controls

function makeControls(model, id, walk) {
  const { sizes: [min, max], formats, presets, blocks } = model.get("_choices");
  const set = (values) => {
    walk.pause();
    model.set(values);
    model.save_changes();
  };
  const slider = (name, title, limits, read, take, shown = (value) => value, most = () => limits.max) =>
    makeSlider(id, name, title, limits, read, take, shown, most);
  const sizes = [["m", "M"], ["n", "N"], ["k", "K"]].map(([name, title]) =>
    slider(name, title, { min, max }, () => model.get(name), (value) => set({ [name]: value })));
  const fast = slider("fast", "Fast memory", { min: 1024, max: 32768, step: 1024 }, () => model.get("fast_bytes"),
    (value) => set({ fast_bytes: value }), (value) => `${value.toLocaleString("en")} bytes`);
  const tiles = ["m", "n", "k"].map((name, i) =>
    slider(`block-${name}`, `block ${name}`, { min, max }, () => model.get("_drawing").block[i],
      (value) => set({ block: model.get("_drawing").block.map((old, j) => (j === i ? value : old)) }), undefined, () => model.get(name)));
  const kinds = makeSelect(id, "block", "Block", [...blocks, ["own", "your own"]], () => (Array.isArray(model.get("block")) ? "own" : model.get("block")),
    (value) => set({ block: value === "own" ? model.get("_drawing").block : value }));
  const traits = [["a", "A"], ["b", "B"], ["accumulator", "Sums"], ["out", "C, stored"]];
  const selects = traits.map(([name, title]) =>
    makeSelect(id, name, title, formats.map((one) => [one, one]), () => model.get(name), (value) => set({ [name]: value })));
  const buttons = presets.map(([name, values]) => {
    const button = html("button", { type: "button", class: "mixlab-tw-preset" }, [name]);
    button.addEventListener("click", () => set(Object.fromEntries(traits.map(([trait], i) => [trait, values[i]]))));
    return button;
  });
  const line = (label, children) =>
    html("div", { class: "mixlab-tw-line", role: "group", "aria-label": label }, [html("span", { class: "mixlab-tw-title", "aria-hidden": "true" }, [label]), ...children.map((child) => child.node ?? child)]);
  const node = html("div", {}, [
    line("Formats", [...buttons]), line("", selects), line("Sizes", sizes), line("Memory", [fast, kinds]), line("Tiles", tiles),
  ]);
  node.children[1].setAttribute("aria-label", "Format of each matrix");
  const parts = [...sizes, fast, ...tiles, kinds, ...selects];
  const redraw = () => {
    parts.forEach((part) => part.redraw());
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", traits.every(([trait], j) => model.get(trait) === presets[i][1][j])));
  };
  return { node, redraw };
}

function makeSlider(id, name, title, limits, read, take, shown, most) {
  const input = html("input", { type: "range", id: `${id}-${name}`, "aria-label": title, ...limits });
  const value = html("output", { for: input.id });
  input.addEventListener("input", () => take(input.valueAsNumber));
  const redraw = () => {
    input.max = most();
    input.value = read();
    value.textContent = shown(read());
    input.setAttribute("aria-valuetext", value.textContent);
  };
  return { node: html("span", { class: "mixlab-tw-slider" }, [html("label", { for: input.id }, [title.replace("block ", "")]), input, value]), redraw };
}

function makeSelect(id, name, title, options, read, take) {
  const select = html("select", { id: `${id}-${name}` }, options.map(([value, words]) => html("option", { value }, [words])));
  select.addEventListener("change", () => take(select.value));
  const redraw = () => {
    if (![...select.options].some((option) => option.value === read())) select.append(html("option", { value: read() }, [read()]));
    select.value = read();
  };
  return { node: html("span", { class: "mixlab-tw-select" }, [html("label", { for: select.id }, [title]), select]), redraw };
}

function makeButtons(walk, field) {
  const make = (action, sign, words, key) => {
    const button = html("button", { type: "button", class: "mixlab-tw-step", title: `${words} (${key} in the drawing)` }, [
      html("span", { "aria-hidden": "true" }, [sign]), html("span", {}, [words]),
    ]);
    button.addEventListener("click", (event) => {
      walk[action]();
      if (event.detail) field.focus({ preventScroll: true }); // after the mouse, keys go on
    });
    return button;
  };
  const play = make("play", "▶", "Play", "Space");
  const node = html("div", { class: "mixlab-tw-line", role: "group", "aria-label": "Moves" }, [
    make("start", "|←", "Start", "Home"), make("back", "←", "Back", "←"), make("next", "→", "Next move", "→"),
    make("nextTile", "↓", "Next tile of C", "↓"), make("end", "→|", "End", "End"), play,
  ]);
  const redraw = () => {
    play.children[0].textContent = walk.playing ? "⏸" : "▶";
    play.children[1].textContent = walk.playing ? "Pause" : "Play";
  };
  return { node, redraw };
}

// The drawing

function makeField(model, id, walk) {
  const chart = svg("svg", { role: "img", class: "mixlab-tw-chart" });
  const hint = "Arrow right: next move; left: back; down: next tile of C; up: the one before; Home, End; Space plays.";
  const node = html("div", { class: "mixlab-tw-field", tabindex: 0, role: "group", "aria-label": `The walk of the tiles. ${hint}` }, [
    chart, html("p", { class: "mixlab-tw-hint" }, [`Keys: → next move, ← back, ↓ next tile of C, ↑ the one before, Home, End, Space plays.`]),
  ]);
  const redraw = () => {
    const drawing = model.get("_drawing");
    const width = Math.max(node.clientWidth - 12 || 700, 320);
    const beside = width >= 560;
    const room = beside ? Math.min(width * 0.5, 460) : width;
    const state = stateAfter(drawing.moves, walk.at);
    const matrices = drawMatrices(drawing, state, drawing.moves[walk.at - 1], room, id);
    const left = beside ? room + 24 : 0;
    const bars = drawBars(drawing, state, left, beside ? 22 : matrices.height + 22, width - left - 8, id);
    sized(chart, width, Math.max(matrices.height, bars.height) + 6);
    chart.setAttribute("aria-label", pictureInWords(drawing, state));
    chart.replaceChildren(drawPatterns(drawing.colors, id), ...matrices.nodes, ...bars.nodes);
  };
  return { node, redraw };
}

function drawPatterns(colors, id) {
  const paths = { A: "", B: "M0 0V8", C: "M0 0V8M0 0H8" };
  return svg("defs", {}, NAMES.map((name) =>
    svg("pattern", { id: `${id}-${name}`, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, [
      svg("rect", { width: 8, height: 8, fill: colors[name] }), svg("path", { d: paths[name], class: "mixlab-tw-hatch" }),
    ])));
}

/** A below left, B above right, C where they meet: each tile of C lies beside its rows of A and below its columns of B. */
function drawMatrices(drawing, state, move, room, id) {
  const { A, B, C } = drawing.matrices;
  const scale = Math.min((room - GAP - 4) / (A.columns + C.columns), 340 / (B.rows + C.rows));
  const left = 2 + A.columns * scale + GAP;
  const top = 20 + B.rows * scale + GAP;
  const corners = { A: [2, top], B: [left, 20], C: [left, top] };
  const [bm, bn, bk] = drawing.block;
  const cuts = { A: [bm, bk], B: [bk, bn], C: [bm, bn] };
  const nodes = NAMES.flatMap((name) => {
    const { rows, columns, format, times } = drawing.matrices[name];
    const [x, y] = corners[name];
    const box = ([from, to, start, stop]) => ({ x: x + start * scale, y: y + from * scale, width: (stop - start) * scale, height: (to - from) * scale });
    const finished = name === "C" ? state.finished.map((place) => svg("rect", { ...box(place), fill: drawing.colors.C, class: "mixlab-tw-finished" })) : [];
    const tile = state.tiles[name];
    const resident = tile ? [svg("rect", { ...box(tile.place), fill: `url(#${id}-${name})`, class: "mixlab-tw-tile" })] : [];
    const now = move && move[1] === name ? [svg("rect", { ...box(move.slice(2, 6)), class: `mixlab-tw-now mixlab-tw-${move[0]}` })] : [];
    const swatch = svg("rect", { x, y: y - 17, width: 11, height: 11, fill: `url(#${id}-${name})` });
    const words = svg("text", { x: x + 16, y: y - 7, class: "mixlab-tw-name" }, [
      svg("tspan", { class: "mixlab-tw-letter" }, [name]), svg("tspan", { dx: 6 }, [columns * scale > 150 ? `${format}, ${name === "C" ? "stored once" : `read ${times} ×`}` : format]),
    ]);
    return [
      svg("rect", { ...box([0, rows, 0, columns]), class: "mixlab-tw-matrix" }), ...finished, drawGrid(rows, columns, cuts[name], scale, x, y), ...resident, ...now, swatch, words,
    ];
  });
  return { nodes, height: top + C.rows * scale };
}

function drawGrid(rows, columns, [high, wide], scale, x, y) {
  let d = "";
  if (high * scale >= 4) for (let row = high; row < rows; row += high) d += `M${x} ${y + row * scale}h${columns * scale}`;
  if (wide * scale >= 4) for (let column = wide; column < columns; column += wide) d += `M${x + column * scale} ${y}v${rows * scale}`;
  return svg("path", { d, class: "mixlab-tw-grid" });
}

function drawBars(drawing, state, left, top, width, id) {
  const text = (x, y, words, kind = "") => svg("text", { x, y, class: kind }, [words]);
  const bar = (y, all, parts, outline) => {
    let x = left;
    const filledParts = parts.map(([name, bytes]) => {
      const part = svg("rect", { x, y, width: (bytes / all) * width, height: 20, fill: `url(#${id}-${name})` });
      x += (bytes / all) * width;
      return part;
    });
    return [svg("rect", { x: left, y, width: (outline / all) * width, height: 20, class: "mixlab-tw-outline" }), ...filledParts];
  };
  const n = (bytes) => bytes.toLocaleString("en");
  const scale = Math.max(drawing.total, ...drawing.bars.map(([, , bytes]) => bytes));
  const held = NAMES.flatMap((name) => (state.tiles[name] ? [[name, state.tiles[name].bytes]] : []));
  const others = drawing.bars.flatMap(([kind, title, bytes, words], i) => {
    const y = top + 176 + i * 62;
    return [text(left, y, title, "mixlab-tw-letter"), svg("rect", { x: left, y: y + 7, width: (bytes / scale) * width, height: 12, class: `mixlab-tw-other mixlab-tw-${kind}` }), text(left, y + 36, words)];
  });
  const nodes = [
    text(left, top, "Fast memory", "mixlab-tw-letter"), ...bar(top + 7, drawing.fast, held, drawing.fast),
    text(left, top + 44, `${n(state.held)} of ${n(drawing.fast)} bytes, at most ${n(drawing.needed)}`),
    text(left, top + 78, "Bytes moved so far", "mixlab-tw-letter"), ...bar(top + 85, scale, Object.entries(state.moved), drawing.total),
    text(left, top + 122, `${n(state.movedInAll)} of ${n(drawing.total)} bytes`),
    text(left, top + 140, NAMES.map((name) => `${name} ${n(state.moved[name])}`).join(", ")), ...others,
  ];
  return { nodes, height: top + 176 + drawing.bars.length * 62 - 20 };
}

function pictureInWords(drawing, state) {
  const held = NAMES.filter((name) => state.tiles[name]);
  const inside = held.length ? `tiles of ${held.join(", ")}` : "nothing";
  return `Matrices A, B and C in tiles. Fast memory holds ${inside}, ${state.held} of ${drawing.fast} bytes; ${state.movedInAll} of ${drawing.total} bytes are moved.`;
}

// Words

function makeWords(model, walk) {
  const step = html("p", { class: "mixlab-tw-status", role: "status", "aria-live": "polite" });
  const sentence = html("p", { class: "mixlab-tw-sentence" });
  const redraw = () => {
    const drawing = model.get("_drawing");
    filled(step, { "aria-live": walk.playing ? "off" : "polite" });
    const words = moveInWords(drawing, walk.at);
    if (step.textContent !== words) step.textContent = words;
    if (sentence.textContent !== drawing.sentence) sentence.textContent = drawing.sentence;
  };
  return { node: html("div", {}, [step, sentence]), redraw };
}

function moveInWords({ moves, accumulator, goesOn }, at) {
  const count = `${at.toLocaleString("en")} of ${goesOn ? "the first " : ""}${moves.length.toLocaleString("en")}`;
  if (at === 0) return `Move ${count}: fast memory is empty. Press Next move.`;
  const [kind, matrix, top, bottom, left, right, bytes] = moves[at - 1];
  const tile = `the ${matrix} tile of rows ${top} to ${bottom - 1} and columns ${left} to ${right - 1}`;
  if (kind === "multiply") return `Move ${count}: the tiles of A and B are multiplied and added to ${tile}, in ${accumulator}. No bytes are moved.`;
  const size = kind === "free" || kind === "zero" ? `${bytes.toLocaleString("en")} bytes of fast memory` : `${bytes.toLocaleString("en")} bytes moved`;
  return `Move ${count}: ${tile} is ${DONE[kind]}; ${size}.`;
}
