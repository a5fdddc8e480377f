// Pillow's resize of 8-bit images, bit for bit: weights in 22-bit fixed point, rounded to 8 bits after each of the two
// passes. A canvas scales differently in each browser.

const FRACTION_BITS = 22;
const STRIP_ROWS = 256; // of the photo in memory at once, so that a phone can handle a large one

const KERNELS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

/** Keys' cubic with a = -0.5. */
function cubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/**
 * The input pixels, with their weights, that make up each output pixel of one axis.
 *
 * length: pixels of the whole axis; from, to: the part to resize, in pixels, fractions allowed; size: output.
 * Returns first and count (size), and weights (size * stride), as fixed-point integers.
 */
export function taps(length, from, to, size, filter) {
  const { support, weight } = KERNELS[filter];
  const scale = Math.fround(to - from) / size; // Pillow stores the box in single precision
  const stretch = Math.max(scale, 1); // when shrinking, the kernel grows with the scale (antialiasing)
  const reach = support * stretch;
  const stride = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(size);
  const count = new Int32Array(size);
  const weights = new Int32Array(size * stride);
  for (let at = 0; at < size; at++) {
    const center = from + (at + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - reach + 0.5));
    const high = Math.min(length, Math.trunc(center + reach + 0.5));
    const exact = Array.from({ length: high - low }, (_, k) => weight((k + low - center + 0.5) / stretch));
    const sum = exact.reduce((total, value) => total + value, 0);
    first[at] = low;
    count[at] = high - low;
    exact.forEach((value, k) => {
      const scaled = (value / sum) * 2 ** FRACTION_BITS;
      weights[at * stride + k] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
  }
  return { first, count, weights, stride };
}

/**
 * A part of a photo -> Uint8Array (size * size * 3), RGB.
 *
 * photo: { width, height, rows(from, count) -> RGBA bytes of whole rows }; box: [left, top, right, bottom] in its pixels.
 */
export function resize(photo, box, size, filter) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const across = taps(photo.width, left, right, size, filter);
  const down = taps(photo.height, top, bottom, size, filter);
  const begin = down.first[0];
  const end = down.first[size - 1] + down.count[size - 1];
  const narrow = new Uint8ClampedArray((end - begin) * size * 3); // (rows, size, 3)
  for (let row = begin; row < end; row += STRIP_ROWS) {
    const rows = Math.min(STRIP_ROWS, end - row);
    shrinkRows(photo.rows(row, rows), rows, photo.width, across, size, narrow.subarray((row - begin) * size * 3));
  }
  return shrinkColumns(narrow, begin, down, size);
}

function shrinkRows(rgba, rows, width, { first, count, weights, stride }, size, out) {
  for (let row = 0; row < rows; row++) {
    for (let at = 0; at < size; at++) {
      let red = 2 ** (FRACTION_BITS - 1);
      let green = red;
      let blue = red;
      let from = (row * width + first[at]) * 4;
      for (let k = at * stride; k < at * stride + count[at]; k++, from += 4) {
        const weight = weights[k];
        red += rgba[from] * weight;
        green += rgba[from + 1] * weight;
        blue += rgba[from + 2] * weight;
      }
      const to = (row * size + at) * 3; // a Uint8ClampedArray clamps to 0..255
      out[to] = red >> FRACTION_BITS;
      out[to + 1] = green >> FRACTION_BITS;
      out[to + 2] = blue >> FRACTION_BITS;
    }
  }
}

function shrinkColumns(narrow, begin, { first, count, weights, stride }, size) {
  const line = size * 3;
  const out = new Uint8ClampedArray(size * line);
  for (let at = 0; at < size; at++) {
    for (let x = 0; x < line; x++) {
      let sum = 2 ** (FRACTION_BITS - 1);
      let from = (first[at] - begin) * line + x;
      for (let k = at * stride; k < at * stride + count[at]; k++, from += line) sum += narrow[from] * weights[k];
      out[at * line + x] = sum >> FRACTION_BITS;
    }
  }
  return new Uint8Array(out.buffer);
}
