// Drop a file on the page in headless Chromium and tell what becomes of it, for tests/examples/test_web.py.
//
//   node drive_page.mjs PLAYWRIGHT CHROMIUM PROFILE URL FILE RESULTS
//
// Where the page offers a picture's middle, that is taken.
// Writes bicubic.png and network.png, the canvases, and page.png, a screenshot, into the folder RESULTS, and prints as
// JSON what the page says, what it loaded (bytes of each address), and errors of its console.

import fs from "node:fs";
import path from "node:path";

const [playwright, executablePath, profile, url, file, results] = process.argv.slice(2);
const { chromium } = await import(path.join(playwright, "index.mjs"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
  viewport: { width: 390, height: 844 },
  timeout: 120_000,
});
const page = await context.newPage();
page.setDefaultTimeout(300_000);
const loaded = {};
const errors = [];
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
page.on("response", async (response) => (loaded[response.url()] = (await response.body().catch(() => "")).length));

await page.goto(url);
await page.waitForFunction(() => document.querySelector("#limit").textContent.startsWith("up to"));
const content = fs.readFileSync(file).toString("base64");
await page.evaluate(async ([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}, [path.basename(file), content]);
const settled = () => page.waitForFunction(() => {
  const part = (id) => document.getElementById(id);
  return !part("message").hidden || part("work").dataset.done === "true";
});
const says = () => page.evaluate(() => Object.fromEntries(["message", "note", "status", "middle"].map((id) => {
  const part = document.getElementById(id);
  return [id, part.hidden ? "" : part.textContent];
})));
await settled();
let told = await says();
if (told.middle) {
  const { message, middle } = told;
  await page.click("#middle");
  await settled();
  told = { ...(await says()), refused: message, offered: middle };
}
if (!told.message) {
  for (const id of ["bicubic", "network"]) {
    const address = await page.evaluate((id) => document.getElementById(id).toDataURL(), id);
    fs.writeFileSync(path.join(results, `${id}.png`), Buffer.from(address.split(",")[1], "base64"));
  }
  const [saved] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  told.saved = saved.suggestedFilename();
}
await page.screenshot({ path: path.join(results, "page.png"), fullPage: true });
console.log(JSON.stringify({ ...told, loaded, errors }));
await context.close();
