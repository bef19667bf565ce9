// What the panels' scripts share: elements, keys, and the panel's life on the page.

const SVG = "http://www.w3.org/2000/svg";
let views = 0;

/** An id that no other view of this script has. */
export function freshId(name) {
  return `${name}-${++views}`;
}

export function html(tag, attributes = {}, children = []) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, children = []) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function filled(node, attributes, children = []) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A whole number with its characters raised: raised(-24) is "⁻²⁴". */
export function raised(number) {
  return [...String(number)].map((character) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(character)]).join("");
}

/** A power of two as the tables write it: power(-24) is "2⁻²⁴", and power(14.5) is "1.41 × 2¹⁴". */
export function power(exponent) {
  const whole = Math.floor(exponent);
  const factor = Number((2 ** (exponent - whole)).toPrecision(3));
  if (factor === 1 || factor === 2) return `2${raised(factor === 2 ? whole + 1 : whole)}`;
  return `${factor} × 2${raised(whole)}`;
}

/** Gives a drawing its size in pixels. */
export function sized(node, width, height) {
  return filled(node, { width, height, viewBox: `0 0 ${width} ${height}` });
}

/** Sets a trait of the widget in the browser and in Python. */
export function change(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

/** A paragraph with the panel's error, hidden while there is none. */
export function makeError(model) {
  const node = html("p", { class: "mixlab-error", role: "alert" });
  const redraw = () => {
    node.textContent = model.get("_error");
    node.hidden = !node.textContent;
  };
  return { node, redraw };
}

/** Puts a panel on the page and keeps it drawn; returns the function that ends this. `handlers` are keyed by events. */
export function live(model, el, root, handlers, resized) {
  keepKeysFromJupyter(root);
  el.append(root);
  for (const [events, handler] of Object.entries(handlers)) model.on(events, handler);
  const width = resized && new ResizeObserver(resized);
  width?.observe(root);
  return () => {
    width?.disconnect();
    for (const [events, handler] of Object.entries(handlers)) model.off(events, handler);
  };
}

// JupyterLab's command mode would take arrows, letters and Enter away from the controls. It keeps key combinations.
function keepKeysFromJupyter(root) {
  root.addEventListener("keydown", (event) => {
    const combined = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    if (!combined && event.key !== "Escape") event.stopPropagation();
  });
}

/** Makes a row of buttons one stop of the Tab key; arrows, Home and End move in it. Returns the function that moves. */
export function oneTabStop(buttons) {
  const goTo = (place) => {
    const to = Math.min(Math.max(place, 0), buttons.length - 1);
    buttons.forEach((button, i) => (button.tabIndex = i === to ? 0 : -1));
    buttons[to].focus();
  };
  buttons.forEach((button, i) => {
    button.tabIndex = i ? -1 : 0;
    button.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      goTo(to);
    });
  });
  return goTo;
}

/**
 * A line of text with its label, and below it why it was refused. `act` gets {text} when the line is left or Enter is
 * pressed, and {by: 1} or {by: -1} from the arrow keys; what is being typed is never replaced.
 */
export function textField(id, words, act, attributes = {}) {
  const input = html("input", { id, type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
  const label = html("label", { for: id }, [words]);
  const error = html("p", { id: `${id}-error`, class: "mixlab-error mixlab-refusal", role: "alert" });
  let typing = false;
  const take = () => {
    typing = false;
    act({ text: input.value });
  };
  input.addEventListener("input", () => (typing = true));
  input.addEventListener("change", take);
  input.addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (by) {
      event.preventDefault();
      typing = false;
      act({ by });
    } else if (event.key === "Enter" && !typing && !error.hidden) take(); // what stood in its way may be gone
  });
  const show = (text, refusal, disabled = false) => {
    if (!typing && input.value !== text) input.value = text;
    input.disabled = disabled;
    input.setAttribute("aria-invalid", String(Boolean(refusal)));
    if (refusal) input.setAttribute("aria-describedby", error.id);
    else input.removeAttribute("aria-describedby");
    if (error.textContent !== refusal) error.textContent = refusal;
    error.hidden = !refusal;
  };
  show("", "");
  return { input, label, error, show };
}

/** A `textField` for what a drawn panel lists in its `typed_boxes`; Python reads the text. */
export function typedBox(model, id, name, words, shown, attributes = {}) {
  const field = textField(id, words, (what) => model.send({ typed: name, ...what }), attributes);
  const redraw = () => {
    const refused = model.get("_refused")[name];
    field.show(...(refused ?? [shown(), ""]));
  };
  const line = html("span", { class: "mixlab-typed-line" }, [field.label, field.input]);
  return { ...field, node: html("span", { class: "mixlab-typed" }, [line, field.error]), redraw };
}
