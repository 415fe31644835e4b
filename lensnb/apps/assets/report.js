// Shows the widgets that a notebook has stored. It needs no kernel and no network.
// It knows boxes, stacks, HTML, sliders, play buttons, choices, and the links between them.
// A knob without a link needs a kernel, so it is disabled.
(() => {
  const stored = document.querySelector('script[type="application/vnd.jupyter.widget-state+json"]');
  if (!stored) return;
  const models = JSON.parse(stored.textContent).state, watchers = {}, linked = new Set();
  const named = (reference) => reference.replace("IPY_MODEL_", "");
  const get = (id, key) => models[id].state[key];
  const watch = (id, react) => (watchers[id] ??= []).push(react);
  const set = (id, key, value) => {
    if (get(id, key) === value) return;
    models[id].state[key] = value;
    (watchers[id] ?? []).forEach((react) => react(key));
  };

  function link(source, target) {
    const [a, from] = [named(source[0]), source[1]], [b, to] = [named(target[0]), target[1]];
    linked.add(a).add(b);
    set(b, to, get(a, from));
    watch(a, (key) => key === from && set(b, to, get(a, from)));
    watch(b, (key) => key === to && set(a, from, get(b, to)));
  }

  function element(kind, properties = {}, ...children) {
    const made = Object.assign(document.createElement(kind), properties);
    made.append(...children);
    return made;
  }

  const needsKernel = (id) => (linked.has(id) ? {} : { disabled: true, title: "needs a running kernel: open the notebook" });
  const labelled = (id, ...parts) => element("label", { className: "knob" }, get(id, "description") + " ", ...parts);

  function slider(id) {
    const range = element("input", { type: "range", min: get(id, "min"), max: get(id, "max"), step: get(id, "step") ?? 1,
      value: get(id, "value"), ...needsKernel(id) });
    const number = element("output", { value: get(id, "value") });
    range.oninput = () => set(id, "value", Number(range.value));
    watch(id, () => { range.value = number.value = get(id, "value"); });
    return labelled(id, range, number);
  }

  function choice(id) {
    const select = element("select", needsKernel(id), ...get(id, "_options_labels").map((text) => element("option", {}, text)));
    select.selectedIndex = get(id, "index");
    select.onchange = () => set(id, "index", select.selectedIndex);
    watch(id, () => { select.selectedIndex = get(id, "index"); });
    return labelled(id, select);
  }

  function tick(id) {
    const made = element("input", { type: "checkbox", checked: get(id, "value"), ...needsKernel(id) });
    made.onchange = () => set(id, "value", made.checked);
    return element("label", { className: "knob" }, made, get(id, "description"));
  }

  function play(id) {
    const button = element("button", { textContent: "▶", ariaLabel: "play" });
    let timer;
    const stop = () => { clearTimeout(timer); timer = undefined; button.textContent = "▶"; };
    const advance = () => {
      if (get(id, "value") >= get(id, "max")) return stop();
      set(id, "value", get(id, "value") + 1);
      timer = setTimeout(advance, get(id, "interval"));
    };
    button.onclick = () => {
      if (timer) return stop();
      if (get(id, "value") >= get(id, "max")) set(id, "value", get(id, "min"));
      button.textContent = "⏸";
      timer = setTimeout(advance, get(id, "interval"));
    };
    return button;
  }

  function stack(id) {
    const made = [], box = element("div");
    const show = () => {
      const chosen = get(id, "selected_index");
      made[chosen] ??= view(named(get(id, "children")[chosen]));
      box.replaceChildren(made[chosen]);
    };
    watch(id, show);
    show();
    return box;
  }

  function text(id) {
    const box = element("div", { innerHTML: get(id, "value") });
    watch(id, () => { box.innerHTML = get(id, "value"); });
    return box;
  }

  const box = (className) => (id) => element("div", { className }, ...get(id, "children").map((child) => view(named(child))));
  const views = { VBoxModel: box("column"), HBoxModel: box("row"), BoxModel: box("row"), StackModel: stack, HTMLModel: text, IntSliderModel: slider,
    FloatSliderModel: slider, DropdownModel: choice, CheckboxModel: tick, PlayModel: play };
  const view = (id) => (views[models[id].model_name] ?? (() => element("em", {}, "a widget that this page cannot show")))(id);

  for (const model of Object.values(models)) if (model.model_name === "LinkModel") link(model.state.source, model.state.target);
  document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]').forEach((script) => {
    const id = JSON.parse(script.textContent).model_id;
    if (models[id]) script.replaceWith(view(id));
  });
})();
