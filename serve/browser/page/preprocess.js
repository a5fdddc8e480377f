// The same as leap_zoo.preprocess: short side to `short_side`, center crop to `size`, both in one step.

import { openPhoto } from "./photo.js";
import { resize } from "./resize.js";

/**
 * A photo (Blob) -> Uint8Array (size * size * 3), RGB in 0..255.
 *
 * spec: `preprocessing` of a model's card. Throws LeapZooError when the browser cannot decode the photo.
 */
export async function toTensor(blob, spec) {
  const photo = await openPhoto(blob);
  try {
    return resize(photo, center(photo, spec), spec.size, spec.filter);
  } finally {
    photo.close();
  }
}

/** [left, top, right, bottom] of the region that the crop keeps, in the photo's pixels. */
export function center({ width, height }, { size, short_side }) {
  const side = (Math.min(width, height) * size) / short_side;
  const left = (width - side) / 2;
  const top = (height - side) / 2;
  return [left, top, Math.min(left + side, width), Math.min(top + side, height)];
}
