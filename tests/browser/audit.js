// What a page shows in its outputs and in its text: the texts, the lines and shapes of pictures, what is cut, what overlaps.

const PLACES = ".jp-OutputArea-output, .jp-RenderedMarkdown";
const UNSEEN = "style, script, title, desc, option, defs, .MathJax_Preview, mjx-assistive-mml, .jp-InternalAnchorLink";

function visible(node) {
  return node.checkVisibility({ opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true });
}

function places() {
  return [...document.querySelectorAll(`.jp-Notebook :is(${PLACES})`)].filter(visible);
}

/** Which cell a node stands in: the first is 0. */
function cellOf(node) {
  return [...document.querySelectorAll(".jp-Notebook .jp-Cell")].indexOf(node.closest(".jp-Cell"));
}

function named(node) {
  const name = node.getAttribute?.("class") ?? "";
  return `${node.tagName.toLowerCase()}${name ? `.${name.trim().split(/\s+/).join(".")}` : ""}`;
}

function opacityOf(node) {
  let opacity = 1;
  for (let one = node; one instanceof Element; one = one.parentElement) opacity *= parseFloat(getComputedStyle(one).opacity);
  return opacity;
}

/** [red, green, blue, alpha] of a CSS colour, the first three from 0 to 255. */
function rgba(colour) {
  const numbers = (colour.match(/-?[\d.]+(e-?\d+)?%?/g) ?? []).map((text) => (text.endsWith("%") ? parseFloat(text) / 100 : Number(text)));
  if (colour.startsWith("color(srgb")) return [...numbers.slice(0, 3).map((x) => 255 * x), numbers[3] ?? 1];
  if (!colour.startsWith("rgb")) return null; // none, a pattern
  return [numbers[0], numbers[1], numbers[2], numbers[3] ?? 1];
}

function faded(colour, opacity) {
  return colour && [colour[0], colour[1], colour[2], colour[3] * opacity];
}

function isInactive(node) {
  const label = node.closest("label");
  const control = label?.control ?? label?.querySelector("input, select") ?? (label?.htmlFor ? document.getElementById(label.htmlFor) : null);
  return Boolean(node.closest(":disabled, [aria-disabled=true], [inert]") || control?.disabled);
}

/** The corners of an SVG text on the screen, turned as it is. */
function corners(text) {
  const [box, place] = [text.getBBox(), text.getScreenCTM()];
  const at = (x, y) => new DOMPoint(x, y).matrixTransform(place);
  // A line's box is higher than its letters.
  const [top, bottom] = [box.y + 0.18 * Math.min(box.height, 16), box.y + box.height - 0.18 * Math.min(box.height, 16)];
  return [at(box.x, top), at(box.x + box.width, top), at(box.x + box.width, bottom), at(box.x, bottom)].map(({ x, y }) => [x, y]);
}

function boxAround(points) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, top, right, bottom] = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  return { left, top, right, bottom, width: right - left, height: bottom - top };
}

function square({ left, top, right, bottom }) {
  const lost = 0.18 * Math.min(bottom - top, 20);
  return [[left, top + lost], [right, top + lost], [right, bottom - lost], [left, bottom - lost]];
}

