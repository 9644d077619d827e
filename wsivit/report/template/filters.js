"use strict";
// Counts tiles under the limits of the sliders from a sparse joint histogram: rows of levels, with a count each.
(() => {
  const { names, steps, rows } = JSON.parse(document.getElementById("histogram").textContent);
  const inputs = [...document.querySelectorAll("#filters input")];
  const total = rows.reduce((sum, row) => sum + row[names.length], 0);
  const update = () => {
    const limits = inputs.map((input) => ({
      column: names.indexOf(input.dataset.name),
      least: input.dataset.kind === "least",
      value: Number(input.value),
      name: input.dataset.name,
    }));
    let kept = 0;
    for (const row of rows) {
      // A row's levels are the last limit that lets its tiles pass.
      if (limits.every((limit) => limit.least ? row[limit.column] >= limit.value : row[limit.column] <= limit.value)) {
        kept += row[names.length];
      }
    }
    inputs.forEach((input) => {
      input.parentElement.nextElementSibling.textContent = (input.value / steps).toFixed(2);
    });
    document.getElementById("kept").textContent =
      `${kept.toLocaleString("en")} of ${total.toLocaleString("en")} tiles kept (${(100 * kept / Math.max(total, 1)).toFixed(1)} %).`;
    document.getElementById("option").textContent = "wsivit tile …" + limits
      .filter((limit) => limit.least ? limit.value > 0 : limit.value < steps)
      .map((limit) => ` --${limit.least ? "min" : "max"}-${limit.name} ${(limit.value / steps).toFixed(2)}`).join("");
  };
  inputs.forEach((input) => input.addEventListener("input", update));
  update();
})();
