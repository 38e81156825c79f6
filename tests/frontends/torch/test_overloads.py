"""Every overload agrees with eager torch in the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from tilewright.graph.interpret import interpret

torch = pytest.importorskip("torch")

from tilewright.frontends.torch import import_module  # noqa: E402
from tilewright.frontends.torch.table import CONVERTERS  # noqa: E402
from tilewright.frontends.torch.types import array_of  # noqa: E402

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")

Case = tuple[str, tuple[Any, ...], dict[str, Any]]


def _generator() -> Any:
    return torch.Generator().manual_seed(5)


def f32(*shape: int) -> Any:
    return torch.randn(*shape, generator=_generator())


def unit(*shape: int) -> Any:
    return torch.rand(*shape, generator=_generator()) * 0.9 + 0.05


def i64(*shape: int, low: int = -9, high: int = 9) -> Any:
    return torch.randint(low, high, shape, generator=_generator())


def mask(*shape: int) -> Any:
    return f32(*shape) > 0


CASES: list[Case] = []


def case(name: str, *args: Any, **kwargs: Any) -> None:
    CASES.append((name, args, kwargs))


for _name in (
    "acos", "asin", "atan", "atanh", "cos", "cosh", "erf", "exp", "expm1", "log", "log1p",
    "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh", "asinh", "rsqrt", "reciprocal", "log2",
    "log10", "exp2",
):  # fmt: skip
    case(f"{_name}.default", unit(3, 4))
    case(f"{_name}.default", unit(3, 4).half())
    case(f"{_name}.default", torch.tensor([[1, 1], [1, 1]]))
case("acosh.default", unit(5) + 1)
for _name in ("ceil", "floor", "round", "trunc", "abs", "neg", "sign"):
    case(f"{_name}.default", f32(3, 5) * 4)
    case(f"{_name}.default", i64(7))
for _name in ("isinf", "isnan"):
    case(f"{_name}.default", torch.tensor([0.0, math.nan, math.inf, -math.inf]))
    case(f"{_name}.default", i64(3))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    case(f"{_name}.Tensor", i64(4, 5), i64(5))
    case(f"{_name}.Tensor", f32(4, 5), i64(5))
    case(f"{_name}.Tensor", mask(4), mask(1))
    case(f"{_name}.Scalar", i64(4, 5), 1.5)
    case(f"{_name}.Scalar", f32(4, 5), 0)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    case(f"{_name}.Tensor", i64(9), i64(9, low=0))
    case(f"{_name}.Tensor", mask(9), mask(9))
    case(f"{_name}.Scalar", i64(9), 6)
for _name in ("logical_and", "logical_or", "logical_xor"):
    case(f"{_name}.default", i64(9, low=-1, high=2), mask(9))
case("logical_not.default", f32(4))
case("bitwise_not.default", i64(4))
case("bitwise_not.default", mask(4))
case("bitwise_left_shift.Tensor", i64(4), i64(4, low=0))
case("bitwise_right_shift.Tensor", i64(4), i64(4, low=0))
for _name in ("add", "sub"):
    case(f"{_name}.Tensor", f32(3, 4), f32(4), alpha=2)
    case(f"{_name}.Tensor", i64(3, 4), f32(4))
    case(f"{_name}.Tensor", f32(3, 4).half(), torch.tensor(2.5))
    case(f"{_name}.Tensor", f32(3, 4).bfloat16(), f32(4).half())
    case(f"{_name}.Scalar", i64(3), 2)
    case(f"{_name}.Scalar", i64(3), 2.5)
    case(f"r{_name}.Scalar" if _name == "sub" else "add.Scalar", i64(3), 2)
case("add.Tensor", mask(4), mask(4))
case("mul.Tensor", mask(4), mask(4))
case("mul.Tensor", i64(4, 1).int(), i64(3))
case("mul.Tensor", torch.tensor(3), f32(3).double())
case("mul.Scalar", f32(3).half(), 3.5)
for _mode in (None, "floor", "trunc"):
    case("div.Tensor_mode", f32(9) * 9, f32(9), rounding_mode=_mode)
    case("div.Tensor_mode", i64(9), i64(9, low=1), rounding_mode=_mode)
    case("div.Scalar_mode", i64(9), -4, rounding_mode=_mode)
case("div.Tensor", i64(9), i64(9, low=1))
case("div.Tensor", f32(9).half(), f32(9).half())
case("div.Scalar", f32(9), 3)
case("floor_divide.default", i64(9), i64(9, low=1))
for _name in ("fmod", "remainder"):
    case(f"{_name}.Tensor", f32(9) * 9, f32(9))
    case(f"{_name}.Tensor", i64(9), i64(9, low=-9, high=-1))
    case(f"{_name}.Scalar", i64(9), -4)
for _exponent in (0.5, -0.5, 1, 2, 3, -1, 2.5):
    case("pow.Tensor_Scalar", unit(7), _exponent)
case("pow.Tensor_Scalar", i64(7), 3)
case("pow.Tensor_Tensor", unit(7), f32(7))
case("pow.Scalar", 2, f32(7))
case("pow.Scalar", 2.5, i64(7))
for _y in (f32(8), torch.tensor([0.0, -0.0, 0.0, -0.0, math.inf, math.inf, 1.0, -1.0])):
    case("atan2.default", _y, torch.tensor([0.0, 0.0, -0.0, -1.0, math.inf, -math.inf, 2, -2]))
case("hypot.default", f32(9), f32(9) * 1e20)
case(
    "hypot.default", torch.tensor([math.inf, math.nan, 3.0]), torch.tensor([math.nan, -math.inf, 4])
)
for _name in ("__lshift__", "__rshift__"):
    case(f"{_name}.Tensor", i64(4), i64(4, low=0))
    case(f"{_name}.Scalar", i64(4), 2)
case("maximum.default", f32(4), torch.tensor([math.nan, 0, 1, 2]))
case("minimum.default", i64(4), f32(4))
case("maximum.default", mask(4), mask(4))
case("clamp.default", f32(9), -0.5, 0.5)
case("clamp.default", f32(9), None, 0.5)
case("clamp.default", i64(9), 1.5)
case("clamp.Tensor", f32(3, 3), f32(3), f32(3) + 1)
case("where.self", mask(3, 1), f32(3, 4), torch.tensor(1.0))
case("where.self", mask(3), i64(3), f32(3))
case("relu.default", f32(9))
case("gelu.default", f32(9))
case("gelu.default", f32(9), approximate="tanh")
case("gelu.default", f32(9).bfloat16())
case("silu.default", f32(9))
case("elu.default", f32(9), 1.5)
case("elu.default", f32(9), 1.6, 1.05, 2.0)
case("leaky_relu.default", f32(9), 0.1)
case("hardtanh.default", f32(9))
case("hardtanh.default", f32(9) * 5, 0.0, 6.0)
case("hardswish.default", f32(9) * 4)
case("hardsigmoid.default", f32(9) * 4)
case("softplus.default", f32(9) * 20)
case("round.decimals", f32(9), decimals=2)
case("masked_fill.Scalar", f32(3, 4), mask(4), -math.inf)
case("_to_copy.default", f32(5) * 4, dtype=torch.int32)
case("_to_copy.default", f32(5), dtype=torch.bfloat16)
case("_to_copy.default", i64(5, low=0), dtype=torch.bool)
case("clone.default", f32(3))
case("copy.default", f32(3, 4), i64(4))
case("native_dropout.default", f32(3), 0.5, False)
case("square.default", i64(3))

case("view.default", f32(3, 4), [2, -1])
case("permute.default", f32(2, 3, 4), [2, 0, -2])
case("expand.default", f32(3, 1), [2, -1, 4])
case("repeat.default", f32(2, 3), [2, 1, 3])
case("squeeze.dim", f32(2, 1, 3), 1)
case("squeeze.dims", f32(1, 2, 1), [0, 2])
case("unsqueeze.default", f32(2, 3), -1)
case("slice.Tensor", f32(7, 3), 0, -5, 100, 2)
case("slice.Tensor", f32(7, 3), 1, 1, -1)
case("slice.Tensor", f32(7), 0, 9, 20)
case("slice.Tensor", f32(7), 0, -20, 3)
case("select.int", f32(3, 4), 1, -1)
case("split_with_sizes.default", f32(7, 2), [2, 4, 1])
case("split.Tensor", f32(7, 2), 3)
case("unbind.int", f32(3, 2), 1)
case("diagonal.default", f32(4, 5), 1)
case("diagonal.default", f32(4, 5, 2), -2, 0, 1)
case("flip.default", f32(3, 4), [0, -1])
case("roll.default", f32(3, 4), [1, -2], [0, 1])
case("roll.default", f32(3, 4), [5])
case("cat.default", [f32(2, 3), f32(1, 3)], 0)
case("cat.default", [f32(2, 3), i64(2, 1), torch.empty(0)], -1)
case("stack.default", [f32(3), f32(3)], -1)
case("constant_pad_nd.default", f32(3, 4), [1, -1, 0, 2], 1.5)
for _rank in (1, 2, 3):
    _image = f32(2, *(5,) * _rank)
    case(f"reflection_pad{_rank}d.default", _image, [2, 1] * _rank)
    case(f"replication_pad{_rank}d.default", _image, [2, 3] * _rank)
case("slice_scatter.default", f32(5, 4), f32(2, 4), 0, 1, 3)
case("slice_scatter.default", f32(7, 4), f32(3, 4), 0, 1, 7, 2)
case("select_scatter.default", f32(5, 4), f32(5), 1, -1)
case("as_strided.default", f32(4, 5), [2, 3], [1, 4], 2)
case("full_like.default", f32(3), 2.5)
case("arange.start_step", 2, 11, 3, device="cpu")
case("arange.start_step", 0.5, 3.0, 0.25, device="cpu")
case("arange.start_step", 2.1, -2.9, -1.0, dtype=torch.int64, device="cpu")
case("full.default", [2, 3], 7, device="cpu")
for _steps in (0, 1, 2, 50):  # the whole parts of ends of integers count
    case("linspace.default", 4.3, -3, _steps, dtype=torch.int64, device="cpu")
    case("linspace.default", -1.5, 2, _steps, device="cpu")
    case("linspace.Tensor_Scalar", torch.tensor(4.3), 50, _steps, dtype=torch.int64, device="cpu")
case("linspace.Scalar_Tensor", 4.3, torch.tensor(-3), 50, dtype=torch.int32, device="cpu")
case("linspace.Tensor_Tensor", torch.tensor(0), torch.tensor(7.9), 50, device="cpu")
case("scalar_tensor.default", 2.5, device="cpu")
case("fill.Scalar", f32(3), 2)

for _name in ("sum", "mean"):
    case(f"{_name}.default", f32(3, 4))
    _dim = "dim" if _name == "mean" else "dim_IntList"
    case(f"{_name}.{_dim}", f32(3, 4, 5), [0, -1], True)
    case(f"{_name}.{_dim}", f32(3, 4).half(), [1])
case("sum.dim_IntList", i64(3, 4).int(), [1])
case("sum.dim_IntList", mask(3, 4), [1])
case("sum.default", i64(3), dtype=torch.float32)
case("prod.default", i64(3))
case("prod.dim_int", f32(3, 4), 1, True)
case("var.correction", f32(3, 4), [1], correction=0)
case("var.correction", f32(3, 4), None, correction=2, keepdim=True)
case("var.dim", f32(3, 4), [0])
case("var_mean.correction", f32(3, 4), [0, 1], correction=1)
case("std.correction", f32(3, 4).half(), [0], correction=0, keepdim=True)
case("std_mean.correction", f32(3, 4), None, correction=1)
for _x in (f32(3, 500) + 1e6, f32(3, 500) * 1e30, torch.full((3, 500), 3e38)):
    case("std.correction", _x, [1])  # far from zero, and squares beyond f32
    case("std_mean.correction", _x, [0])
for _x in (f32(3, 500) + 1e6, f32(3, 500) * 1e18):
    case("var_mean.correction", _x, [1])
case("lgamma.default", torch.tensor([-1e-30, -1e-42, -0.5, -3.0000002, -1e5 - 0.3]))
for _name in ("amax", "amin"):
    case(f"{_name}.default", f32(3, 4), [1])
    case(f"{_name}.default", i64(3, 4), [], True)
for _name in ("max", "min"):
    case(f"{_name}.dim", f32(3, 4), -1)
    case(f"{_name}.dim", i64(3, 40), 1, True)
    case(f"{_name}.default", f32(3))
for _name in ("argmax", "argmin"):
    case(f"{_name}.default", f32(3, 4), 1)
    case(f"{_name}.default", f32(3, 4))
    case(f"{_name}.default", f32(3, 4), 0, True)
for _name in ("any", "all"):
    case(f"{_name}.default", mask(3, 4))
    case(f"{_name}.dim", i64(3, 4), 1, True)
    case(f"{_name}.dims", f32(3, 4), [0])
case("_softmax.default", f32(3, 4), -1, False)
case("_softmax.default", f32(3, 4).half(), 0, False)
case("_log_softmax.default", f32(3, 4), 1, False)
case("cumsum.default", i64(3, 4).int(), 1)
case("cumprod.default", f32(3, 4), 0)
case("topk.default", f32(3, 9), 4)
case("topk.default", f32(9, 3), 2, 0, False)
case("sort.default", f32(3, 9))
case("sort.stable", i64(3, 30), stable=True, dim=0, descending=True)
case("_adaptive_avg_pool2d.default", f32(2, 3, 7, 6), [3, 2])
case("_adaptive_avg_pool2d.default", f32(2, 3, 7, 6), [1, 1])
case("_adaptive_avg_pool3d.default", f32(2, 3, 4, 7, 6), [2, 3, 2])

case("mm.default", f32(3, 4), f32(4, 5))
case("mm.default", i64(3, 4), i64(4, 5))
case("bmm.default", f32(2, 3, 4), f32(2, 4, 5))
case("addmm.default", f32(5), f32(3, 4), f32(4, 5), beta=0.5, alpha=2)
case("baddbmm.default", f32(2, 3, 5), f32(2, 3, 4), f32(2, 4, 5))
case("matmul.default", f32(4), f32(2, 4, 5))
case("matmul.default", f32(4), f32(4))
case("matmul.default", f32(3, 1, 2, 4), f32(2, 4, 5))
case("linear.default", f32(2, 3, 4), f32(5, 4), f32(5))
case("linear.default", f32(4), f32(5, 4))
for _args in (
    ([1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    ([2, 1], [1, 2], [1, 2], False, [0, 0], 2),
    ([1, 1], [0, 0], [1, 1], True, [0, 0], 1),
    ([2, 3], [1, 0], [2, 1], True, [1, 2], 2),
    ([2, 2], [2, 3], [1, 1], True, [1, 0], 1),
):
    _weight = f32(4, 6 // _args[5], 3, 2) if _args[3] else f32(6, 4 // _args[5], 3, 2)
    case("convolution.default", f32(2, 4, 7, 8), _weight, f32(6), *_args)
case("convolution.default", f32(2, 4, 4, 3), f32(4, 5, 2, 2), None, [2, 2], [0, 0], [1, 1], True,
     [0, 0], 1)  # fmt: skip
case("convolution.default", f32(1, 4, 9), f32(8, 1, 3), f32(8), [1], [1], [1], False, [0], 4)
case("convolution.default", f32(1, 2, 4, 5, 6), f32(3, 2, 2, 2, 3), None, [1], [1], [1], False,
     [0], 1)  # fmt: skip
_q, _k = f32(2, 4, 5, 8), f32(2, 4, 7, 8)
case("scaled_dot_product_attention.default", _q, _k, _k)
case("scaled_dot_product_attention.default", _q, _k, _k, mask(5, 7))
case("scaled_dot_product_attention.default", _q, _k, _k, f32(2, 1, 5, 7), scale=0.5)
case("scaled_dot_product_attention.default", _q, _k, _k, None, 0.0, True)
case("scaled_dot_product_attention.default", _q, _k[:, :2], _k[:, :2], enable_gqa=True)
case("_cdist_forward.default", f32(3, 4), f32(5, 4), 2.0, None)
case("_cdist_forward.default", f32(3, 4), f32(5, 4), 1.5, None)

case("native_layer_norm.default", f32(2, 3, 4), [3, 4], f32(3, 4), None, 1e-5)
case("native_layer_norm.default", f32(2, 4).bfloat16(), [4], None, None, 1e-5)
case("native_group_norm.default", f32(2, 6, 5), f32(6), f32(6), 2, 6, 5, 3, 1e-5)
case("_native_batch_norm_legit_no_training.default", f32(2, 3, 4), f32(3), f32(3), f32(3),
     unit(3), 0.1, 1e-5)  # fmt: skip
case("_native_batch_norm_legit_no_training.default", f32(2, 3), None, None, f32(3), unit(3), 0.1,
     1e-5)  # fmt: skip
case("_native_batch_norm_legit.no_stats", f32(2, 3, 4), f32(3), None, True, 0.1, 1e-5)
case("_fused_rms_norm.default", f32(2, 3, 4), [4], f32(4), None)

case("embedding.default", f32(5, 3), i64(2, 4, low=0, high=5))
case("gather.default", f32(3, 4), 1, i64(3, 2, low=0, high=4))
case("index_select.default", f32(3, 4), 1, i64(6, low=0, high=4))
case("index.Tensor", f32(3, 4, 5), [None, i64(2, 2, low=-4, high=4)])
case("index.Tensor", f32(3, 4, 5), [None, i64(2, 1, low=0, high=4), i64(3, low=0, high=5)])
case("index.Tensor", f32(3, 4, 5), [i64(2, low=0, high=3), None, i64(1, low=0, high=5)])
case("index_put.default", f32(3, 4, 5), [None, i64(2, low=0, high=4)], torch.tensor(9.0))
case("index_put.default", f32(6, 4, 5), [torch.tensor([[1], [5]]), torch.tensor([1, 0, 2])],
     f32(2, 3, 5))  # fmt: skip
case("index_put.default", f32(3, 4, 5), [None, torch.tensor([1, 1]), torch.tensor([2, 2])],
     f32(3, 2), True)  # fmt: skip
case("index_put.default", f32(3, 4, 5), [torch.tensor([2, 0]), None, torch.tensor([1, 3])],
     f32(2, 4))  # fmt: skip
case("index_put.default", f32(3, 4), [mask(3)], torch.tensor(2.0))
case("scatter.src", f32(3, 4), 1, torch.tensor([[0, 3], [1, 2]]), f32(3, 3))
case("scatter.value", f32(3, 4), 0, torch.tensor([[0, 2]]), 7)
case("scatter_add.default", f32(3, 4), 1, torch.tensor([[0, 0], [1, 2]]), f32(3, 3))
for _mode in ("sum", "prod", "mean", "amax", "amin"):
    for _own in (True, False):
        case("scatter_reduce.two", f32(5), 0, torch.tensor([1, 1, 3]), f32(3), _mode,
             include_self=_own)  # fmt: skip
case("index_add.default", f32(3, 4), 1, torch.tensor([0, 0, 2]), f32(3, 3), alpha=2)

for _ceil in (False, True):
    case("max_pool2d_with_indices.default", f32(2, 3, 7, 8), [3, 2], [2, 2], [1, 1], [1, 1], _ceil)
    for _include in (False, True):
        case("avg_pool2d.default", f32(2, 3, 7, 8), [3], [2], [1], _ceil, _include)
case("max_pool2d_with_indices.default", f32(3, 7, 8), [2, 2])
case("max_pool2d_with_indices.default", f32(1, 3, 7, 8), [2, 2], [1, 1], [0, 0], [2, 2])
case("max_pool3d_with_indices.default", f32(1, 2, 4, 5, 6), [2, 2, 2], [2, 2, 2])
case("avg_pool1d.default", f32(2, 3, 7), [3])
case("avg_pool2d.default", f32(2, 3, 7, 8), [3, 2], [2, 2], [0, 0], False, True, 5)
case("avg_pool3d.default", f32(2, 3, 4, 5, 6), [2, 2, 2])
case("upsample_nearest2d.vec", f32(1, 2, 3, 4), [6, 12], None)
case("upsample_nearest2d.vec", f32(1, 2, 5, 4), [7, 3], None)
case("upsample_nearest2d.vec", f32(1, 2, 5, 4), None, [1.6, 2.0])
case("upsample_bilinear2d.vec", f32(1, 2, 5, 4), [7, 9], False, None)
case("upsample_bilinear2d.vec", f32(1, 2, 5, 4), [7, 2], True, None)
case("upsample_bilinear2d.vec", f32(1, 2, 5, 4), None, False, [1.5, 2.0])

for _name in ("copysign.Tensor", "fmax.default", "fmin.default"):
    case(_name, torch.tensor([1.0, -0.0, math.nan, 2.0]), torch.tensor([-1.0, -0.0, 3.0, math.nan]))
case("copysign.Scalar", i64(5), -2.0)
case("signbit.default", torch.tensor([0.0, -0.0, -1.0, math.inf, -math.inf]))
case("signbit.default", i64(7))
case("angle.default", torch.tensor([1.0, -1.0, 0.0, math.nan]))
case("angle.default", i64(7))
for _name in ("cummax.default", "cummin.default"):
    case(_name, i64(3, 6, low=-2, high=2), 1)
    case(_name, torch.tensor([1.0, 3.0, 3.0, math.nan, 4.0]), 0)
    case(_name, mask(4, 5), 0)
    case(_name, torch.tensor(1.5), 0)
case("logcumsumexp.default", f32(3, 5) * 50, 1)
case("logcumsumexp.default", f32(3, 5).half() * 50, -1)
case("logcumsumexp.default", torch.tensor([-math.inf, -math.inf, 1.0, math.inf]), 0)
for _name in ("median", "nanmedian"):
    case(f"{_name}.default", f32(3, 4))
    case(f"{_name}.default", torch.tensor([1.0, math.nan, 3.0, 2.0]))
    case(f"{_name}.dim", torch.tensor([[1.0, math.nan, 3.0, 2.0], [4.0, 3.0, 2.0, 1.0]]), 1, True)
    case(f"{_name}.dim", f32(3, 5), 0)
case("kthvalue.default", f32(3, 5), 2, 1, True)
case("mode.default", i64(4, 9, low=0, high=3), 1)
case("mode.default", f32(3, 4), 0, True)
for _right in (False, True):
    case("searchsorted.Tensor", torch.arange(5.0), f32(3, 4) * 4 + 2, right=_right)
    case("searchsorted.Tensor", i64(3, 6).sort(1).values, i64(3, 4), right=_right)
    case("bucketize.Tensor", i64(3, 4), torch.tensor([-3, 0, 0, 2]), right=_right)
case("searchsorted.Tensor", torch.tensor([3.0, 1.0]), f32(3), sorter=torch.tensor([1, 0]))
case("searchsorted.Scalar", torch.arange(5.0), 2.0, side="right")
case("bucketize.Scalar", 2, torch.arange(5), out_int32=True)
for _size in (2, 9):
    case("nonzero_static.default", i64(3, 4, low=-1, high=2), size=_size, fill_value=-7)
case("gcd.default", i64(4, 9), i64(9))
case("gcd.default", torch.tensor([0, 2**62, -12]), torch.tensor([5, 2**40 * 3, 18]))
case("lcm.default", i64(4, 9), i64(9))
for _kind in ("t", "u", "v", "w"):
    for _prefix in ("", "shifted_"):
        _name = f"special_{_prefix}chebyshev_polynomial_{_kind}"
        _points = torch.tensor([-3.0, -1, -0.75, -0.0, 0.4, 1, 1.25]).double()
        case(f"{_name}.default", _points[:, None], torch.tensor([-2, -0.5, 0, 1, 2, 7.9, 12]))
        case(f"{_name}.n_scalar", _points.float(), 3)
        case(f"{_name}.x_scalar", 0.3, i64(5))
_points = torch.tensor([-7.25, -1, -0.5, -0.0, 0, 1e-3, 0.5, 1, 9, 40.5, 1e5, math.inf, math.nan])
case("special_zeta.default", torch.tensor([[0.5], [1], [1.5], [2], [5], [20]]), _points.double())
case("special_zeta.self_scalar", 3, i64(9))
case("special_zeta.other_scalar", unit(9) + 1, 2.5)
for _order in range(6):
    case("polygamma.default", _order, _points[:-2])
    case("polygamma.default", _order, i64(9))
    case("polygamma.default", _order, unit(9).half() + 1)
for _op in ("sum", "mean", "max", "min", "prod"):
    _data = torch.tensor([[1.0, -2, 3], [4, 5, -6], [7, math.nan, 9], [math.inf, 0.5, 2]])
    _lengths, _offsets = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 2, 2, 3, 4])
    for _initial in (None, 2.0):
        case("segment_reduce.default", _data, _op, lengths=_lengths, initial=_initial)
        case("segment_reduce.default", _data, _op, offsets=_offsets, unsafe=True, initial=_initial)
    _lengths = torch.tensor([[1, 2], [0, 3], [2, 1], [3, 0]])
    case("segment_reduce.default", _data, _op, lengths=_lengths, axis=1, unsafe=True)
for _name in ("lgamma.default", "digamma.default"):
    case(_name, torch.linspace(-6.8, 30, 41, dtype=torch.float64))
    case(_name, torch.tensor([0.0, -0.0, -2.0, 1e-6, 1e30, math.inf, math.nan]))
    case(_name, i64(5, low=1))
for _name in ("erfc.default", "special_erfcx.default"):
    case(_name, torch.linspace(-6, 30, 73, dtype=torch.float64))
    case(_name, torch.tensor([0.0, -0.0, 1e-8, 9.5, 10.0, 1e30, math.inf, -math.inf, math.nan]))
    case(_name, i64(7))
case("erfc.default", f32(7).half())
case("unfold.default", f32(3, 8), 1, 3, 2)
case("unfold.default", f32(3, 8), 0, 2, 1)
for _ord in (0, 1, 2, 3.5, -1, math.inf, -math.inf):
    case("linalg_vector_norm.default", f32(3, 4), _ord, [1], True)
case("linalg_vector_norm.default", f32(3, 4).half(), 2, dtype=torch.float32)
case("addbmm.default", f32(2, 5), f32(3, 2, 4), f32(3, 4, 5), beta=0.5, alpha=2)
case("addmv.default", f32(3), f32(3, 4), f32(4), beta=2)
case("_trilinear.default", f32(2, 3), f32(4, 3, 5), f32(2, 5), [1, 3], [0], [1, 2], [2, 3])
case("index_copy.default", f32(3, 4), 1, torch.tensor([3, 0]), f32(3, 2))
case("index_fill.int_Scalar", f32(3, 4), 1, torch.tensor([3, 0]), 2.5)
case("index_fill.int_Tensor", i64(3, 4), 0, torch.tensor([2]), torch.tensor(7))
case("index_reduce.default", f32(3, 4), 0, torch.tensor([2, 0, 2]), f32(3, 4), "amax")
case("index_add.default", mask(3), 0, torch.tensor([2, 0]), mask(2), alpha=True)
case("index_add.default", torch.tensor(1.5), 0, torch.tensor([0]), torch.tensor(2.0))
case("scatter.reduce", f32(3, 4), 1, i64(3, 2, low=0, high=4), f32(3, 2), reduce="multiply")
case("scatter.value_reduce", f32(3, 4), 1, i64(3, 2, low=0, high=4), 2.0, reduce="add")
case("take.default", f32(3, 4), i64(2, 5, low=-12, high=12))
case("put.default", f32(3, 4), torch.tensor([1, -1]), f32(2))
case("put.default", f32(3, 4), torch.tensor([[1], [1]]), f32(2, 1), True)
case("masked_scatter.default", f32(3, 4), mask(3, 4), f32(12))
case("as_strided_copy.default", f32(3, 4), [2, 2], [4, 1], 1)
case("as_strided_scatter.default", f32(3, 4), f32(2, 2), [2, 2], [4, 1], 1)
for _offset in (-1, 0, 2):
    case("diagonal_scatter.default", f32(3, 4), f32(3 - abs(_offset) // 2 - (_offset < 0)), _offset)
    case("tril_indices.default", 3, 4, _offset)
    case("triu_indices.default", 3, 4, _offset)
case("narrow_copy.default", f32(3, 4), 1, -3, 2)
case("permute_copy.default", f32(3, 4, 5), [2, 0, 1])
case("unbind_copy.int", f32(3, 4), 1)
case("view_copy.default", f32(3, 4), [2, 6])
for _sizes in ([2, 3], [3, 5], [1, 1], [7, 8]):
    case("adaptive_max_pool2d.default", f32(2, 3, 7, 8), _sizes)
case("adaptive_max_pool3d.default", f32(3, 4, 5, 6), [2, 2, 5])


def _names() -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for name, _, _ in CASES:
        seen[name] = seen.get(name, 0) + 1
        names.append(f"{name}-{seen[name]}")
    return names


class Calls(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Calls overloads with the tensors among their arguments as inputs."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.cases = cases

    def forward(self, *tensors: Any) -> Any:
        rest = iter(tensors)
        return [
            _overload(name)(*_replaced(args, rest), **kwargs) for name, args, kwargs in self.cases
        ]


def _replaced(args: Sequence[Any], rest: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for a in args:
        if isinstance(a, torch.Tensor):
            found.append(next(rest))
        else:
            found.append(_replaced(a, rest) if isinstance(a, list) else a)
    return found


def _tensors(args: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for a in args:
        if isinstance(a, torch.Tensor):
            found.append(a)
        elif isinstance(a, list):
            found += _tensors(a)
    return found


def _leaves(results: Any) -> list[Any]:
    found: list[Any] = torch.utils._pytree.tree_leaves(results)
    return found


def _overload(name: str) -> Callable[..., Any]:
    packet, overload = name.split(".")
    found: Callable[..., Any] = getattr(getattr(aten, packet), overload)
    return found


_TOGETHER = 32  # exporting costs more by the program than by the call


@cache
def _results(chunk: int) -> list[tuple[list[np.ndarray], list[Any]]]:
    """Ours and eager's results of the calls of one chunk."""
    cases = CASES[chunk * _TOGETHER : (chunk + 1) * _TOGETHER]
    module = Calls(cases)
    tensors = [t for _, args, _ in cases for t in _tensors(args)]
    graph = import_module(module, tuple(tensors))
    inputs = {v.name: array_of(t) for v, t in zip(graph.inputs, tensors, strict=True)}
    ours = iter(interpret(graph, inputs))
    with torch.no_grad():
        expected = [_leaves(result) for result in module(*tensors)]
    return [([next(ours) for _ in leaves], leaves) for leaves in expected]


