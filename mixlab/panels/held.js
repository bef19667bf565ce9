// A place that is to be replaced by a result. If it is still on the page after that, it asks for the result itself.

const PATIENCE_MS = 500;

function render({ model, el }) {
  const words = document.createElement("p");
  words.textContent = model.get("words");
  words.style.cssText = "margin: 0; padding: 0.3em 0.8em; border-left: 4px solid var(--jp-border-color1, #8c8c8c)";
  el.append(words);
  let timer;
  const ask = () => {
    if (model.get("filled")) timer = setTimeout(() => el.isConnected && model.send("still here"), PATIENCE_MS);
  };
  model.on("change:filled", ask);
  ask();
  return () => {
    clearTimeout(timer);
    model.off("change:filled", ask);
  };
}

export default { render };
