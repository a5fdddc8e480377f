// onnxruntime-web from a folder that `python -m serve.browser` (`make browser`) fills: CPU only, the WebAssembly gzipped.

import { LeapZooError } from "./errors.js";
import { readAll } from "./zoo.js";

const MOST_THREADS = 4;

let loading; // one per page: the runtime's settings are global

/** URL of the folder -> { ort, version, licence }. onProgress(bytes so far, bytes). Throws LeapZooError. */
export function loadRuntime(address, onProgress = () => {}) {
  loading ??= load(new URL(address.replace(/\/?$/, "/"), document.baseURI), onProgress);
  loading.catch(() => (loading = undefined));
  return loading;
}

async function load(folder, onProgress) {
  const about = await (await fetched(folder, "runtime.json")).json();
  const zipped = await readAll(await fetched(folder, about.wasm.file), about.wasm.bytes, onProgress);
  const unzipped = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const ort = await import(new URL(about.module, folder));
  ort.env.wasm.wasmBinary = await new Response(unzipped).arrayBuffer();
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  return { ort, version: about.version, licence: about.licence };
}

async function fetched(folder, name) {
  const answer = await fetch(new URL(name, folder)).catch(() => {
    throw new LeapZooError(`${name} could not be fetched. Is the server still running? Load the page again.`);
  });
  if (answer.ok) return answer;
  throw new LeapZooError("onnxruntime-web, which runs the model, is not on this server. The server's operator can fetch it " +
    "with `make browser` (which needs npm) in the checkout and restart the server.");
}
