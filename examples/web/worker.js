// The network, beside the page so that the page stays responsive.
//
// In:  {network}, what network.json says; then {job, pixels, width, height, size}: RGBA bytes of an opaque picture, and
//      pixels a side of a tile. A later job ends an earlier one.
// Out: {job, bicubic}: RGBA bytes of the whole result; {job, done, total, seconds, threads, tile}: tiles, what the next
//      may take, and, but for the first time, {pixels, x, y, width, height} of the last; {error}: the network can't run.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { enlarge } from "./bicubic.js";
import { planTiles } from "./tiles.js";

const MOST_THREADS = 4;
const PROBE = 24; // pixels a side of what the first run times

let latest = 0;
let network, opened;

onmessage = ({ data }) => {
  if (data.network) {
    network = data.network;
    opened = open();
  }
  latest = data.job ?? latest;
  (data.job ? run(data) : opened).catch((error) => postMessage({ error: String(error?.message ?? error) }));
};

async function open() {
  const content = await (await found(network.file)).arrayBuffer();
  // threads share memory, which browsers allow where the server sends the headers for it
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.wasmPaths = new URL("runtime/", self.location.href).href;
  const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  const probe = await timed(session, new Float32Array(3 * PROBE * PROBE), PROBE, PROBE);
  return { session, secondsPerPixel: probe.seconds / PROBE ** 2 };
}

async function found(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function timed(session, values, width, height) {
  const start = performance.now();
  const { sr } = await session.run({ lr: new ort.Tensor("float32", values, [1, 3, height, width]) });
  return { values: sr.data, seconds: (performance.now() - start) / 1000 };
}

async function run({ job, pixels, width, height, size }) {
  const bicubic = enlarge(pixels, width, height, network.scale);
  postMessage({ job, bicubic }, [bicubic.buffer]);
  const { session, secondsPerPixel } = await opened;
  // margins as model/tiles.py has them: what the network sees, but a quarter of a tile at most
  const tiles = planTiles(width, height, size, Math.min(network.reach, Math.floor(size / 4)));
  const told = { job, done: 0, total: tiles.length, threads: ort.env.wasm.numThreads };
  postMessage({ ...told, seconds: secondsPerPixel * tiles[0].x.length * tiles[0].y.length });
  for (const { x, y } of tiles) {
    await new Promise((resume) => setTimeout(resume)); // lets a later job in
    if (job !== latest) return;
    const input = planes(pixels, width, x, y, network.range / 255);
    const { values, seconds } = await timed(session, input, x.length, y.length);
    const tile = kept(values, x, y, network.scale, 255 / network.range);
    told.done += 1;
    postMessage({ ...told, tile, seconds }, [tile.pixels.buffer]);
  }
}

// A window of RGBA bytes as three planes of floats.
function planes(pixels, width, x, y, factor) {
  const values = new Float32Array(3 * x.length * y.length);
  let at = 0;
  for (let channel = 0; channel < 3; channel++) {
    for (let row = y.start; row < y.start + y.length; row++) {
      const line = 4 * (row * width + x.start) + channel;
      for (let i = 0; i < x.length; i++) values[at++] = pixels[line + 4 * i] * factor;
    }
  }
  return values;
}

// The kept part of a window's result, RGBA bytes; the array rounds and clips.
function kept(values, x, y, scale, factor) {
  const [width, height] = [(x.last - x.first) * scale, (y.last - y.first) * scale];
  const [left, top] = [(x.first - x.start) * scale, (y.first - y.start) * scale];
  const [line, plane] = [x.length * scale, x.length * y.length * scale ** 2];
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let row = 0; row < height; row++) {
    for (let i = 0; i < width; i++) {
      const from = (top + row) * line + left + i;
      const to = 4 * (row * width + i);
      for (let channel = 0; channel < 3; channel++) pixels[to + channel] = values[channel * plane + from] * factor;
    }
  }
  return { pixels, x: x.first * scale, y: y.first * scale, width, height };
}
