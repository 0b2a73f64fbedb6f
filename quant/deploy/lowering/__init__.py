"""Networks as ONNX graphs: `graph` builds them, `exact` and `int8` say how each quantized block is computed."""
