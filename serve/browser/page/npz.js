// numpy's .npz: a zip of .npy files. Supports only what golden files use; anything else is refused.

import { LeapZooError } from "./errors.js";

const MOST_BYTES = 64 * 2 ** 20;
const TYPES = { "|u1": Uint8Array, "<f4": Float32Array };
const [ENTRY, END] = [0x02014b50, 0x06054b50];
const [STORED, DEFLATED] = [0, 8];

/** Bytes of an .npz -> name -> { data, shape }; uint8 and float32 arrays. Throws LeapZooError. */
export async function readNpz(bytes) {
  try {
    const arrays = {};
    for (const { name, data } of await unzip(bytes)) arrays[name.replace(/\.npy$/, "")] = readNpy(data);
    return arrays;
  } catch (error) {
    throw new LeapZooError(`The golden file cannot be read (${error.message}): the model should be exported again.`);
  }
}

async function unzip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (view.getUint32(end, true) !== END) end--;
  const entries = [];
  let at = view.getUint32(end + 16, true);
  let unpacked = 0;
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(at, true) !== ENTRY) throw new Error("no zip entry");
    const [method, packed, size] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    unpacked += size;
    if (unpacked > MOST_BYTES) throw new Error("too large");
    entries.push({ name, data: await inflate(bytes.subarray(start, start + packed), method, size) });
    at += 46 + nameLength + extra + comment;
  }
  return entries;
}

async function inflate(data, method, size) {
  if (method === STORED) return data.slice();
  if (method !== DEFLATED) throw new Error("unknown compression");
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const out = new Uint8Array(size);
  let length = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    out.set(part.value, length); // throws if there is more than the entry announces
    length += part.value.length;
  }
  if (length !== size) throw new Error("an entry is cut off");
  return out;
}

function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [length, start] = bytes[6] === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const type = TYPES[/'descr': '([^']+)'/.exec(header)?.[1]];
  if (!type || !header.includes("'fortran_order': False")) throw new Error("an array of another kind");
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  const count = shape.reduce((a, b) => a * b, 1);
  return { data: new type(bytes.slice(start + length).buffer, 0, count), shape };
}
