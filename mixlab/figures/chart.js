// Gives each chart with a summary its name for screen readers, and takes its buttons out of the tab order.
(() => {
  if (window.mixlabCharts) return window.mixlabCharts();
  const known = new Map(); // every change of the page looks at all charts, so each text is parsed once
  const plain = (text) => {
    if (!known.has(text)) {
      const spaced = String(text).replace(/<br\s*\/?>/g, ". ");
      known.set(text, new DOMParser().parseFromString(spaced, "text/html").body.textContent.trim());
    }
    return known.get(text);
  };
  const tend = (chart) => {
    const summary = chart.layout?.meta?.summary;
    if (!summary) return;
    chart.classList.add("mixlab-figure");
    const [picture, ...others] = chart.querySelectorAll(".main-svg");
    const name = [chart.layout.title?.text, summary].filter(Boolean).map(plain).join(". ");
    if (picture?.getAttribute("aria-label") !== name) {
      picture?.setAttribute("role", "img");
      picture?.setAttribute("aria-label", name);
    }
    for (const other of [...others, ...chart.querySelectorAll(".gl-container, .modebar-container")]) {
      other.setAttribute("aria-hidden", "true");
    }
    for (const button of chart.querySelectorAll(".modebar-btn")) button.tabIndex = -1;
  };
  // In a notebook that was saved, JupyterLab shows a picture in the colours of that day until the mouse is over it.
  const wake = (picture) => {
    if (picture.dataset.woken || !picture.src || !picture.closest(".jp-OutputArea")?.querySelector(".mixlab-figures")) return;
    picture.dataset.woken = "yes";
    picture.alt = "";
    picture.dispatchEvent(new MouseEvent("mouseenter"));
  };
  const look = () => {
    document.querySelectorAll(".js-plotly-plot").forEach(tend);
    document.querySelectorAll(".jp-RenderedPlotly > .plot-img").forEach(wake);
  };
  let due = 0;
  const later = () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      look();
    });
  };
  new MutationObserver(later).observe(document.body, { childList: true, subtree: true });
  window.mixlabCharts = later;
  later();
})();
