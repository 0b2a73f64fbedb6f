// Two canvases on top of one another, and a divider: left of it one sees the lower, right of it the upper.

const byId = (id) => document.getElementById(id);
const [frame, stage, upper, divider, split, zoom] = ["frame", "stage", "network", "divider", "split", "zoom"].map(byId);

/** Draw the divider where the slider has it, a share of what is visible of the picture. */
export function placeDivider() {
  const seen = visible();
  const share = ((seen.left + (seen.width * split.value) / 100) / stage.clientWidth) * 100;
  upper.style.clipPath = `inset(0 0 0 ${share}%)`;
  divider.style.left = `${share}%`;
}

/** Let slider, pointer and the zoom button move it. */
export function listen() {
  split.addEventListener("input", placeDivider);
  frame.addEventListener("scroll", placeDivider);
  new ResizeObserver(placeDivider).observe(stage);
  stage.addEventListener("pointerdown", follow);
  stage.addEventListener("pointermove", (event) => (event.pointerType === "mouse" || !isActual()) && follow(event));
  zoom.addEventListener("click", () => {
    const actual = frame.classList.toggle("actual");
    zoom.setAttribute("aria-pressed", actual);
    scaleStage();
  });
}

/** Size the stage: actual pixels are the screen's, not CSS's. */
export function scaleStage() {
  for (const canvas of stage.querySelectorAll("canvas")) {
    canvas.style.width = isActual() ? `${canvas.width / devicePixelRatio}px` : "";
  }
  placeDivider();
}

const isActual = () => frame.classList.contains("actual");

function visible() {
  return { left: Math.min(frame.scrollLeft, stage.clientWidth), width: Math.min(frame.clientWidth, stage.clientWidth) };
}

function follow(event) {
  const seen = visible();
  const x = event.clientX - stage.getBoundingClientRect().left - seen.left;
  split.value = (100 * x) / seen.width;
  placeDivider();
}
