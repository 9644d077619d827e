// Numbers as people read them, and small helpers for elements.

export const byId = (id) => document.getElementById(id);

/** Make an element with attributes; `on…` are listeners, children are elements or text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  select.value = options.some(([value]) => value === chosen) ? chosen : (options[0]?.[0] ?? "");
}

export const percent = (share) => `${(100 * share).toPrecision(4)} %`;
export const squareMm = (area) => `${Number(area.toPrecision(6))} mm²`;

export function length(um) {
  return um >= 1000 ? `${Number((um / 1000).toPrecision(6))} mm` : `${Number(um.toPrecision(6))} µm`;
}

/** The largest of 1, 2, 5, 10, … that is at most `most`. */
export function niceLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((digit) => digit * power).find((nice) => nice <= most) ?? power;
}

/** A word as a POSIX shell takes it. */
export const shellWord = (word) => (/^[\w.,:=@%+/-]+$/.test(word) ? word : `'${String(word).replaceAll("'", "'\\''")}'`);

export function notify(text) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = !text;
}

/**
 * Show a dialog; with `copy`, a text to copy that is in the clipboard already where the browser allows it.
 * `submitted` is called when it is closed by its button or Enter, not by Escape.
 */
export async function showDialog(title, body, copy, submitted = null) {
  byId("dialog").querySelector("form").onsubmit = submitted;
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...[body].flat());
  if (copy !== undefined) {
    const area = element("textarea", { rows: 4, readonly: true, "aria-label": title });
    area.value = copy;
    byId("dialog-body").append(area);
    const copied = await navigator.clipboard?.writeText(copy).then(() => true, () => false);
    byId("dialog-body").append(copied ? "It is in the clipboard." : "Copy it from here.");
    byId("dialog").showModal();
    area.select();
  } else if (!byId("dialog").open) byId("dialog").showModal();
}
