// Chromium applies the EXIF orientation of JPEG and PNG, but not of WebP. So this module removes the orientation from a
// WebP file before the browser decodes it, and applies it itself, in every browser.

const ORIENTATION = 0x0112;

/** The position of a WebP file's orientation: { at, little, value } in `bytes`, or undefined. */
function find(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (text(0) !== "RIFF" || text(8) !== "WEBP") return undefined;
  let chunk = 12;
  while (text(chunk) !== "EXIF") {
    const size = view.getUint32(chunk + 4, true); // throws at the end of the file
    chunk += 8 + size + (size % 2);
  }
  const tiff = chunk + 8 + (text(chunk + 8) === "Exif" ? 6 : 0);
  const little = text(tiff).startsWith("II");
  const directory = tiff + view.getUint32(tiff + 4, little);
  for (let left = view.getUint16(directory, little), entry = directory + 2; left > 0; left--, entry += 12) {
    const at = entry + 8;
    if (view.getUint16(entry, little) === ORIENTATION) return { at, little, value: view.getUint16(at, little) };
  }
  return undefined;
}

/** A file (Blob) -> { blob, orientation }: a WebP file's orientation is reset to upright in the blob and returned. */
export async function takeOrientation(blob) {
  const start = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  if (String.fromCharCode(...start.subarray(8)) !== "WEBP") return { blob, orientation: 1 };
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let found;
  try {
    found = find(bytes);
  } catch {
    // a photo with broken metadata may be fine
  }
  if (!found) return { blob, orientation: 1 };
  new DataView(bytes.buffer).setUint16(found.at, 1, found.little);
  return { blob: new Blob([bytes]), orientation: found.value };
}

/** An ImageBitmap turned by an EXIF orientation (1 to 8; others change nothing); transparency becomes white. */
export async function turn(bitmap, orientation) {
  const { width: w, height: h } = bitmap;
  const matrix = {
    2: [-1, 0, 0, 1, w, 0],
    3: [-1, 0, 0, -1, w, h],
    4: [1, 0, 0, -1, 0, h],
    5: [0, 1, 1, 0, 0, 0],
    6: [0, 1, -1, 0, h, 0],
    7: [0, -1, -1, 0, h, w],
    8: [0, -1, 1, 0, 0, w],
  }[orientation];
  if (!matrix) return bitmap;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = orientation < 5 ? [w, h] : [h, w];
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true, colorSpace: "srgb" });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(...matrix);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return createImageBitmap(canvas, { colorSpaceConversion: "none" });
}
