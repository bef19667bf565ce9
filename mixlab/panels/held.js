// A place that is to be replaced by a result. If it is still on the page after that, it asks for the result itself.

const PATIENCE_MS = 500;

async function render({ model, el }) {
  const words = document.createElement("p");
  words.style.cssText = "margin: 0; padding: 0.3em 0.8em; border-left: 4px solid var(--jp-border-color1, #8c8c8c)";
  words.setAttribute("role", "status");
  el.append(words);
  let timer;
  const ask = () => {
    if (model.get("filled")) timer = setTimeout(() => el.isConnected && model.send("still here"), PATIENCE_MS);
  };
  model.on("change:filled", ask);
  ask();
  // The kernel hears of a choice when it is idle; the page knows at once.
  const choice = await model.widget_manager.get_model(model.get("choice")).catch(() => null);
  const say = () => {
    const chosen = (choice?.get("index") ?? null) !== null;
    words.textContent = model.get(chosen ? "words_once_chosen" : "words");
  };
  choice?.on("change:index", say);
  say();
  return () => {
    clearTimeout(timer);
    model.off("change:filled", ask);
    choice?.off("change:index", say);
  };
}

export default { render };
