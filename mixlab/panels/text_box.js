// A labelled line of text, with a slider beside it if the model has one. Python reads the text; its answer to one that it
// cannot read stands below.

import { change, freshId, html, live, textField } from "./shared.js";

export default {
  render({ model, el }) {
    const id = `${freshId("mixlab-text-box")}-${Math.random().toString(36).slice(2)}`; // each model has its own script, and its own count
    const act = ({ text, by }) => {
      if (by || text === model.get("value")) model.send(by ? { by } : { again: true });
      else change(model, "value", text);
    };
    const { input, label, error, show } = textField(id, model.get("_label"), act);
    const slider = makeSlider(model);
    const line = html("div", { class: "mixlab-line" }, [label, input, ...(slider ? [slider] : [])]);
    const root = html("div", { class: "mixlab-panel mixlab-text-box" }, [line, error]);
    [label.style.width, root.style.width] = model.get("_widths");
    root.style.maxWidth = "calc(100% - 4px)"; // its margins
    const redraw = () => {
      show(model.get("value"), model.get("error"), model.get("disabled"));
      if (slider) {
        [slider.value, slider.disabled] = [model.get("_place"), model.get("disabled")];
        slider.setAttribute("aria-valuetext", model.get("value"));
      }
    };
    const end = live(model, el, root, { "change:value change:error change:disabled change:_place msg:custom": redraw });
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
