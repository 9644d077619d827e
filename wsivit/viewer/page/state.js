// What is on the screen, in the address after #: a link shows the same view. Coordinates are level-0 pixels.

export function readState() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

let waiting = null;
let changes = {};

/** Change some values, or remove those that are null. The address follows a moment later: browsers limit how often. */
export function writeState(changed) {
  Object.assign(changes, changed);
  waiting ??= setTimeout(flushState, 150);
}

export function flushState() {
  clearTimeout(waiting);
  waiting = null;
  const values = { ...readState(), ...changes };
  changes = {};
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

/** Forget what is not written yet: the address was changed by somebody else. */
export function dropChanges() {
  clearTimeout(waiting);
  waiting = null;
  changes = {};
}
