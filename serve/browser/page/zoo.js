// A zoo over HTTP: index.json -> card.json -> files, each checked against the digest in the one before it.

import { LeapZooError } from "./errors.js";

const MOST_INDEX_BYTES = 4 * 2 ** 20;

/** Whether this page can compute digests: browsers allow it only on https and localhost. */
export const canCheck = () => globalThis.crypto?.subtle !== undefined;

export class Zoo {
  /** address: the URL of the folder with index.json; key: for servers that require one. */
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
   * The bytes of a file of a model, after a check of its length and sha256. If `canCheck()` is false, the digest is not
   * checked. file: { file, bytes, sha256 } as in a card; onProgress(bytes so far, bytes).
   */
  async file(id, { file, bytes, sha256 }, onProgress = () => {}) {
    const data = await this.#get(`${encodeURIComponent(id)}/${encodeURIComponent(file)}`, bytes, onProgress);
    if (data.length !== bytes || (canCheck() && (await digest(data)) !== sha256)) {
      throw new LeapZooError(`${file} differs from its card (in sha256 or length) and was not used. ` +
        "Reload the page; if that does not help, the server's operator must copy the model's folder again.");
    }
    return data;
  }

  async #get(path, most, onProgress = () => {}) {
    const answer = await fetch(new URL(path, this.address), { headers: this.headers }).catch(() => {
      throw new LeapZooError(`${path} could not be fetched. Check that the server is running, and reload the page.`);
    });
    if (answer.status === 401) throw new KeyNeeded();
    if (!answer.ok) {
      throw new LeapZooError(`The server has no ${path} (it answered ${answer.status}). Choose another model.`);
    }
    return readAll(answer, most, onProgress);
  }
}

/** The server requires a key for its models. */
export class KeyNeeded extends LeapZooError {
  constructor() {
    super("This server requires an API key for its models: enter yours.");
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
        throw new LeapZooError(`${answer.url} is larger than announced and was not used. Reload the page.`);
      }
      data.set(value, length);
      length += value.length;
      onProgress(length, most);
    }
  } catch (error) {
    if (error instanceof LeapZooError) throw error;
    throw new LeapZooError(`${answer.url} was not received completely. Reload the page.`);
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
    throw new LeapZooError(`${name} is not valid JSON. Check that this is the address of a zoo.`);
  }
}
