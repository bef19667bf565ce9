// Sees whether the kernel of a panel is there: after a restart, a shutdown, and in a notebook saved with widget state.

const LOOK_MS = 1000;

async function render({ model, el }) {
  const note = document.createElement("p");
  note.className = "mixlab-guard";
  note.setAttribute("role", "status");
  note.hidden = true;
  el.append(note);
  let panel;
  try {
    panel = await model.widget_manager.get_model(model.get("panel"));
  } catch {
    return undefined; // a page that keeps its models elsewhere
  }
  const named = () => {
    const group = model.get("group");
    if (!group) return;
    el.parentElement?.setAttribute("role", "group");
    el.parentElement?.setAttribute("aria-label", group);
  };
  let wasOff = false;
  const look = () => {
    named();
    const kernel = model.widget_manager.kernel;
    const off = !panel.comm_live || kernel === null || ["dead", "terminating"].includes(kernel?.status);
    if (wasOff === off) return;
    wasOff = off;
    const words = model.get("words");
    note.textContent = off ? words : "";
    note.hidden = !off || !words;
    for (const other of el.parentElement?.children ?? []) {
      if (other !== el) other.inert = off;
    }
    el.parentElement?.classList.toggle("mixlab-off", off);
  };
  requestAnimationFrame(named); // by then it stands in its box
  const timer = setInterval(look, LOOK_MS);
  return () => clearInterval(timer);
}

export default { render };
