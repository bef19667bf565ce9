// Draws the bit explorer. A click is answered here: `decode` turns bits into a number as Format.decode does in Python.
// Sentences and the table of other formats come from Python, a moment later.

import { change, freshId, html, live, makeError, oneTabStop, raised, typedBox } from "./shared.js";

const FIELDS = ["sign", "exponent", "mantissa"];

export default {
  render({ model, el }) {
    const id = freshId("mixlab-bit-explorer");
    const parts = [makeEntry, makeBits, makeMeaning, makeWords, makeTable].map((make) => make(model, id));
    const root = html("div", { class: "mixlab-panel mixlab-bit-explorer" }, parts.map((part) => part.node));
    const redraw = () => {
      // Between a change of format and of bits there is nothing to show; Python sends both at once.
      if (model.get("bits").length === width(model.get("_format"))) parts.forEach((part) => part.redraw());
    };
    const events = "change:bits change:_format change:_choices change:_answer change:_error change:_refused change:_taken";
    const end = live(model, el, root, { [events]: redraw });
    redraw();
    return end;
  },
};

// Decoding

function width({ signed, exponentBits, mantissaBits }) {
  return Number(signed) + exponentBits + mantissaBits;
}

/** A format's bits, as text, cut into its three fields. */
export function fieldsOf({ signed, exponentBits }, bits) {
  const start = Number(signed);
  return { sign: bits.slice(0, start), exponent: bits.slice(start, start + exponentBits), mantissa: bits.slice(start + exponentBits) };
}

/** What bits mean: `kind` and `value` as from Format.decode, and the exponent and significand that make the value. */
export function decode(format, bits) {
  const fields = fieldsOf(format, bits);
  const code = { negative: fields.sign === "1", exponent: number(fields.exponent), mantissa: number(fields.mantissa) };
  return meaningOf(format, code);
}

// Fields are numbers of at most 52 bits, multiplied only by powers of two: nothing is rounded, not even for fp64.
function meaningOf(format, { negative, exponent, mantissa }) {
  const { bias, mantissaBits, hasInf, hasNegativeZero, signed, subnormals } = format;
  const zeroField = signed && exponent === 0;
  const power = (zeroField ? 1 : exponent) - bias;
  const leading = zeroField ? 0 : 1;
  const significand = leading + (zeroField && !subnormals ? 0 : mantissa * 2 ** -mantissaBits);
  const about = { negative, exponent, mantissa, power, leading, significand };
  const sign = negative ? -1 : 1;
  if (isBeyond(format, exponent, mantissa)) {
    return hasInf && mantissa === 0 ? { ...about, kind: "inf", value: sign * Infinity } : { ...about, kind: "nan", value: NaN };
  }
  if (negative && exponent === 0 && mantissa === 0 && !hasNegativeZero) return { ...about, kind: "nan", value: NaN };
  const value = sign * (significand * 2 ** mantissaBits) * 2 ** (power - mantissaBits);
  return { ...about, kind: value === 0 ? "zero" : zeroField ? "subnormal" : "normal", value };
}

function isBeyond({ maxFields: [exponent, mantissa] }, e, m) {
  return e > exponent || (e === exponent && m > mantissa);
}

/** The values below and above, as from Format.next_down and next_up, with their bits if they have any. */
export function neighbours(format, bits) {
  const meaning = decode(format, bits);
  if (meaning.kind === "nan") return [null, null];
  const away = beside(format, meaning, 1);
  const toward = beside(format, meaning, -1);
  return meaning.negative && meaning.kind !== "zero" ? [away, toward] : [toward, away];
}

/** The gap between a format's values at a finite value, as from Format.ulp. */
export function ulp(format, bits) {
  const { kind, power } = decode(format, bits);
  return format.signed && !format.subnormals && kind === "zero" ? 2 ** power : 2 ** (power - format.mantissaBits);
}