@pytest.mark.parametrize("position", range(len(CASES)), ids=_names())
def test_overload_agrees_with_eager(position: int) -> None:
    assert CASES[position][0] in CONVERTERS
    chunk, place = divmod(position, _TOGETHER)
    for got, want in zip(*_results(chunk)[place], strict=True):
        wanted = array_of(want)
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        if want.dtype in (torch.float16, torch.bfloat16):
            step = 2.0**-10 if want.dtype is torch.float16 else 2.0**-7
            wide = wanted.astype(np.float32)
            np.testing.assert_allclose(got.astype(np.float32), wide, rtol=step, atol=step / 16)
        elif want.dtype.is_floating_point:
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, wanted)


def test_most_core_overloads_have_a_converter() -> None:
    core = {
        f"{packet}.{overload}"
        for packet in dir(aten)
        if hasattr(getattr(aten, packet), "overloads")
        for overload in getattr(aten, packet).overloads()
        if torch.Tag.core in getattr(getattr(aten, packet), overload).tags
    }
    assert len(core & set(CONVERTERS)) >= 160


@pytest.mark.parametrize("function", [torch.remainder, torch.fmod, torch.floor_divide])
def test_remainders_of_zeros_infinities_and_nan_are_those_of_eager(
    function: Callable[..., Any],
) -> None:
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, -7.0, math.inf, -math.inf, math.nan])
    a, b = special.repeat_interleave(len(special)), special.repeat(len(special))

    class Remainder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, a: Any, b: Any) -> Any:
            return function(a, b)

    graph = import_module(Remainder(), (a, b))
    inputs = {v.name: x.numpy() for v, x in zip(graph.inputs, (a, b), strict=True)}
    (found,) = interpret(graph, inputs)
    wanted = function(a, b).numpy()
    np.testing.assert_array_equal(found, wanted)
    signed = wanted == 0
    np.testing.assert_array_equal(np.signbit(found)[signed], np.signbit(wanted)[signed])
