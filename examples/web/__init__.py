"""A page that enlarges pictures in the browser; `serve` puts it together and serves it."""
