// onnxruntime-web from a folder that `make browser` fills: CPU only, the WebAssembly gzipped.

import { LeapZooError } from "./errors.js";

const MODULE = "ort.wasm.bundle.min.js";
const WASM = "ort-wasm-simd-threaded.wasm.gz";
const MOST_THREADS = 4;

let loading; // one per page: the runtime's settings are global

/** URL of the folder -> { ort, version }. Throws LeapZooError. */
export function loadRuntime(address) {
  loading ??= load(new URL(address.replace(/\/?$/, "/"), document.baseURI));
  loading.catch(() => (loading = undefined));
  return loading;
}

async function load(folder) {
  const zipped = await fetched(folder, WASM);
  const unzipped = new Response(zipped.body.pipeThrough(new DecompressionStream("gzip")));
  const wasm = await unzipped.arrayBuffer().catch(() => {
    throw new LeapZooError(`${zipped.url} was not received completely. Reload the page.`);
  });
  const ort = await import(new URL(MODULE, folder));
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  return { ort, version: ort.env.versions.web };
}

async function fetched(folder, name) {
  const answer = await fetch(new URL(name, folder)).catch(() => {
    throw new LeapZooError(`${name} could not be fetched. Is the server still running? Load the page again.`);
  });
  if (answer.ok) return answer;
  throw new LeapZooError("onnxruntime-web, which runs the model, is not on this server. The server's operator can fetch it " +
    "with `make browser` (which needs npm) in the checkout and restart the server.");
}
