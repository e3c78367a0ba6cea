// Sorting and filtering of the translations. Texts are only read, never written as markup.
// The view is kept in the address: #set=1&sort=gain&metric=1&system=0&show=changed&find=word
"use strict";
(() => {
  const STEP = 50;
  const explorers = [...document.querySelectorAll("[data-explorer]")].map(explorer);
  addEventListener("hashchange", () => explorers.forEach((one) => one.read()));
  // What is folded up on the screen belongs on paper: signatures, all p-values.
  addEventListener("beforeprint", () => document.querySelectorAll(".paper").forEach((node) => { node.open = true; }));

  function explorer(root, place) {
    const name = String(place + 1); // which of several test sets a view in the address is of
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
        history.replaceState(null, "", "#" + new URLSearchParams({ set: name, ...state() }));
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
      const view = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
      if ((view.get("set") ?? name) === name) {
        for (const [key, value] of view) {
          const field = fields[key];
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
      const metric = Number(view.metric);
      const all = view.system === "all";
      const chosen = (values) => (all ? values : [values[Number(view.system)]]);
      const gains = (row) => chosen(row.gains).map((of) => of?.[metric] ?? 0);
      const keep = {
        all: () => true,
        changed: (row) => chosen(row.changed).some(Boolean),
        better: (row) => gains(row).some((gain) => gain > 0),
        worse: (row) => gains(row).some((gain) => gain < 0),
      }[view.show];
      const found = rows.filter((row) => keep(row) && row.text.includes(needle));
      // Of several systems the one with the largest gain, or loss, gives a segment its place.
      const place = { order: () => 0, gain: (row) => -Math.max(...gains(row)), loss: (row) => Math.min(...gains(row)) }[view.sort];
      found.sort((a, b) => place(a) - place(b) || a.order - b.order);
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