/** Every text that shows: {node, text, boxes, quads, colour, halo, size, bold, inactive}. */
function texts() {
  const found = [];
  for (const place of places()) {
    const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
    const drawn = new Set();
    while (walker.nextNode()) {
      const node = walker.currentNode.parentElement;
      const text = walker.currentNode.textContent.trim();
      if (!text || node.closest(UNSEEN) || node.closest(PLACES) !== place || !visible(node)) continue;
      const picture = node.closest("svg text");
      if (picture && drawn.has(node)) continue;
      drawn.add(node);
      const style = getComputedStyle(node);
      const range = document.createRange();
      range.selectNodeContents(walker.currentNode);
      const boxes = [...range.getClientRects()].filter((box) => box.width > 1.5 && box.height > 1.5);
      if (!boxes.length) continue;
      const scale = picture ? Math.hypot(picture.getScreenCTM().a, picture.getScreenCTM().b) : 1;
      const halo = picture && style.paintOrder.startsWith("stroke") && parseFloat(style.strokeWidth) >= 2;
      found.push({
        node, text, boxes,
        owner: picture ?? walker.currentNode,
        quads: picture ? [corners(picture)] : boxes.map(square),
        colour: faded(rgba(picture ? style.fill : style.color), opacityOf(node) * (picture ? parseFloat(style.fillOpacity) : 1)),
        halo: halo ? rgba(style.stroke) : null,
        size: parseFloat(style.fontSize) * scale,
        bold: Number(style.fontWeight) >= 600,
        inactive: isInactive(node),
      });
    }
    for (const node of place.querySelectorAll("input:not([type=checkbox], [type=radio], [type=range]), select, textarea")) {
      const text = node.selectedOptions ? (node.selectedOptions[0]?.text ?? "") : node.value || node.placeholder;
      if (!text || node.closest(PLACES) !== place || !visible(node)) continue;
      const style = getComputedStyle(node, node.value || node.selectedOptions ? undefined : "::placeholder");
      const box = node.getBoundingClientRect();
      const inner = new DOMRect(box.left + 4, box.top + 4, Math.max(8, box.width - 24), Math.max(4, box.height - 8));
      found.push({
        node, text, boxes: [inner], owner: node, quads: [square(box)],
        colour: faded(rgba(style.color), opacityOf(node)), halo: null,
        size: parseFloat(style.fontSize), bold: false, inactive: isInactive(node),
      });
    }
  }
  return found;
}

function told(item) {
  return `cell ${cellOf(item.node)}, ${named(item.node)} “${item.text.slice(0, 60)}”`;
}

/** Whether a box is wholly where the notebook shows, not below a bar of the page. */
function onScreen(box) {
  const screen = document.querySelector(".jp-WindowedPanel-outer").getBoundingClientRect();
  return box.top >= screen.top && box.bottom <= screen.bottom && box.left >= screen.left && box.right <= screen.right;
}

/** The part of a box in `node` that nothing in the notebook cuts off; null if there is none. */
function uncut(box, node) {
  let { left, top, right, bottom } = box;
  for (let one = node; one && !one.matches(".jp-WindowedPanel-outer"); one = one.parentElement) {
    if (getComputedStyle(one).overflow === "visible" || one.matches("svg *")) continue;
    const limits = one.getBoundingClientRect();
    [left, top] = [Math.max(left, limits.left), Math.max(top, limits.top)];
    [right, bottom] = [Math.min(right, limits.right), Math.min(bottom, limits.bottom)];
  }
  return right - left > 1 && bottom - top > 1 ? { left, top, right, bottom, width: right - left, height: bottom - top } : null;
}

/** The texts on the screen, as plain data: what they are drawn in, and where. */
export function textsOnScreen() {
  return texts().filter((item) => !item.inactive && item.colour).flatMap((item) => {
    const boxes = item.boxes.map((box) => uncut(box, item.node)).filter((box) => box && onScreen(box));
    const large = item.size >= 24 || (item.bold && item.size >= 18.66);
    return boxes.slice(0, 2).map(({ left, top, width, height }) => ({
      told: told(item), colour: item.colour, halo: item.halo, large, box: [left, top, width, height],
    }));
  });
}

const TINT = 0.35; // the opacity from which on a shape is more than a tint of its place
const SHAPES = "path, line, polyline, polygon, rect, circle, ellipse";

