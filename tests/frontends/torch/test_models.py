"""Whole networks run as native code and agree with eager torch, with a symbolic batch, too."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw

torch = pytest.importorskip("torch")
nn = torch.nn

from tilewright.frontends.torch import import_module  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

Model = tuple[Any, tuple[Any, ...]]


def _torchvision() -> Any:
    """torchvision's definitions; its own build may not load beside this torch."""
    if os.environ.get("EXTRA_SITE"):
        sys.path.append(os.environ["EXTRA_SITE"])
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            break
    _KEPT.append(library)
    return pytest.importorskip("torchvision")


_KEPT: list[Any] = []


def _calibrated(model: Any, *shape: int) -> Any:
    """A network whose batch norms have the statistics of random images."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        model(torch.randn(*shape))
    return model.eval()


def _image(size: int = 64) -> tuple[Any, ...]:
    return (torch.randn(2, 3, size, size),)


def resnet18() -> Model:
    model = _torchvision().models.resnet18(weights=None, num_classes=10)
    return _calibrated(model, 4, 3, 64, 64), _image()


def mobilenet_v2() -> Model:
    model = _torchvision().models.mobilenet_v2(weights=None, num_classes=10)
    return _calibrated(model, 4, 3, 64, 64), _image()


def vit() -> Model:
    transformer = _torchvision().models.vision_transformer.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64,
        num_classes=10,
    )  # fmt: skip
    nn.init.normal_(transformer.heads.head.weight, std=0.1)
    return transformer.eval(), _image(32)


class Hidden(nn.Module):  # type: ignore[misc, name-defined]
    """The last hidden state of a transformer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return out.last_hidden_state


class Logits(Hidden):
    """The logits of a language model."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits


def _tokens(words: int = 99, length: int = 12) -> tuple[Any, ...]:
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, length // 2 :] = 0
    return torch.randint(0, words, (2, length)), mask


def bert() -> Model:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    return Hidden(transformers.BertModel(config, add_pooling_layer=False)).eval(), _tokens()


def gpt2() -> Model:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4)
    return Logits(transformers.GPT2LMHeadModel(config)).eval(), _tokens()


class Recurrent(nn.Module):  # type: ignore[misc, name-defined]
    """Two layers of LSTM in both directions, and what follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        y, (h, c) = self.layers(x)
        return {"scores": self.last(y), "state": (h, c)}


def lstm() -> Model:
    return Recurrent().eval(), (torch.randn(2, 9, 6),)


MODELS: list[Callable[[], Model]] = [resnet18, mobilenet_v2, vit, bert, gpt2, lstm]


def _leaves(results: Any) -> list[Any]:
    found: list[Any] = torch.utils._pytree.tree_leaves(results)
    return found


def _agree(executable: Any, model: Any, inputs: tuple[Any, ...]) -> None:
    with torch.no_grad():
        expected = _leaves(model(*inputs))
    results = executable(*(i.numpy() for i in inputs))
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        wanted = want.numpy()
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * scale)


def _grown(inputs: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    return tuple(torch.cat([i] * size)[:size] for i in inputs)


@pytest.mark.parametrize("build", MODELS, ids=lambda b: b.__name__)
def test_a_network_agrees_with_eager(build: Callable[[], Model]) -> None:
    torch.manual_seed(3)
    model, inputs = build()
    _agree(tw.compile(model, inputs), model, inputs)


@pytest.mark.parametrize("build", MODELS, ids=lambda b: b.__name__)
def test_one_executable_serves_every_batch(build: Callable[[], Model]) -> None:
    torch.manual_seed(3)
    model, inputs = build()
    batch = torch.export.Dim("batch", min=1, max=64)
    executable = tw.compile(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    for size in (1, 2, 3):
        _agree(executable, model, _grown(inputs, size))


def test_parameters_are_not_copied() -> None:
    model = nn.Linear(3, 4).to(torch.bfloat16)
    graph = import_module(model, (torch.randn(2, 3).to(torch.bfloat16),))
    held = {a.__array_interface__["data"][0] for a in graph.constants.values()}
    assert {p.data_ptr() for p in model.parameters()} <= held
