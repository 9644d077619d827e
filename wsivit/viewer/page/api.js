// Requests to the server, all of them relative to the page: it may lie below a proxy's path.

const TYPES = { u1: Uint8Array, i2: Int16Array, i4: Int32Array, f4: Float32Array };

async function answer(path, options) {
  const response = await fetch(path, { credentials: "same-origin", ...options });
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error || `the server answered ${response.status}`);
  }
  return response;
}

export async function getJson(path) {
  return (await answer(path)).json();
}

/** Arrays by name, each with its `shape`, and the facts that came with them. */
export async function getArrays(path, options) {
  return unpack(await (await answer(path, options)).arrayBuffer());
}

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const arrays = {};
  for (const [name, { type, shape, at }] of Object.entries(header.arrays)) {
    const count = shape.reduce((product, side) => product * side, 1);
    arrays[name] = new TYPES[type](buffer, start + at, count);
    arrays[name].shape = shape;
  }
  return { ...header, arrays };
}

/** Send a stroke of the brush: labels by tile, null to take one away. */
export function sendStroke(key, labels, run) {
  return getArrays(`slide/${key}/paint`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Wsivit-Write": "1" },
    body: JSON.stringify({ labels, run }),
  });
}
