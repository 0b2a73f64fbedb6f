"""Networks as ONNX graphs.

One file a network (edsr, rdn, srresnet) walks it; qlinear and qdq are the two kinds of operators it can become; int8 is
what they share with `--rest int8`, blocks what they share otherwise.
"""

try:
    import onnx  # noqa: F401
except ImportError as error:  # everything below needs it: said once, for every tool
    raise SystemExit("error: exported files need the package onnx; pip install -r requirements-deploy.txt") from error
