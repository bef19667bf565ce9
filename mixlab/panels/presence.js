// Sees whether the kernel of a panel is there: after a restart, a shutdown, and in a notebook saved with widget state.

const LOOK_MS = 1000;

// anywidget gives a model 2 s to start. On a busy machine that is too short; the model then draws itself, but throws away
// all that the kernel says from then on. Such a model is told the kernel's news again, and asks for what it missed.
const asked = new WeakSet();

async function keepListening(model) {
  if (!model.comm || asked.has(model)) return;
  asked.add(model);
  try {
    await model._handle_comm_msg({ content: { data: { method: "nothing" } } });
  } catch {
    const listens = Object.getPrototypeOf(Object.getPrototypeOf(model))._handle_comm_msg;
    model.comm.on_msg(listens.bind(model));
    model.comm.send({ method: "request_state" }, {});
  }
}

function* within(model) {
  yield model;
  for (const child of model.get("children") ?? []) yield* within(child);
}

// JupyterLab's command mode would take letters and arrows from lists and radio buttons: b would add a cell. It keeps key
// combinations, and Escape, which leads back to the cell.
function keepFromJupyter(event) {
  const combined = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
  if (!combined && event.key !== "Escape") event.stopPropagation();
}

// A text box of ipywidgets lets no key out, and the browser would offer to save the page. The notebook is what is meant.
function saveTheNotebook(event) {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "s") return;
  event.preventDefault();
  event.stopPropagation();
  event.currentTarget.parentElement.dispatchEvent(new KeyboardEvent("keydown", event));
}

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
  const settle = () => {
    el.parentElement?.addEventListener("keydown", keepFromJupyter); // again is as once
    el.parentElement?.addEventListener("keydown", saveTheNotebook, { capture: true });
  };
  let wasOff = false;
  const look = () => {
    settle();
    for (const one of within(panel)) if (one.name === "AnyModel") keepListening(one);
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
  requestAnimationFrame(settle); // by then it stands in its box
  const timer = setInterval(look, LOOK_MS);
  return () => clearInterval(timer);
}

export default { render };
