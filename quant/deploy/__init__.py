"""Networks as they are deployed: packed files, lowering to ONNX, and the runtimes that run them."""
