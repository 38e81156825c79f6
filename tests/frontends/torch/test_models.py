"""Whole networks run as native code and agree with eager torch at every size they declare."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tilewright as tw

from . import networks

torch = pytest.importorskip("torch")
nn = torch.nn


pytestmark = pytest.mark.filterwarnings("ignore")

Inputs = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A network, what it is called with, and which sizes may differ.

    Attributes:
        module: in evaluation mode.
        inputs: makes arguments from sizes.
        dims: of each argument, the name of each axis whose size is symbolic ("2*h" is twice h,
            "" one that torch relates to others).
        sizes: what to call it with; the first are traced.
    """

    module: Any
    inputs: Callable[..., Inputs]
    dims: tuple[dict[int, str], ...]
    sizes: Sequence[tuple[int, ...]]

    @property
    def dynamic_shapes(self) -> Any:
        """The dims as ``torch.export.export`` takes them."""
        return tuple({k: _dim(name) for k, name in axes.items()} for axes in self.dims)


def _dim(name: str) -> Any:
    if not name:
        return torch.export.Dim.AUTO
    factor, _, root = name.rpartition("*")
    dim = torch.export.Dim(root, min=_LEAST.get(root, 1), max=60)
    return int(factor) * dim if factor else dim


_LEAST = {"height": 17, "width": 17}
"""Torch assumes of every size between layers that it is not 1."""


def _words(batch: int, length: int) -> Any:
    return torch.randint(0, 50, (batch, length))


def _seen(batch: int, length: int) -> Any:
    """The first row is seen whole, of the others the first half."""
    seen = torch.ones(batch, length, dtype=torch.long)
    seen[1:, (length + 1) // 2 :] = 0
    return seen


def _text(batch: int, length: int) -> Inputs:
    return _words(batch, length), _seen(batch, length)


TEXT = {0: "batch", 1: "sequence"}
TEXTS = ((2, 12), (1, 1), (3, 17), (1, 9))
BATCHES = ((2,), (1,), (3,))


# ------------------------------------------------------------------ in plain torch


def image_classifier() -> Model:
    module = _calibrated(networks.ImageClassifier(), 4, 3, 32, 32)
    return Model(
        module, lambda b, h, w: (torch.randn(b, 3, h, w),),
        ({0: "batch", 2: "height", 3: "width"},), ((2, 32, 40), (1, 33, 25), (3, 48, 57)),
    )  # fmt: skip


def vision_transformer() -> Model:
    inputs = lambda b: (torch.randn(b, 3, 16, 16),)  # noqa: E731
    return Model(networks.VisionTransformer(), inputs, ({0: "batch"},), BATCHES)


def text_encoder() -> Model:
    return Model(networks.TextEncoder(), _text, (TEXT, TEXT), TEXTS)


def generator() -> Model:
    return Model(networks.Generator(), lambda b, n: (_words(b, n),), (TEXT,), TEXTS)


def generator_step() -> Model:
    return Model(
        networks.Step(), lambda b, n: (_words(b, 1), torch.randn(2, 2, b, 3, n, 8)),
        ({0: "batch"}, {2: "batch", 4: "length"}), TEXTS,
    )  # fmt: skip


def relative_encoder() -> Model:
    return Model(networks.RelativeEncoder(), _text, (TEXT, TEXT), (*TEXTS, (1, 60)))


def relative_decoder() -> Model:
    def inputs(b: int, n: int, past: int, m: int) -> Inputs:
        return _words(b, n), torch.randn(2, b, 3, past, 8), torch.randn(b, m, 24), _seen(b, m)

    return Model(
        networks.RelativeDecoder(), inputs,
        ({0: "batch", 1: "new"}, {1: "batch", 3: "past"}, {0: "batch", 1: "encoded"},
         {0: "batch", 1: "encoded"}),
        ((2, 3, 5, 7), (1, 1, 1, 1), (3, 1, 30, 4), (2, 9, 4, 11)),
    )  # fmt: skip


def speech_encoder() -> Model:
    return Model(
        networks.SpeechEncoder(), lambda b, n: (torch.randn(b, 8, 2 * n),),
        ({0: "batch", 2: "2*frames"},), ((2, 12), (1, 2), (3, 17)),
    )  # fmt: skip


def lstm() -> Model:
    return Model(networks.Recurrent(), lambda b, n: (torch.randn(b, n, 6),), (TEXT,), TEXTS)


def denoiser() -> Model:
    def inputs(b: int, h: int, w: int, n: int) -> Inputs:
        return torch.randn(b, 4, 2 * h, 2 * w), torch.randint(0, 999, (1,)), torch.randn(b, n, 12)

    return Model(
        networks.Denoiser(), inputs,
        ({0: "batch", 2: "2*rows", 3: "2*columns"}, {}, {0: "batch", 1: "words"}),
        ((2, 4, 5, 7), (1, 2, 2, 2), (3, 6, 3, 9)),
    )  # fmt: skip


# ------------------------------------------------------------------ of packages


def _torchvision() -> Any:
    """torchvision's definitions; its own build may not load beside this torch."""
    if os.environ.get("EXTRA_SITE"):
        sys.path.append(os.environ["EXTRA_SITE"])
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
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


def _image(size: int) -> Callable[[int], Inputs]:
    return lambda b: (torch.randn(b, 3, size, size),)


def resnet18() -> Model:
    module = _torchvision().models.resnet18(weights=None, num_classes=10)
    return Model(_calibrated(module, 4, 3, 64, 64), _image(64), ({0: "batch"},), BATCHES)


def mobilenet_v2() -> Model:
    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    module = _torchvision().models.mobilenet_v2(
        weights=None, num_classes=10, inverted_residual_setting=stages
    )
    return Model(_calibrated(module, 4, 3, 64, 64), _image(64), ({0: "batch"},), BATCHES)


def vit() -> Model:
    transformer = _torchvision().models.vision_transformer.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64,
        num_classes=10,
    )  # fmt: skip
    nn.init.normal_(transformer.heads.head.weight, std=0.1)
    return Model(transformer, _image(32), ({0: "batch"},), BATCHES)


