// Checks that the model gives the same outputs here as where it was published. The card lists golden photos, outputs and
// a tolerance.

import { LeapZooError } from "./errors.js";
import { softmax } from "./model.js";
import { readNpz } from "./npz.js";

/** model -> { ok, difference, tolerance }: the largest difference of any output, as `leap-zoo verify` measures it. */
export async function verify(model) {
  const { card, artifact } = model;
  const golden = await readNpz(await model.zoo.file(card.id, card.golden));
  const expected = Object.entries(golden)
    .filter(([name]) => name.startsWith(`${artifact.file}/`))
    .map(([name, array]) => [name.slice(artifact.file.length + 1), array]);
  if (!golden.image || expected.length === 0) {
    throw new LeapZooError(`The golden file has nothing about ${artifact.file}: the model should be exported again.`);
  }
  const logits = new Set(card.heads.map((head) => head.output));
  const found = await model.run(golden.image.data, expected.map(([name]) => name));
  const differences = expected.map(([name, array]) => furthest(found[name], array, logits.has(name)));
  const difference = Math.max(...differences); // NaN stays NaN, and is not ok
  const tolerance = card.golden.tolerance[artifact.precision].default; // WebAssembly does not reveal the instruction set, so no stricter tolerance applies
  return { ok: difference <= tolerance, difference, tolerance };
}

function furthest(found, { data, shape: [photos, width] }, areLogits) {
  if (found.length !== data.length) return NaN;
  let most = 0;
  for (let photo = 0; photo < photos; photo++) {
    let [ours, theirs] = [found, data].map((values) => values.subarray(photo * width, (photo + 1) * width));
    if (areLogits) [ours, theirs] = [softmax(ours), softmax(theirs)];
    ours.forEach((value, at) => (most = Math.max(most, Math.abs(value - theirs[at]))));
  }
  return most;
}
