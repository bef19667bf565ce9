// A labelled line of text, with a slider beside it if the model has one. Python reads the text; its answer to one that it
// cannot read stands below.

import { change, freshId, html, live } from "./shared.js";

export default {
  render({ model, el }) {
    const id = `${freshId("mixlab-text-box")}-${Math.random().toString(36).slice(2)}`; // each model has its own script, and its own count
    const input = html("input", { id, type: "text", autocomplete: "off", spellcheck: "false" });
    const label = html("label", { for: id }, [model.get("_label")]);
    const error = html("p", { id: `${id}-error`, class: "mixlab-error", role: "alert" });
    const slider = makeSlider(model);
    const line = html("div", { class: "mixlab-line" }, [label, input, ...(slider ? [slider] : [])]);
    const root = html("div", { class: "mixlab-panel mixlab-text-box" }, [line, error]);
    [label.style.width, root.style.width] = model.get("_widths");
    root.style.maxWidth = "100%";
    input.addEventListener("change", () => change(model, "value", input.value));
    input.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      model.send({ by });
    });
    const redraw = () => {
      const words = model.get("error");
      input.value = model.get("value");
      input.disabled = model.get("disabled");
      if (slider) [slider.value, slider.disabled] = [model.get("_place"), input.disabled];
      input.setAttribute("aria-invalid", String(Boolean(words)));
      if (words) input.setAttribute("aria-describedby", error.id);
      else input.removeAttribute("aria-describedby");
      error.textContent = words;
      error.hidden = !words;
    };
    const end = live(model, el, root, { "change:value change:error change:disabled change:_place": redraw });
    redraw();
    return end;
  },
};

function makeSlider(model) {
  const [min, max] = model.get("_slider");
  if (min === undefined) return null;
  const slider = html("input", { type: "range", min, max, step: 1, "aria-label": `${model.get("_label")}, slider` });
  slider.addEventListener("input", () => model.send({ to: Number(slider.value) }));
  return slider;
}
