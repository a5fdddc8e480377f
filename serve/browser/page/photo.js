// From the bytes of a file to pixels: upright, without a color profile, transparency over white.

import { LeapZooError } from "./errors.js";
import { takeOrientation, turn } from "./webp.js";

const DECODE = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };

/**
 * A photo (Blob) as { width, height, rows(from, count), close() }; rows gives RGBA bytes (count * width * 4).
 *
 * The browser decodes the formats that it supports: JPEG, PNG, WebP, GIF, BMP, AVIF. Throws LeapZooError for others.
 */
export async function openPhoto(blob) {
  const { blob: file, orientation } = await takeOrientation(blob);
  const decoded = await createImageBitmap(file, DECODE).catch(() => {
    throw new LeapZooError("This browser cannot read the file as a photo. Save it as JPEG, PNG or WebP and try again.");
  });
  const bitmap = await turn(decoded, orientation);
  const { width, height } = bitmap;
  return { width, height, rows: reader(bitmap), close: () => bitmap.close() };
}

/** Rows are copied strip by strip: some phones do not allow a canvas of the whole photo. */
function reader(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true, colorSpace: "srgb" });
  return (from, count) => {
    canvas.height = count; // this also clears it
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, count);
    context.drawImage(bitmap, 0, from, bitmap.width, count, 0, 0, bitmap.width, count);
    return context.getImageData(0, 0, bitmap.width, count).data;
  };
}
