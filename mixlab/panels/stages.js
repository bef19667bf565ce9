// The stages of a step as a row of buttons: one Tab stop, arrows move in it, Enter or Space shows a stage.

import { change, html, live, oneTabStop } from "./shared.js";

export default {
  render({ model, el }) {
    const names = model.get("names");
    const buttons = names.map((_, place) => {
      const button = html("button", { type: "button", class: "mixlab-stage" });
      button.addEventListener("click", () => change(model, "index", place));
      return button;
    });
    oneTabStop(buttons);
    const list = html("ol", { class: "mixlab-stages", "aria-label": "Stages of the step" }, buttons.map((button) => html("li", {}, [button])));
    const root = html("div", { class: "mixlab-panel mixlab-stages-panel" }, [list]);
    const redraw = () => {
      const here = model.get("index");
      const within = list.contains(document.activeElement);
      buttons.forEach((button, place) => {
        button.textContent = `${place < here ? "✓" : place + 1} ${names[place]}`;
        button.setAttribute("aria-label", `${place + 1} ${names[place]}${place < here ? ", done" : ""}`);
        if (place === here) button.setAttribute("aria-current", "step");
        else button.removeAttribute("aria-current");
        if (!within) button.tabIndex = place === here ? 0 : -1;
      });
    };
    const end = live(model, el, root, { "change:index": redraw });
    redraw();
    return end;
  },
};
