// MATLAB's bicubic, enlarging by a whole number, as data/imresize.py: four taps, mirrored edges, rounded after each pass.

/** pixels: RGBA bytes of a picture of width x height. Returns those of one `scale` times as wide and high, opaque. */
export function enlarge(pixels, width, height, scale) {
  const tall = pass(pixels, height, scale, width, 4, 4 * width);
  return pass(tall, width, scale, height * scale, 4 * width, 4, 4 * width * scale);
}

// One axis: `length` pixels `step` bytes apart, in each of `lines` lines that lie `stride` bytes apart.
function pass(source, length, scale, lines, stride, step, targetStride = stride) {
  const target = new Uint8ClampedArray(length * scale * lines * 4).fill(255);
  for (let i = 0; i < length * scale; i++) {
    const centre = (i + 0.5) / scale - 0.5;
    const left = Math.floor(centre) - 1;
    const [a, b, c, d] = [0, 1, 2, 3].map((tap) => mirrored(left + tap, length) * step);
    const [wa, wb, wc, wd] = [0, 1, 2, 3].map((tap) => cubic(centre - left - tap));
    for (let line = 0; line < lines; line++) {
      const from = line * stride;
      const to = line * targetStride + i * step;
      for (let k = 0; k < 3; k++) {
        const j = from + k;
        target[to + k] = Math.floor(wa * source[a + j] + wb * source[b + j] + wc * source[c + j] + wd * source[d + j] + 0.5);
      }
    }
  }
  return target;
}

function cubic(distance) {
  const x = Math.abs(distance);
  return x <= 1 ? (1.5 * x - 2.5) * x * x + 1 : x <= 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0;
}

// An index outside the picture, brought inside: the edge mirrors it, and is itself repeated.
function mirrored(index, length) {
  const i = ((index % (2 * length)) + 2 * length) % (2 * length);
  return i < length ? i : 2 * length - 1 - i;
}
