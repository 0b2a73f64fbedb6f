"""Networks as ONNX graphs.

quant.export chooses the file of the network (edsr, rdn, srresnet), which walks it and adds its operators: through
code_graph with `--rest fp32`, through int8 with `--rest int8`, whose 8-bit grids come from calibration and weights from
layout. graph adds nodes and float layers, code_graph quantized ones; qlinear and qdq are its two kinds of operators.
levels goes from quantizers and weights to integers.
"""

try:
    import onnx  # noqa: F401
except ImportError as error:  # everything below needs it: said once, for every tool
    raise SystemExit("error: exported files need the package onnx; pip install -r requirements-deploy.txt") from error