class Calling(nn.Module):  # type: ignore[misc, name-defined]
    """A network under a call with fewer arguments."""

    def __init__(self, model: Any, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.call = call


class CallingTwo(Calling):
    """Of two arguments."""

    def forward(self, first: Any, second: Any) -> Any:
        return self.call(self.model, first, second)


class CallingThree(Calling):
    """Of three arguments."""

    def forward(self, first: Any, second: Any, third: Any) -> Any:
        return self.call(self.model, first, second, third)


def bert() -> Model:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    module = CallingTwo(
        transformers.BertModel(config, add_pooling_layer=False),
        lambda m, x, seen: m(input_ids=x, attention_mask=seen).last_hidden_state,
    )
    return Model(module, _text, (TEXT, TEXT), TEXTS)


def _gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
    )


def gpt2() -> Model:
    module = CallingTwo(
        _gpt2(), lambda m, x, seen: m(input_ids=x, attention_mask=seen, use_cache=False).logits
    )
    return Model(module, _text, (TEXT, TEXT), TEXTS)


def _decode(model: Any, token: Any, past: Any) -> Any:
    cache = pytest.importorskip("transformers").DynamicCache()
    for k in range(past.shape[0]):
        cache.update(past[k, 0], past[k, 1], k)
    place = torch.full((1, 1), past.shape[4], dtype=torch.long)
    out = model(input_ids=token, past_key_values=cache, position_ids=place, use_cache=True)
    return out.logits, [layer.keys for layer in cache.layers]


def gpt2_step() -> Model:
    return Model(
        CallingTwo(_gpt2(), _decode), lambda b, n: (_words(b, 1), torch.randn(2, 2, b, 4, n, 8)),
        ({0: "batch"}, {2: "batch", 4: "length"}), TEXTS,
    )  # fmt: skip


def llama_step() -> Model:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return Model(
        CallingTwo(transformers.LlamaForCausalLM(config), _decode),
        lambda b, n: (_words(b, 1), torch.randn(2, 2, b, 2, n, 8)),
        ({0: "batch"}, {2: "batch", 4: ""}), TEXTS,
    )  # fmt: skip