function beside(format, { kind, negative, exponent, mantissa, value }, step) {
  const found = (code) => ({ value: meaningOf(format, code).value, bits: bitsOf(format, code) });
  if (kind === "inf") return step > 0 ? { value } : found({ negative, exponent: format.maxFields[0], mantissa: format.maxFields[1] });
  const least = format.subnormals ? { exponent: 0, mantissa: 1 } : { exponent: 1, mantissa: 0 };
  if (kind === "zero") return found({ negative: step < 0, ...least });
  let [e, m] = [exponent, mantissa + step];
  if (m < 0) [e, m] = [exponent - 1, 2 ** format.mantissaBits - 1];
  if (m === 2 ** format.mantissaBits) [e, m] = [exponent + 1, 0];
  if (e < 0) return { value: NaN };
  if (format.signed && !format.subnormals && e === 0) m = 0;
  if (isBeyond(format, e, m)) return format.hasInf ? found({ negative, exponent: e, mantissa: 0 }) : { value: NaN };
  if (e === 0 && m === 0 && format.signed) return found({ negative: negative && format.hasNegativeZero, exponent: 0, mantissa: 0 });
  return found({ negative, exponent: e, mantissa: m });
}

function bitsOf({ signed, exponentBits, mantissaBits }, { negative, exponent, mantissa }) {
  const text = (value, size) => (size ? value.toString(2).padStart(size, "0") : "");
  return (signed ? (negative ? "1" : "0") : "") + text(exponent, exponentBits) + text(mantissa, mantissaBits);
}

function number(bits) {
  return bits ? parseInt(bits, 2) : 0;
}

// Parts

function makeEntry(model, id) {
  const select = html("select", { id: `${id}-format` });
  const box = typedBox(model, `${id}-value`, "value", "Value", () => model.get("_answer").typed, { size: 14 });
  select.addEventListener("change", () => {
    model.send({ format: select.value });
    select.value = model.get("_format").name;
  });
  const redraw = () => {
    const names = model.get("_choices");
    if (select.children.length !== names.length) {
      select.replaceChildren(...names.map((name) => html("option", { value: name }, [name])));
    }
    select.value = model.get("_format").name;
    box.redraw();
  };
  const node = html("div", { class: "mixlab-be-entry" }, [
    html("label", { for: select.id }, ["Format"]), select, box.node,
    html("span", { class: "mixlab-be-soft" }, ["type a number, such as 0.1, 1e-8 or 2^-24, and press Enter"]),
  ]);
  return { node, redraw };
}

function makeBits(model, id) {
  const hint = html("p", { class: "mixlab-be-soft", id: `${id}-hint` }, [
    "Click a bit to flip it. With the keyboard: ← → Home End move between bits, Space or Enter flips.",
  ]);
  const row = html("div", { class: "mixlab-be-row", role: "group", "aria-label": "Bits", "aria-describedby": hint.id });
  const node = html("div", {}, [row, hint]);
  let buttons = [];
  let goTo = null;
  let built = null;
  const flip = (i) => {
    const bits = model.get("bits");
    change(model, "bits", `${bits.slice(0, i)}${bits[i] === "1" ? 0 : 1}${bits.slice(i + 1)}`);
  };
  const build = (format) => {
    const groups = FIELDS.map((field) => [field, fieldsOf(format, model.get("bits"))[field].length]).filter(([, size]) => size);
    buttons = [];
    row.replaceChildren(...groups.map(([field, size]) => {
      const own = Array.from({ length: size }, (_, place) => {
        const i = buttons.length;
        const button = html("button", { type: "button", class: "mixlab-be-bit", title: nameOf(field, place, size) });
        button.addEventListener("click", () => (flip(i), goTo(i)));
        buttons.push(button);
        return button;
      });
      const words = html("div", { class: "mixlab-be-name" }, [size === 1 ? field : `${field}, ${size} bits`]);
      const reading = html("div", { class: "mixlab-be-reading" });
      return html("div", { class: `mixlab-be-field mixlab-be-${field}` }, [words, html("div", { class: "mixlab-be-bits" }, own), reading]);
    }));
    goTo = oneTabStop(buttons);
    row.classList.toggle("mixlab-be-small", buttons.length > 20);
  };
  const redraw = () => {
    const format = model.get("_format");
    const bits = model.get("bits");
    if (built !== format.name) build(format);
    built = format.name;
    buttons.forEach((button, i) => {
      if (button.textContent === bits[i]) return;
      button.textContent = bits[i];
      button.setAttribute("aria-pressed", bits[i] === "1");
      button.setAttribute("aria-label", `${button.title}: ${bits[i]}`);
    });
    const readings = readingsOf(format, decode(format, bits));
    for (const field of FIELDS) {
      const place = row.querySelector(`.mixlab-be-${field} .mixlab-be-reading`);
      if (place) place.textContent = readings[field];
    }
  };
  return { node, redraw };
}

