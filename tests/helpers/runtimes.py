"""Exported models in the runtimes that tests run them in, one thread each."""

from collections import Counter

import onnxruntime
import torch

from quant.deploy.onnx_backend import openvino_core


def run_onnx(exported, lr):
    """sr [N, C, h, w] in ONNX Runtime, of a model in memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["sr"], {"lr": lr.numpy()})[0])


def compiled(exported):
    """A model in memory, compiled by OpenVINO for the CPU."""
    core = openvino_core()
    return core.compile_model(core.read_model(exported.SerializeToString()), "CPU",
                              {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})


def run_openvino(exported, lr):
    """sr [N, C, h, w] in OpenVINO, of a model in memory."""
    return torch.from_numpy(compiled(exported)(lr.numpy())[0].copy())


def convolutions(exported):
    """{True: those that OpenVINO computes in int8, False: in float} of a model, by its own runtime graph."""
    counts = Counter({True: 0, False: 0})
    for node in compiled(exported).get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        if about["layerType"].astype(str) == "Convolution":
            counts[about["primitiveType"].astype(str).upper().endswith("_I8")] += 1
    return counts
