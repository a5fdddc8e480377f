// A zoo over HTTP: index.json -> card.json -> files, each against the digest that the one before it names.

import { LeapZooError } from "./errors.js";

const MOST_INDEX_BYTES = 4 * 2 ** 20;

/** Whether this page may compute digests: browsers allow it on https and localhost only. */
export const canCheck = () => globalThis.crypto?.subtle !== undefined;

export class Zoo {
  /** address: of the folder that holds index.json; key: for servers that ask for one. */
  constructor(address, { key } = {}) {
    this.address = new URL(address.replace(/\/?$/, "/"), document.baseURI);
    this.headers = key ? { "X-API-Key": key } : {};
  }

  /** The entries of index.json, in its order. */
  async index() {
    const { models } = parse(await this.#get("index.json", MOST_INDEX_BYTES), "index.json");
    return models;
  }

  /** The card of an entry of the index. */
  async card(entry) {
    return parse(await this.file(entry.id, { ...entry, file: "card.json" }), "card.json");
  }

  /**
   * The bytes of a file of a model, once its length and sha256 are what they should be. Where `canCheck()` is false the
   * digest is left out. file: { file, bytes, sha256 } as in a card; onProgress(bytes so far, bytes).
   */
  async file(id, { file, bytes, sha256 }, onProgress = () => {}) {
    const data = await this.#get(`${encodeURIComponent(id)}/${encodeURIComponent(file)}`, bytes, onProgress);
    if (data.length !== bytes || (canCheck() && (await digest(data)) !== sha256)) {
      throw new LeapZooError(`${file} is not what the card says (its sha256 or its length differs), and was not used. ` +
        "Load the page again; if that does not help, whoever runs the server should copy the model's folder anew.");
    }
    return data;
  }

  async #get(path, most, onProgress = () => {}) {
    const answer = await fetch(new URL(path, this.address), { headers: this.headers }).catch(() => {
      throw new LeapZooError(`${path} could not be fetched. Is the server still running? Load the page again.`);
    });
    if (answer.status === 401) throw new KeyNeeded();
    if (!answer.ok) {
      throw new LeapZooError(`The server has no ${path} (it answered ${answer.status}). Choose another model.`);
    }
    return readAll(answer, most, onProgress);
  }
}

/** The server hands its models only to those who have a key. */
export class KeyNeeded extends LeapZooError {
  constructor() {
    super("This server hands on its models with a key only: type yours in.");
  }
}

/** The body of an answer, at most `most` bytes. onProgress(bytes so far, most). Throws LeapZooError. */
export async function readAll(answer, most, onProgress = () => {}) {
  const data = new Uint8Array(most);
  let length = 0;
  try {
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) return data.subarray(0, length);
      if (length + value.length > most) {
        await reader.cancel();
        throw new LeapZooError(`${answer.url} is larger than announced, and was not used. Load the page again.`);
      }
      data.set(value, length);
      length += value.length;
      onProgress(length, most);
    }
  } catch (error) {
    if (error instanceof LeapZooError) throw error;
    throw new LeapZooError(`${answer.url} broke off. Load the page again.`);
  }
}

async function digest(data) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parse(data, name) {
  try {
    return JSON.parse(new TextDecoder().decode(data));
  } catch {
    throw new LeapZooError(`${name} is no JSON. Is this the address of a zoo?`);
  }
}
