// A published ONNX file, loaded and run in this page.

import { LeapZooError } from "./errors.js";
import { toTensor } from "./preprocess.js";
import { loadRuntime } from "./runtime.js";
import { canCheck, Zoo } from "./zoo.js";

/**
 * Fetch a model of a zoo, check it, and make it ready to run.
 *
 * zoo, runtime: URLs of folders. key: for servers that require one. onProgress(what, bytes so far, bytes).
 * Throws LeapZooError; its message says what is wrong and how to fix it.
 */
export async function loadModel(id, { zoo, runtime, key, onProgress = () => {} }) {
  const place = new Zoo(zoo, { key });
  const entry = (await place.index()).find((one) => one.id === id);
  if (!entry) throw new LeapZooError(`This server has no model ${id}. Choose another one.`);
  const card = await place.card(entry);
  const artifact = chooseArtifact(card);
  onProgress("onnxruntime-web");
  const engine = await loadRuntime(runtime);
  const data = await place.file(id, artifact, (got, all) => onProgress(artifact.file, got, all));
  const session = await engine.ort.InferenceSession.create(data, { executionProviders: ["wasm"] }).catch((error) => {
    throw new LeapZooError(`onnxruntime-web ${engine.version} cannot run ${artifact.file} (${error.message}). ` +
      "Try a newer browser.");
  });
  return new Model(place, card, artifact, engine, session);
}

/** The int8 ONNX file if there is one, otherwise the smallest ONNX file. */
export function chooseArtifact(card) {
  const files = card.artifacts.filter(({ format }) => format === "onnx").sort((a, b) => a.bytes - b.bytes);
  const chosen = files.find(({ precision }) => precision === "int8") ?? files[0];
  if (!chosen) throw new LeapZooError(`${card.id} has no ONNX file, and browsers run only those. Choose another model.`);
  return chosen;
}

export class Model {
  constructor(zoo, card, artifact, engine, session) {
    Object.assign(this, { zoo, card, artifact, engine, session, checked: canCheck() });
  }

  /** The head with this name (default: the model's default head): { name, output, labels }. Throws LeapZooError. */
  head(name = this.card.default_head) {
    const found = this.card.heads.find((head) => head.name === name);
    if (found) return found;
    throw new LeapZooError(`${this.card.id} has no head ${name}. Its heads: ` +
      `${this.card.heads.map((head) => head.name).join(", ")}.`);
  }

  /** A photo (Blob) -> the `top` best classes of a head, best first: [{ label, score, index }], scores in 0..1. The list's
   *  `unsure`: whether the photo is unlike the head's training photos. */
  async classify(photo, { head, top = 5 } = {}) {
    const { output } = this.head(head);
    const found = await this.run(await toTensor(photo, this.card.preprocessing), [output]);
    return this.best(found[output], head, top);
  }

  /** A photo (Blob) -> a Float32Array of unit length. space: "student", or "teacher" for the large teacher's. */
  async embed(photo, { space = "student" } = {}) {
    const output = space === "teacher" ? "teacher_embedding" : "embedding";
    return (await this.run(await toTensor(photo, this.card.preprocessing), [output]))[output];
  }

  /** Pixels (Uint8Array, photos * size * size * 3) -> output name -> Float32Array (photos * D). */
  async run(pixels, outputs) {
    const { size } = this.card.preprocessing;
    const image = new this.engine.ort.Tensor("uint8", pixels, [pixels.length / (size * size * 3), size, size, 3]);
    const found = await this.session.run({ [this.card.inputs[0].name]: image }, outputs);
    return Object.fromEntries(outputs.map((name) => [name, found[name].data]));
  }

  /** Logits of one photo -> the `top` best classes of a head, as `classify` gives them. */
  best(logits, head, top = 5) {
    const { labels, doubt } = this.head(head);
    const found = Array.from(softmax(logits, doubt?.temperature), (score, index) => ({ label: labels[index], score, index }))
      .sort((a, b) => b.score - a.score)
      .slice(0, top);
    return Object.assign(found, { unsure: doubt != null && energy(logits) > doubt.threshold });
  }

  /** Free the memory that the runtime holds for this model. */
  async close() {
    await this.session.release();
  }
}

/** Logits of one photo -> scores that add up to 1. */
export function softmax(logits, temperature = 1) {
  const most = largest(logits);
  const powers = Float64Array.from(logits, (value) => Math.exp((value - most) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

/** Logits of one photo -> its distance from all classes, as in leap_zoo.doubt. */
function energy(logits) {
  const most = largest(logits);
  return -(most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0)));
}

const largest = (logits) => logits.reduce((a, b) => Math.max(a, b), -Infinity);