def _t5_config() -> Any:
    return pytest.importorskip("transformers").T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2,
        num_heads=4, decoder_start_token_id=0, feed_forward_proj="relu",
    )  # fmt: skip


def t5_encoder() -> Model:
    module = CallingTwo(
        pytest.importorskip("transformers").T5EncoderModel(_t5_config()),
        lambda m, x, seen: m(input_ids=x, attention_mask=seen).last_hidden_state,
    )
    return Model(module, _text, (TEXT, TEXT), (*TEXTS, (1, 60)))


def t5_decoder() -> Model:
    module = CallingThree(
        pytest.importorskip("transformers").T5ForConditionalGeneration(_t5_config()),
        lambda m, x, hidden, seen: (
            m(
                decoder_input_ids=x, encoder_outputs=(hidden,), attention_mask=seen, use_cache=False
            ).logits
        ),
    )
    encoded = {0: "batch", 1: "encoded"}
    return Model(
        module, lambda b, n: (_words(b, n), torch.randn(b, n + 3, 32), _seen(b, n + 3)),
        (TEXT, encoded, encoded), TEXTS,
    )  # fmt: skip


def whisper_encoder() -> Model:
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=50, d_model=32, encoder_layers=2, encoder_attention_heads=4, decoder_layers=1,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=8,
        max_source_positions=30, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    encoder = transformers.WhisperModel(config).encoder
    return Model(encoder, lambda b: (torch.randn(b, 8, 60),), ({0: "batch"},), BATCHES)


def diffusers_unet() -> Model:
    _torchvision()
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    module = CallingThree(unet, lambda m, x, t, text: m(x, t, text, return_dict=False)[0])
    return Model(
        module,
        lambda b, n: (torch.randn(b, 4, 8, 8), torch.randint(0, 999, (1,)), torch.randn(b, n, 16)),
        ({0: "batch"}, {}, {0: "batch", 1: "words"}), ((2, 12), (1, 3)),
    )  # fmt: skip


MODELS: list[Callable[[], Model]] = [
    image_classifier, vision_transformer, text_encoder, generator, generator_step,
    relative_encoder, relative_decoder, speech_encoder, lstm, denoiser,
    resnet18, mobilenet_v2, vit, bert, gpt2, gpt2_step, llama_step, t5_encoder, t5_decoder,
    whisper_encoder, diffusers_unet,
]  # fmt: skip


# ------------------------------------------------------------------ agreement


def _leaves(results: Any) -> list[Any]:
    found: list[Any] = torch.utils._pytree.tree_leaves(results)
    return found


def _agree(executable: Any, model: Any, inputs: Inputs) -> None:
    with torch.no_grad():
        expected = _leaves(model(*inputs))
    results = executable(*(i.numpy() for i in inputs))
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        wanted = want.numpy()
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("build", MODELS, ids=lambda b: b.__name__)
def test_a_network_agrees_with_eager_at_every_size(build: Callable[[], Model]) -> None:
    torch.manual_seed(3)
    model = build()
    module = model.module.eval()
    example = model.inputs(*model.sizes[0])
    executable = tw.compile(module, example, dynamic_shapes=model.dynamic_shapes)
    for sizes in model.sizes:
        _agree(executable, module, model.inputs(*sizes))


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=["bf16", "f16"]
)
@pytest.mark.parametrize("build", [text_encoder, generator_step], ids=lambda b: b.__name__)
def test_a_network_of_short_floats_agrees_within_their_precision(
    build: Callable[[], Model], dtype: Any, bits: int
) -> None:
    torch.manual_seed(3)
    model = build()
    module = model.module.eval()
    inputs = [i.to(dtype) if i.is_floating_point() else i for i in model.inputs(3, 17)]
    with torch.no_grad():
        expected = _leaves(module(*(i.float() if i.dtype is dtype else i for i in inputs)))
        module.to(dtype)
        executable = tw.compile(module, tuple(inputs))
    results = executable(*inputs)
    for got, want in zip(results, expected, strict=True):
        assert got.dtype is dtype
        error = float((got.float() - want).abs().max() / want.abs().max())
        assert error < 4 * 2.0**-bits
