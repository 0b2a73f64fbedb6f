"""An exported network with gates, in tiles: the whole image's result, as `model.tiles` has it for torch networks.

A gate's mean over the image is computed inside the graph. Here the graph of one image is cut open there: the mean over
a tile's core goes out, the mean over the whole image comes in. Passes over all tiles gather the means until they stay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from model.tiles import Tile, TileMeans
from quant.deploy.onnx_file import GATE, of_one_image

# a gate's arithmetic begins with ReduceMin, before that it takes the means
IMAGE_READERS = ("ReduceMean", "Transpose")
SPATIAL = "axes_of_tiles"
OWN, KNOWN = "/own", "/known"  # behind the name of a mean: that of a tile's core, that of the whole image
TOP_LEFT, BOTTOM_RIGHT, IN_FIRST_PASS = "core_top_left", "core_bottom_right", "in_first_pass"


class TiledGates:
    """Called with a tile of the image that `gather` has passed over, float32 [1, C, h, w]; gives its `sr`.

    content: bytes of a file of quant.export whose network has gates. open_session: makes a session (of
    onnx_backend.SESSIONS) of other bytes. Raises ValueError where the graph is not as quant.export makes it.
    """

    def __init__(self, content: bytes, open_session: Callable[[bytes], Any]) -> None:
        graph = of_one_image(onnx.load_model_from_string(content))
        (lr,), (sr,) = graph.graph.input, graph.graph.output
        self.lr, self.sr, self.batched = lr.name, sr.name, len(lr.type.tensor_type.shape.dim) == 4
        self.means = {name: TileMeans() for name in _cut_open(graph.graph)}
        self.session = open_session(graph.SerializeToString())
        self.first = True

    def gather(self, lr: torch.Tensor, tiles: Sequence[Tile], progress: Callable[[], object]) -> None:
        """Pass over the tiles of one image, [1, C, h, w], until its means stay. progress: called after each tile."""
        for _ in range(len(self.means) + 1):
            for tile in tiles:
                pixels = (tile.core[0].stop - tile.core[0].start) * (tile.core[1].stop - tile.core[1].start)
                own = self.session.run([name + OWN for name in self.means], self._feeds(lr, tile))
                for mean, value in zip(self.means.values(), own, strict=True):
                    mean.total = mean.total + pixels * torch.from_numpy(value).double()
                progress()
            self.first = False
            if all([mean.finish_pass(lr[0, 0].numel()) for mean in self.means.values()]):
                break

    def __call__(self, lr: torch.Tensor, tile: Tile) -> torch.Tensor:
        """The output for one tile of the image, [1, C, scale*h, scale*w], with the margin around its core."""
        (sr,) = self.session.run([self.sr], self._feeds(lr, tile))
        return torch.from_numpy(sr) if self.batched else torch.from_numpy(sr)[None]

    def _feeds(self, lr, tile):
        known = {name + KNOWN: np.zeros((1, 1, 1, 1), np.float32) if self.first else mean.mean.float().numpy()
                 for name, mean in self.means.items()}
        corners = {TOP_LEFT: [part.start for part in tile.core], BOTTOM_RIGHT: [part.stop for part in tile.core]}
        window = lr[(slice(None) if self.batched else 0, ..., *tile.window)]
        return {self.lr: window.numpy(), IN_FIRST_PASS: np.array(self.first), **known,
                **{name: np.array(values, np.int64) for name, values in corners.items()}}


def _cut_open(graph):
    """Let every gate of the graph take its mean from outside where it is known. Returns the names of the means."""
    firsts = {}  # a gate quantizes twice, first its mean, then what comes of it
    for node in graph.node:
        if GATE in node.name and node.op_type == "ReduceMin":
            firsts.setdefault(node.name.partition(GATE)[0], node.input[0])
    means = sorted(set(firsts.values()))
    made_by = {name: node for node in graph.node for name in node.output}
    pooling = {key for gate, mean in firsts.items() for key in _pooling(mean, gate, made_by)}
    nodes = []
    for node in graph.node:
        reads_image = id(node) in pooling and node.op_type in IMAGE_READERS
        source = made_by.get(node.input[0]) if reads_image else None
        # what brings the image to codes first may bear the gate's name too
        if reads_image and not (id(source) in pooling and source.op_type in IMAGE_READERS):
            core = f"{node.name}/core"
            nodes.append(helper.make_node("Slice", [node.input[0], TOP_LEFT, BOTTOM_RIGHT, SPATIAL], [core], core))
            node.input[0] = core
        nodes.append(node)
        for name in [name for name in node.output if name in means]:
            node.output[list(node.output).index(name)] = name + OWN
            choice = [IN_FIRST_PASS, name + OWN, name + KNOWN]
            nodes.append(helper.make_node("Where", choice, [name], f"{name}/chosen"))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(helper.make_tensor(SPATIAL, TensorProto.INT64, [2], [2, 3]))
    graph.input.append(helper.make_tensor_value_info(IN_FIRST_PASS, TensorProto.BOOL, []))
    for name in (TOP_LEFT, BOTTOM_RIGHT):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [2]))
    for name in means:
        graph.input.append(helper.make_tensor_value_info(name + KNOWN, TensorProto.FLOAT, [1, None, 1, 1]))
        graph.output.append(helper.make_tensor_value_info(name + OWN, TensorProto.FLOAT, [1, None, 1, 1]))
    return means


def _pooling(name, gate, made_by):
    """The nodes of a gate, called `gate`, that make its mean."""
    found, waiting = {}, [name]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name.partition(GATE)[:2] == (gate, GATE):
            found[id(node)] = node
            waiting += [source for source in node.input if id(made_by.get(source)) not in found]
    return found
