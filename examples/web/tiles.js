// The plan of model/tiles.py: overlapping tiles whose kept parts cover the picture once.

/**
 * Tiles of at most size x size pixels; each is {x, y}, spans {start, length, first, last}: the window that the network
 * sees, in pixels of the picture, and from first to before last what is kept of it, `margin` or more from inner edges.
 */
export function planTiles(width, height, size, margin) {
  return spans(height, size, margin).flatMap((y) => spans(width, size, margin).map((x) => ({ x, y })));
}

function spans(length, size, margin) {
  const window = Math.min(length, size);
  const count = 1 + Math.ceil((length - window) / Math.max(1, window - 2 * margin));
  const start = (i) => Math.round((i * (length - window)) / Math.max(1, count - 1));
  const middle = (i) => Math.floor((start(i - 1) + start(i) + window) / 2);
  return Array.from({ length: count }, (_, i) => ({
    start: start(i),
    length: window,
    first: i === 0 ? 0 : middle(i),
    last: i === count - 1 ? length : middle(i + 1),
  }));
}
