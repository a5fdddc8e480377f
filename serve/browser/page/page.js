// The page: choose a model and a photo, and show the answer. Work runs one piece at a time; the last request is shown.

import { verify } from "./golden.js";
import { loadModel } from "./model.js";
import { toTensor } from "./preprocess.js";
import { answer, facts, headChoice } from "./shown.js";
import { KeyNeeded, Zoo } from "./zoo.js";

const ZOO = "../zoo";
const RUNTIME = "runtime";
const FIRST_PHOTO = "taxi-1.jpg";
const RUNS = 9; // the page shows their median

const $ = (id) => document.getElementById(id);
const state = { key: undefined, model: undefined, photo: undefined, head: undefined };
let turn = Promise.resolve();

/** Run `work` after the current work; errors are shown on the page. */
function next(work) {
  turn = turn.then(() => ($("trouble").hidden = true)).then(work).catch(complain);
  return turn;
}

function complain(error) {
  $("loading").hidden = true;
  $("trouble").hidden = false;
  $("trouble").textContent = error.message;
  $("asked").hidden = !(error instanceof KeyNeeded);
  if (error instanceof KeyNeeded) $("key").focus();
  if (!state.model) answer($("answer"), null);
}

async function start() {
  progress("Fetching the list of models");
  const entries = await new Zoo(ZOO, { key: state.key }).index();
  $("asked").hidden = true;
  const wanted = new URLSearchParams(location.search).get("model");
  $("model").replaceChildren(...entries.map(({ id }) => new Option(id, id, id === wanted, id === wanted)));
  $("model").disabled = false;
  if (wanted && !entries.some(({ id }) => id === wanted)) {
    $("model").selectedIndex = -1;
  }
  await load(wanted ?? entries[0].id);
}

async function load(id) {
  await state.model?.close();
  state.model = state.head = undefined;
  const options = { zoo: ZOO, runtime: RUNTIME, key: state.key, onProgress: progress };
  const model = await loadModel(id, options);
  state.model = model;
  headChoice($("heads"), model.card, (head) => {
    state.head = head;
    next(classify);
  });
  progress("Checking the golden outputs");
  facts($("facts"), model, await verify(model));
  $("loading").hidden = true;
  await (state.photo ? classify() : take(await (await fetch(FIRST_PHOTO)).blob()));
}

/** Show and classify a photo (Blob). */
async function take(photo) {
  state.photo = photo;
  URL.revokeObjectURL($("shown").src);
  $("shown").src = URL.createObjectURL(photo);
  $("shown").hidden = false;
  if (state.model) await classify();
}

async function classify() {
  const { model, photo, head } = state;
  const { output } = model.head(head);
  try {
    const [pixels, preprocessMs] = await timed(() => toTensor(photo, model.card.preprocessing));
    const [found] = await timed(() => model.run(pixels, [output])); // the first one also warms up
    const times = [];
    for (let run = 0; run < RUNS; run++) times.push((await timed(() => model.run(pixels, [output])))[1]);
    const median = times.sort((a, b) => a - b)[RUNS >> 1];
    answer($("answer"), model.best(found[output], head), { median, runs: RUNS, preprocessMs });
  } catch (error) {
    answer($("answer"), null);
    throw error;
  }
}

async function timed(work) {
  const started = performance.now();
  const result = await work();
  return [result, performance.now() - started];
}

function progress(what, got, all) {
  $("loading").hidden = false;
  $("status").textContent = all ? `Fetching ${what}: ${megabytes(got)} of ${megabytes(all)}` : what;
  if (all) $("progress").value = got / all;
  else $("progress").removeAttribute("value");
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

$("model").addEventListener("change", () => {
  const id = $("model").value;
  history.replaceState(null, "", `?model=${encodeURIComponent(id)}`);
  next(() => load(id));
});
$("asked").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value;
  next(start);
});
$("choice").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", () => {
  const [photo] = $("file").files;
  $("file").value = ""; // so that the same file can be chosen again
  if (photo) next(() => take(photo));
});
$("samples").addEventListener("click", (event) => {
  const name = event.target.closest("button")?.dataset.photo;
  if (name) next(async () => take(await (await fetch(name)).blob()));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault(); // a photo dropped beside the zone would replace the page
    $("zone").classList.toggle("over", kind === "dragover");
    const photo = kind === "drop" && event.dataTransfer.files[0];
    if (photo) next(() => take(photo));
  });
}
next(start);
