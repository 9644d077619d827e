// One tile: its picture, its exact values, its neighbours.

import { byId, element, length } from "./format.js";
import { entropy, exact } from "./tile-table.js";

export function showTile(page, i, choose) {
  const { table, run, otherRun, slide, columns } = page;
  byId("tile").hidden = false;
  byId("tile-title").textContent = `Tile ${i}`;
  const { arrays } = table;
  const facts = [
    ["Column, row", `${arrays.col[i]}, ${arrays.row[i]}`],
    ["Level-0 pixels", `${arrays.x0[i]}, ${arrays.y0[i]}`],
    ["Status", table.status(i)],
    ["Tissue", exact(arrays.tissue[i])],
  ];
  if (slide.mpp) facts.splice(2, 0, ["From the corner", `${length(arrays.x0[i] * slide.mpp[0])}, ${length(arrays.y0[i] * slide.mpp[1])}`]);
  for (const shown of [run, otherRun]) {
    if (!shown) continue;
    const p = shown.arrays.values.subarray(i * shown.classes.length, (i + 1) * shown.classes.length);
    shown.classes.forEach((name, k) => facts.push([`${shown.run}: ${name}`, exact(p[k])]));
    if (shown.arrays.spread) facts.push([`${shown.run}: spread of views`, exact(shown.arrays.spread[i])]);
    else if (!Number.isNaN(p[0])) facts.push([`${shown.run}: entropy`, entropy([...p]).toFixed(4)]);
  }
  for (const [name, column] of Object.entries(columns)) {
    facts.push([`Label ${name}`, column.codes[i] < 0 ? "none" : column.classes[column.codes[i]]]);
  }
  for (const name of Object.keys(arrays).filter((key) => key.startsWith("qc:"))) facts.push([`QC ${name.slice(3)}`, exact(arrays[name][i])]);
  const neighbours = element("div", { id: "neighbours", role: "group", "aria-label": "Neighbours" });
  for (let dy = -1; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++) {
      const j = table.at(arrays.col[i] + dx, arrays.row[i] + dy);
      neighbours.append(
        j < 0 ? element("span")
          : element("button", { type: "button", "aria-label": `Tile ${j}`, onclick: () => choose(j) }, element("img", { src: page.patch(j), alt: "" })),
      );
    }
  }
  byId("tile-content").replaceChildren(
    element("img", { class: "patch", src: page.patch(i), alt: `Pixels of tile ${i}` }),
    element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    neighbours,
  );
}
