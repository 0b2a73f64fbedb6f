// What the user does and sees; the network itself runs in worker.js.

import { listen, scaleStage } from "./compare.js";
import { middleOf, readPicture } from "./picture.js";

// a result's pixels a side, if square and at most: more do not fit into a canvas of some phones
const [LARGEST, LONGEST] = [4096, 16384];
// pixels a side that the network enlarges at a time; ?tile=160 takes less memory
const [TILE, SMALLEST_TILE] = [256, 64];

const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const canvases = [part.bicubic, part.network];
const size = Math.max(SMALLEST_TILE, parseInt(new URLSearchParams(location.search).get("tile")) || TILE);
let job = 0; // the latest; what the worker says of others comes too late
let name, started;

const network = await fetch("network.json").then((answer) => answer.json()).catch((error) => {
  tell("network.json, which make web writes beside this page, is missing or damaged.");
  throw error;
});
const side = Math.floor(LARGEST / network.scale);
const worker = new Worker("worker.js", { type: "module" });
worker.onmessage = ({ data }) => {
  if (data.error) tell(`The network can’t run in this browser: ${data.error}`);
  else if (data.job === job) (data.bicubic ? showBicubic : showTile)(data);
};
worker.onerror = (event) => tell(`The network can’t run in this browser: ${event.message ?? "its worker does not load"}`);
worker.postMessage({ network });

part.limit.textContent = `up to ${side} × ${side} pixels; it comes out ${network.scale} times as wide and high`;
part.label.textContent = `${network.name}, ${network.bits} bit`;
listen();
part.file.addEventListener("change", () => part.file.files.length && take([...part.file.files]));
part.sample.addEventListener("click", async () => {
  take([new File([await (await fetch("sample.png")).blob()], "sample.png")]);
});
part.save.addEventListener("click", () => part.network.toBlob(save, "image/png"));
addEventListener("dragover", (event) => {
  event.preventDefault();
  part.drop.classList.add("over");
});
addEventListener("dragleave", () => part.drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  part.drop.classList.remove("over");
  take([...event.dataTransfer.files]);
});

async function take(files) {
  const mine = ++job;
  part.file.value = ""; // so that the same file can be chosen again
  for (const shown of [part.message, part.middle, part.note, part.work]) shown.hidden = true;
  try {
    if (!files.length) throw new Error("That is no file. Drop a picture from your device.");
    const bitmap = await readPicture(files[0]);
    if (mine !== job) return;
    name = files[0].name.replace(/\.[^.]*$/, "");
    const { width, height } = bitmap;
    const notes = files.length > 1 ? [`Of ${files.length} files this is the first, ${files[0].name}.`] : [];
    if (width * height <= side ** 2 && Math.max(width, height) * network.scale <= LONGEST) {
      enlarge(bitmap, width, height, notes);
    } else {
      const [w, h] = [width, height].map((length) => Math.min(length, side));
      part.middle.onclick = () => enlarge(bitmap, w, h, [...notes, `This is its middle, ${w} × ${h} pixels.`]);
      part.middle.textContent = `Enlarge its middle, ${w} × ${h}`;
      part.middle.hidden = false;
      tell(`${files[0].name} has ${width} × ${height} pixels, more than this page enlarges.`);
    }
  } catch (error) {
    tell(error.message);
  }
}

function enlarge(bitmap, width, height, notes) {
  const { pixels, transparent } = middleOf(bitmap, width, height);
  if (transparent) notes.push("Its transparent parts are filled with white.");
  job += 1;
  part.message.hidden = part.middle.hidden = true;
  part.note.hidden = !notes.length;
  part.note.textContent = notes.join(" ");
  for (const canvas of canvases) [canvas.width, canvas.height] = [width * network.scale, height * network.scale];
  part.work.hidden = false;
  part.save.disabled = true;
  part.work.dataset.done = false;
  moveBar(0);
  part.status.textContent = "Loading the network …";
  scaleStage();
  started = performance.now();
  worker.postMessage({ job, pixels: pixels.data, width, height, size });
}

function showBicubic({ bicubic }) {
  draw(part.bicubic, bicubic, 0, 0, part.bicubic.width, part.bicubic.height);
}

function showTile({ done, total, seconds, threads, tile }) {
  if (tile) draw(part.network, tile.pixels, tile.x, tile.y, tile.width, tile.height);
  moveBar(done / total);
  if (done < total) {
    requestAnimationFrame(() => moveBar((done + 0.95) / total, seconds)); // in the time that the next may take
    part.status.textContent = `Tile ${done + 1} of ${total}, about ${Math.ceil(seconds * (total - done))} s left`;
    return;
  }
  const { width, height } = part.network;
  const took = ((performance.now() - started) / 1000).toFixed(1);
  part.status.textContent = `${width} × ${height} pixels in ${took} s, ${threads} thread${threads > 1 ? "s" : ""}`;
  part.save.disabled = false;
  part.work.dataset.done = true;
}

function draw(canvas, pixels, x, y, width, height) {
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), x, y);
}

function moveBar(share, seconds = 0) {
  part.done.style.transition = `width ${seconds}s linear`;
  part.done.style.width = `${100 * share}%`;
  part.bar.setAttribute("aria-valuenow", Math.round(100 * share));
}

function save(blob) {
  if (!blob) return tell("This browser can’t save a picture of this size.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name}_x${network.scale}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function tell(problem) {
  part.message.textContent = problem;
  part.message.hidden = false;
}