/** Lines and shapes of pictures, and boxes of controls, on the screen. `passed` selects those that need no contrast. */
export function linesOnScreen(passed) {
  const found = [];
  for (const node of document.querySelectorAll(`.jp-Notebook :is(${PLACES}) svg :is(${SHAPES})`)) {
    if (node.closest("defs, clipPath, pattern, marker") || (passed && node.closest(passed)) || !visible(node)) continue;
    const style = getComputedStyle(node);
    const opacity = opacityOf(node);
    const box = node.getBoundingClientRect();
    const seen = uncut(box, node);
    if (!seen || !onScreen(seen)) continue;
    const stroke = parseFloat(style.strokeWidth) > 0 ? faded(rgba(style.stroke), opacity * parseFloat(style.strokeOpacity)) : null;
    const fill = faded(rgba(style.fill) ?? patternColour(style.fill), opacity * parseFloat(style.fillOpacity));
    const isLine = !fill || fill[3] <= TINT || node.tagName === "line";
    const colours = [stroke, isLine ? null : fill].filter((colour) => colour && colour[3] > 0);
    if (!colours.length) continue;
    const points = isLine ? along(node) : around(box);
    const text = node.closest("[aria-label]")?.getAttribute("aria-label") ?? "";
    found.push({
      told: `cell ${cellOf(node)}, ${named(node)} in ${named(node.parentElement)} ${text.slice(0, 40)}`,
      colours, points: points.filter(([x, y]) => seen.left - 8 <= x && x <= seen.right + 8 && seen.top - 8 <= y && y <= seen.bottom + 8),
      isLine,
    });
  }
  return [...found, ...edges()];
}

