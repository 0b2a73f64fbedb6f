// A file to pixels.

/** The picture in a file, upright, an ImageBitmap. Throws an Error, its message for the user, where it can't be read. */
export async function readPicture(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name}: this browser can’t read it as a picture. Choose a PNG, JPEG or WebP file.`);
  }
}

/**
 * The middle of a bitmap, width x height, as {pixels, transparent}: an ImageData in sRGB, opaque, and whether white had
 * to be put behind it.
 */
export function middleOf(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, -Math.floor((bitmap.width - width) / 2), -Math.floor((bitmap.height - height) / 2));
  const pixels = context.getImageData(0, 0, width, height);
  const transparent = pixels.data.some((value, i) => i % 4 === 3 && value < 255);
  if (!transparent) return { pixels, transparent };
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  return { pixels: context.getImageData(0, 0, width, height), transparent };
}