function nameOf(field, place, size) {
  if (field === "sign") return "sign bit";
  const left = size - 1 - place;
  return field === "exponent" ? `exponent bit worth ${2 ** left}` : `mantissa bit worth 1/${2 ** (place + 1)}`;
}

function readingsOf({ bias, mantissaBits, signed }, { negative, exponent, mantissa, kind }) {
  const special = { zero: "zero", inf: "all ones: infinity or NaN", nan: "not a number" }[kind];
  return {
    sign: negative ? "−" : "+",
    exponent: kind === "subnormal" ? `0: subnormal, 2${raised(1 - bias)}` : special ?? `${exponent} − ${bias} = ${String(exponent - bias).replace("-", "−")}`,
    mantissa: `${mantissa} / ${2 ** mantissaBits}`,
  };
}

function makeMeaning(model) {
  const value = html("output", { class: "mixlab-be-value" });
  const kind = html("span", { class: "mixlab-be-kind" });
  const formula = html("div", { class: "mixlab-be-formula" });
  const steps = [makeStep("◀", "next below"), makeStep("▶", "next above")];
  const gap = html("span", { class: "mixlab-be-gap" });
  steps.forEach(({ node }, i) =>
    node.addEventListener("click", () => {
      const { bits } = neighbours(model.get("_format"), model.get("bits"))[i] ?? {};
      if (bits) change(model, "bits", bits);
    }),
  );
  const redraw = () => {
    const format = model.get("_format");
    const bits = model.get("bits");
    const meaning = decode(format, bits);
    value.textContent = exactText(meaning.value);
    kind.textContent = { inf: "infinity", nan: "NaN" }[meaning.kind] ?? meaning.kind;
    kind.className = `mixlab-be-kind mixlab-be-is-${meaning.kind}`;
    formula.textContent = formulaOf(format, meaning, bits);
    const beside = neighbours(format, bits);
    steps.forEach((step, i) => step.show(beside[i]));
    gap.textContent = ["inf", "nan"].includes(meaning.kind) ? "" : `gap ${meaning.value < 0 ? "below" : "above"} ${text(ulp(format, bits))}`;
  };
  const node = html("div", { class: "mixlab-be-meaning" }, [
    html("div", {}, [value, kind]),
    formula,
    html("div", { class: "mixlab-be-steps" }, [steps[0].node, gap, steps[1].node]),
  ]);
  return { node, redraw };
}

function makeStep(arrow, words) {
  const shown = html("span", { class: "mixlab-be-number" });
  const parts = [html("span", { "aria-hidden": "true" }, [arrow]), html("span", { class: "mixlab-be-soft" }, [words]), shown];
  const node = html("button", { type: "button", class: "mixlab-be-step" }, parts);
  const show = (neighbour) => {
    shown.textContent = neighbour && !Number.isNaN(neighbour.value) ? text(neighbour.value) : "none";
    node.disabled = !neighbour?.bits;
  };
  return { node, show };
}

