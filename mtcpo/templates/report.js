// Sorting and filtering of the translations. Texts are only read, never written as markup.
// The view is kept in the address: #sort=gain&metric=1&system=0&show=changed&find=word
"use strict";
(() => {
  const STEP = 50;
  const explorers = [...document.querySelectorAll("[data-explorer]")].map(explorer);
  addEventListener("hashchange", () => explorers.forEach((one) => one.read()));
  // What is folded up on the screen belongs on paper: signatures, all p-values.
  addEventListener("beforeprint", () => document.querySelectorAll(".paper").forEach((node) => { node.open = true; }));

  function explorer(root) {
    const rows = [...root.querySelectorAll(".segment")].map((node, order) => ({
      node,
      order,
      gains: JSON.parse(node.dataset.gains),
      changed: JSON.parse(node.dataset.changed),
      text: [...node.querySelectorAll(".text")].map((cell) => cell.textContent).join("\n").toLocaleLowerCase(),
    }));
    const list = root.querySelector(".segments");
    const count = root.querySelector(".count");
    const more = root.querySelector(".more");
    const fields = Object.fromEntries([...root.querySelectorAll("[data-field]")].map((node) => [node.dataset.field, node]));
    let limit = Number(root.dataset.first);

    root.querySelector(".tools").hidden = false;
    for (const field of Object.values(fields)) {
      field.addEventListener("input", () => {
        limit = Number(root.dataset.first);
        history.replaceState(null, "", "#" + new URLSearchParams(state()));
        apply();
      });
    }
    more.addEventListener("click", () => {
      limit += STEP;
      apply();
    });

    function state() {
      return Object.fromEntries(Object.entries(fields).map(([name, node]) => [name, node.value]));
    }

    function read() {
      if (location.hash.includes("=")) {
        for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
          const field = fields[name];
          if (field && (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value))) {
            field.value = value;
          }
        }
      }
      apply();
    }

    function apply() {
      const view = state();
      const needle = view.find.trim().toLocaleLowerCase();
      const system = Number(view.system) || 0;
      const gain = (row) => row.gains[system]?.[Number(view.metric)] ?? 0;
      const differs = (row) => (view.system === "all" ? row.changed.some(Boolean) : Boolean(row.changed[system]));
      const keep = {
        all: () => true,
        changed: differs,
        better: (row) => gain(row) > 0,
        worse: (row) => gain(row) < 0,
      }[view.show];
      const found = rows.filter((row) => keep(row) && row.text.includes(needle));
      const sign = { order: 0, gain: -1, loss: 1 }[view.sort];
      found.sort((a, b) => sign * (gain(a) - gain(b)) || a.order - b.order);
      const shown = found.slice(0, limit);
      for (const row of shown) {
        for (const cell of row.node.querySelectorAll("[data-system]")) {
          cell.hidden = view.system !== "all" && cell.dataset.system !== view.system;
        }
      }
      list.replaceChildren(...shown.map((row) => row.node));
      count.textContent = `${shown.length} of ${found.length} shown` + (found.length < rows.length ? `, ${rows.length} in all` : "");
      more.hidden = shown.length === found.length;
    }

    read();
    return { read };
  }
})();
