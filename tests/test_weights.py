"""How often the weights of a model are in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

_LAYERS = 16
_GROWTH = """
import re, sys
from pathlib import Path
import tilewright

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

tilewright.compile(sys.argv[1])
before = peak()
exe = tilewright.compile(sys.argv[2])
print(peak() - before)
"""


def products(path: Path, width: int) -> int:
    """Writes a model of products with transposed weights; returns the weights' bytes."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(_LAYERS):
        data = rng.standard_normal((width, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(data, f"w{i}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{i}"], [f"y{i}"], transB=1))
        last = f"y{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, width])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return sum(len(w.raw_data) for w in weights)


def test_a_compilation_never_has_all_weights_in_memory_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    products(small, 64)
    weights = products(large, 1024)
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH, str(small), str(large)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The packed copy of all, and of the source what the system maps ahead of its use.
    assert int(done.stdout) < 1.9 * weights