function patternColour(fill) {
  const pattern = fill.startsWith("url(") && document.querySelector(fill.match(/#[^")]+/)[0]);
  const colours = pattern ? [...pattern.children].flatMap((one) => [getComputedStyle(one).fill, getComputedStyle(one).stroke]) : [];
  return colours.map(rgba).find(Boolean) ?? null;
}

function along(node) {
  const length = node.getTotalLength();
  const place = node.getScreenCTM();
  if (!length) return [];
  return [0.06, 0.17, 0.28, 0.39, 0.5, 0.61, 0.72, 0.83, 0.94].map((part) => {
    const { x, y } = node.getPointAtLength(part * length).matrixTransform(place);
    return [x, y];
  });
}

function around({ left, top, right, bottom }) {
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return [[left - 4, y], [right + 4, y], [x, top - 4], [x, bottom + 4]];
}

/** What marks a control: the edge of a box to type in or to choose from, and of a slider's handle. */
function edges() {
  const controls = "input:not([type=range], [type=checkbox], [type=radio]), select, textarea, .noUi-handle";
  return [...document.querySelectorAll(`.jp-Notebook .jp-OutputArea-output :is(${controls})`)].flatMap((node) => {
    const [style, box] = [getComputedStyle(node), node.getBoundingClientRect()];
    if (!visible(node) || !onScreen(box) || isInactive(node)) return [];
    const colours = [style.borderBottomColor, style.backgroundColor].map(rgba).filter((colour) => colour && colour[3] > 0);
    return [{ told: `cell ${cellOf(node)}, edge of ${named(node)}`, colours, points: around(box), isLine: false }];
  });
}

/** Texts and controls that leave their output or are cut off. */
export function cuts() {
  const found = [];
  const look = (node, box, words) => {
    const lost = lostOf(node, box);
    if (lost) found.push(`${words}: ${lost}`);
  };
  for (const item of texts()) {
    // A space at the end of a line of preformatted text hangs over.
    const hangs = getComputedStyle(item.node).whiteSpace === "pre-wrap" ? item.size * 0.7 : 0;
    for (const { left, top, right, bottom } of item.boxes) look(item.node, { left, top, right: right - hangs, bottom }, told(item));
    if (item.node.matches("input, select, textarea") && tooNarrow(item)) found.push(`${told(item)}: its box is too narrow`);
  }
  for (const node of document.querySelectorAll(`.jp-OutputArea-output :is(button, input, select, table, svg)`)) {
    if (!visible(node)) continue;
    look(node.parentElement, node.getBoundingClientRect(), `cell ${cellOf(node)}, ${named(node)}`);
  }
  for (const node of document.querySelectorAll(`.jp-OutputArea-output *`)) {
    const style = getComputedStyle(node);
    if (style.textOverflow === "ellipsis" && node.scrollWidth > node.clientWidth + 1 && visible(node)) {
      found.push(`cell ${cellOf(node)}, ${named(node)} “${node.textContent.slice(0, 60)}”: shortened`);
    }
  }
  return [...new Set(found)];
}

function tooNarrow({ node, text }) {
  const pen = document.createElement("canvas").getContext("2d");
  const style = getComputedStyle(node);
  pen.font = style.font;
  const inner = node.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  return pen.measureText(text).width > inner + 1;
}

const scrolls = (value) => ["auto", "scroll"].includes(value);

/** How far a box in `node` leaves what shows it, in words; "" if it does not. */
function lostOf(node, box) {
  for (let one = node; one; one = one.parentElement) {
    const style = getComputedStyle(one);
    const limits = one.getBoundingClientRect();
    const isEnd = one.matches(".jp-OutputArea-output, .jp-RenderedMarkdown");
    const outside = Math.max(limits.left - box.left, box.right - limits.right);
    const below = Math.max(limits.top - box.top, box.bottom - limits.bottom);
    const clips = one.matches("svg") ? !one.parentElement.closest("svg") && style.overflowX !== "visible" : style.overflowX !== "visible" && !one.matches("svg *");
    if (scrolls(style.overflowX) && one.scrollWidth > one.clientWidth + 1 && !isEnd) return "";
    if (scrolls(style.overflowY) && one.scrollHeight > one.clientHeight + 1) return "";
    if ((clips || isEnd) && outside > 1.5) return `${Math.round(outside)} px outside ${named(one)}`;
    if (clips && below > 3) return `${Math.round(below)} px above or below ${named(one)}`;
    if (isEnd) return "";
  }
  return "";
}

/** Charts that have no name for a screen reader, and what of them the Tab key stops at. */
export function chartFaults() {
  return [...document.querySelectorAll(".jp-Notebook .js-plotly-plot")].filter(visible).flatMap((chart) => {
    const picture = chart.closest("[role=img]") ?? chart.querySelector("[role=img]");
    const name = picture?.getAttribute("aria-label")?.trim();
    const stops = [...chart.querySelectorAll("a[href], button, [tabindex]")].filter((node) => node.tabIndex >= 0 && visible(node));
    return [
      ...(name ? [] : [`cell ${cellOf(chart)}: a chart without a name`]),
      ...stops.map((node) => `cell ${cellOf(chart)}: a stop in a chart, ${named(node)} ${node.getAttribute("aria-label") ?? ""}`),
    ];
  });
}

/** What has the focus in an output without an outline that stands out, itself or at the label that stands for it. */
export function focusFaults() {
  const node = document.activeElement;
  if (!node.closest(PLACES)) return [];
  const box = node.getBoundingClientRect();
  if (box.bottom < 0 || box.top > innerHeight) return [`${named(node)} has the focus and is out of sight`];
  const around = [node, node.nextElementSibling, node.parentElement].filter(Boolean).map((one) => getComputedStyle(one));
  const page = rgba(getComputedStyle(document.querySelector(".jp-Notebook .jp-WindowedPanel-outer")).backgroundColor) ?? [255, 255, 255, 1];
  const below = page[3] ? page : rgba(getComputedStyle(node.closest(".jp-NotebookPanel") ?? document.body).backgroundColor);
  const shows = around.some(({ outlineStyle, outlineWidth, outlineColor }) => {
    if (outlineStyle === "none" || parseFloat(outlineWidth) < 1) return false;
    return outlineStyle === "auto" || contrast(over(rgba(outlineColor), below), below) >= 3;
  });
  return shows ? [] : [`${named(node)} “${node.textContent.trim().slice(0, 40)}” has the focus and does not show it`];
}

/** Pairs of texts in one output that lie over each other. */
export function overlaps() {
  const found = [];
  const all = texts().flatMap((item) => item.quads.map((quad) => ({ item, quad, box: boxAround(quad), place: item.node.closest(PLACES) })));
  all.sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < all.length; i += 1) {
    for (let j = i + 1; j < all.length && all[j].box.top < all[i].box.bottom; j += 1) {
      const [a, b] = [all[i], all[j]];
      if (a.place !== b.place || a.item.owner === b.item.owner || a.item.node.contains(b.item.node) || b.item.node.contains(a.item.node)) continue;
      if (apart(a.quad, b.quad) < -1.5) found.push(`${told(a.item)} lies over ${told(b.item)}`);
    }
  }
  return [...new Set(found)];
}

/** The widest gap between two convex shapes, seen along their edges; negative if they overlap. */
function apart(one, other) {
  let widest = -Infinity;
  for (const shape of [one, other]) {
    shape.forEach(([x, y], i) => {
      const [nextX, nextY] = shape[(i + 1) % shape.length];
      const length = Math.hypot(nextX - x, nextY - y) || 1;
      const [nx, ny] = [(nextY - y) / length, (x - nextX) / length];
      const [a, b] = [one, other].map((points) => points.map(([px, py]) => px * nx + py * ny));
      widest = Math.max(widest, Math.min(...a) - Math.max(...b), Math.min(...b) - Math.max(...a));
    });
  }
  return widest;
}

// Contrast, from a picture of the page without its texts.

function luminance([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function over(colour, below) {
  return [0, 1, 2].map((i) => colour[3] * colour[i] + (1 - colour[3]) * below[i]);
}

/** The colours of a part of the picture, most frequent first: [colour, share]. */
function coloursIn(pixels, [left, top, width, height]) {
  const counts = new Map();
  let all = 0;
  for (let y = Math.max(0, Math.floor(top)); y < Math.min(pixels.height, Math.ceil(top + height)); y += 1) {
    for (let x = Math.max(0, Math.floor(left)); x < Math.min(pixels.width, Math.ceil(left + width)); x += 1) {
      const at = 4 * (y * pixels.width + x);
      const key = (pixels.data[at] << 16) | (pixels.data[at + 1] << 8) | pixels.data[at + 2];
      counts.set(key, (counts.get(key) ?? 0) + 1);
      all += 1;
    }
  }
  return [...counts].map(([key, count]) => [[key >> 16, (key >> 8) & 255, key & 255], count / all]).sort((a, b) => b[1] - a[1]);
}

async function pixelsOf(png) {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.getContext("2d").getImageData(0, 0, image.width, image.height);
}

const COMMON = 0.08; // the share of a text's box from which on a colour counts as its background

/** The texts and the lines that stand out too little from what lies around them, in words. */
export async function faint(png, texts, lines) {
  const pixels = await pixelsOf(png);
  const found = [];
  for (const { told, colour, halo, large, box } of texts) {
    const behind = halo ? [[halo, 1]] : coloursIn(pixels, box).filter(([, share], i) => i === 0 || share >= COMMON);
    const worst = Math.min(...behind.map(([below]) => contrast(over(colour, below), below)));
    if (worst < (large ? 3 : 4.5)) found.push(`${told}: ${worst.toFixed(2)} to 1`);
  }
  for (const { told, colours, points, isLine } of lines) {
    const values = points.flatMap(([x, y]) => {
      const size = isLine ? 8 : 1;
      const [common] = coloursIn(pixels, [x - size, y - size, 2 * size + 1, 2 * size + 1]);
      return common ? [Math.max(...colours.map((colour) => contrast(over(colour, common[0]), common[0])))] : [];
    });
    if (!values.length) continue;
    values.sort((a, b) => a - b);
    const value = isLine ? values[Math.floor(values.length / 2)] : values.at(-1);
    if (value < 3) found.push(`${told}: ${value.toFixed(2)} to 1`);
  }
  return [...new Set(found)];
}
