"""Networks as ONNX graphs.

One file a network (edsr, rdn, srresnet) walks it; qlinear and qdq are the two kinds of operators it can become; int8 is
what they share with `--rest int8`, blocks what they share otherwise.
"""