/** The value as the product that the three fields stand for. */
function formulaOf({ bias, mantissaBits, hasInf, signed }, { negative, exponent, kind, power, leading, significand, value }, bits) {
  if (kind === "inf") return "The exponent's bits are all ones and the mantissa is 0: infinity.";
  if (kind === "nan") return hasInf ? "The exponent's bits are all ones and the mantissa is not 0: NaN." : "This pattern is NaN; the format has no infinity.";
  const digits = bits.slice(bits.length - mantissaBits);
  const binary = mantissaBits ? `${leading}.${digits}₂` : "1";
  const sign = signed ? `(−1)${raised(Number(negative))} × ` : "";
  const minus = negative ? "−" : "";
  const from = kind === "normal" ? `${exponent}-${bias}` : `1-${bias}`;
  return `${sign}${binary} × 2${raised(from)} = ${minus}${text(significand)} × 2${raised(power)} = ${text(value)}`;
}

function makeWords(model) {
  const status = html("p", { class: "mixlab-be-status", role: "status", "aria-live": "polite" });
  const error = makeError(model);
  const redraw = () => {
    const answer = model.get("_answer");
    const stale = answer.of !== `${model.get("_format").name} ${model.get("bits")}`;
    status.classList.toggle("mixlab-be-stale", stale);
    if (!stale && status.textContent !== answer.status) status.textContent = answer.status;
    error.redraw();
  };
  return { node: html("div", {}, [status, error.node]), redraw };
}

function makeTable(model) {
  const caption = html("caption");
  const body = html("tbody");
  const names = ["format", "stored value", "error", "code"].map((name) => html("th", { scope: "col" }, [name]));
  const node = html("table", { class: "mixlab-be-table" }, [caption, html("thead", {}, [html("tr", {}, names)]), body]);
  let shown = null;
  const redraw = () => {
    const { rows, asked } = model.get("_answer");
    if (shown === rows) return;
    shown = rows;
    caption.textContent = `${asked} in every format`;
    body.replaceChildren(...rows.map(([name, ...cells]) => {
      const here = name === model.get("_format").name;
      const row = html("tr", here ? { class: "mixlab-be-here", "aria-current": "true" } : {}, [
        html("th", { scope: "row" }, [here ? `▸ ${name}` : name]),
        ...cells.map((cell) => html("td", {}, [cell])),
      ]);
      return row;
    }));
  };
  return { node, redraw };
}

// Numbers in words

/** All digits of a float64 if there are at most 30; else the shortest text that reads back as it, after ≈. */
export function exactText(value) {
  const power = powerText(value);
  return power ? `${power} = ${digitsOf(value)}` : digitsOf(value);
}

function digitsOf(value) {
  if (!Number.isFinite(value) || value === 0) return shortest(value);
  const [digits, exponent] = value.toExponential(99).split("e");
  const significant = digits.replace(/\.?0+$/, "");
  const count = significant.replace(/[-.]/g, "").length;
  if (count > 30) return `≈ ${shortest(value)}`;
  return isPlain(exponent) ? value.toFixed(Math.max(0, count - 1 - exponent)) : `${significant}${tenTo(exponent)}`;
}

/** A float64 as Python's repr writes it, without a trailing ".0"; a power of two that would need an e, as 2⁻²⁴. */
export function text(value) {
  return powerText(value) || shortest(value);
}

function powerText(value) {
  const exponent = Math.round(Math.log2(Math.abs(value)));
  if (!Number.isFinite(exponent) || 2 ** exponent !== Math.abs(value) || !shortest(value).includes("e")) return "";
  return `${value < 0 ? "-" : ""}2${raised(exponent)}`;
}

function shortest(value) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const [digits, exponent] = value.toExponential().split("e");
  return isPlain(exponent) ? String(value) : `${digits}${tenTo(exponent)}`;
}

function isPlain(exponent) {
  return exponent >= -4 && exponent < 16;
}

function tenTo(exponent) {
  return `e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}
