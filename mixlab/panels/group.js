// Gives the box that it stands in the role and the name of a group, which ipywidgets has no words for.

const PATIENCE_FRAMES = 600;

export default {
  render({ model, el }) {
    const title = document.createElement("b");
    title.style.cssText = "display: block; margin: 2px; line-height: 1.4; font-size: 13px";
    title.textContent = model.get("title");
    if (model.get("visible")) el.append(title);
    else el.style.display = "none";
    const name = (frames) => {
      const box = el.parentElement;
      if (box) {
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", model.get("title"));
      } else if (frames) requestAnimationFrame(() => name(frames - 1));
    };
    name(PATIENCE_FRAMES);
  },
};
