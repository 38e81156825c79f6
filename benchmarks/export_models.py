"""Exports seeded PyTorch models to ONNX, each with inputs and float64 reference outputs.

    python benchmarks/export_models.py FOLDER [NAME ...] [--force] [--pt2]

Needs torch and onnxscript; transformers for the language models; torchvision's definitions for
the vision models (any version: install it with ``pip install --no-deps --target DIR torchvision``
and set PYTHONPATH=DIR, since only its Python files are used). Nothing is downloaded.

Each model becomes FOLDER/NAME.onnx and, for every set of inputs, FOLDER/NAME.npz (then
NAME.1.npz, ...) that holds ``in_<input name>`` and ``out_<index>``. ``--pt2`` also writes NAME.pt2,
the exported program, which the peer torch runs. Weights are random, and scaled
so that activations neither vanish nor explode: batch norms take their statistics from a forward
pass, linear layers get unit gain.
"""

# mypy: disable-error-code="misc, no-any-return"

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import itertools
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Model:
    """A module and what to feed it.

    Attributes:
        module: in evaluation mode.
        sets: named inputs; the first set is what the export traces.
        symbols: for inputs with symbolic dims, the name of each such axis.
        traced: export with the older, tracing exporter.
    """

    module: nn.Module
    sets: tuple[Inputs, ...]
    symbols: dict[str, dict[int, str]] = field(default_factory=dict)
    traced: bool = False


# ------------------------------------------------------------------ vision


def declare_operators() -> torch.library.Library:
    """Lets torchvision be imported where its compiled operators do not fit this torch.

    It registers shapes for two of them at once; transformers imports it, too, where it is there.
    The declarations live as long as the returned object.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # It is there: the compiled operators do fit.
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    return library


def with_statistics(module: nn.Module, *shape: int) -> nn.Module:
    """Gives batch norms random scales and the statistics of their own inputs."""
    generator = torch.Generator().manual_seed(123)
    norms = [
        m
        for m in module.modules()
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    ]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # Average over everything seen.
        norm.weight.uniform_(0.7, 1.3, generator=generator)
        norm.bias.normal_(0, 0.1, generator=generator)
        norm.train()
    module(torch.randn(*shape, generator=generator))
    return module.eval()


def image_network(name: str) -> Callable[[], Model]:
    """A network of torchvision with batch norms, on one picture of 224x224."""

    def build() -> Model:
        module = getattr(importlib.import_module("torchvision.models"), name)(weights=None)
        return Model(with_statistics(module, 4, 3, 224, 224), ({"x": torch.randn(1, 3, 224, 224)},))

    return build


def vision_transformer() -> Model:
    """ViT-B/16; its classifier starts as zeros and would hide every error."""
    module = importlib.import_module("torchvision.models").vit_b_16(weights=None)
    nn.init.normal_(module.heads.head.weight, std=0.05)
    return Model(module.eval(), ({"x": torch.randn(1, 3, 224, 224)},))


class Twice(nn.Sequential):
    """Two convolutions of 3x3, each with a norm and a ReLU."""

    def __init__(self, given: int, made: int) -> None:
        layers: list[nn.Module] = []
        for channels in (given, made):
            layers += [nn.Conv2d(channels, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)]
            layers += [nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """A U-Net of four steps down and up, as for segmentation."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width << k for k in range(5)]
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList([Twice(3, width), *(Twice(a, b) for a, b in pairs)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs)])
        self.join = nn.ModuleList([Twice(2 * a, a) for a, _ in reversed(pairs)])
        self.pool = nn.MaxPool2d(2)
        self.classes = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scores of two classes at each pixel."""
        kept: list[torch.Tensor] = []
        for k, step in enumerate(self.down):
            x = step(self.pool(x) if k else x)
            kept.append(x)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.classes(x)


def unet() -> Model:
    """A U-Net on a picture of 256x256."""
    return Model(with_statistics(UNet(), 1, 3, 256, 256), ({"x": torch.randn(1, 3, 256, 256)},))


# ------------------------------------------------------------------ language


class HiddenState(nn.Module):
    """An encoder as a function of ids and mask."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The last layer's states."""
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class Logits(nn.Module):
    """A decoder as a function of ids, without a cache."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The scores of the next token at each position."""
        return self.decoder(input_ids=input_ids, use_cache=False).logits


class DecodeStep(nn.Module):
    """One step of a decoder: a token and all keys and values before it, as one tensor."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, token: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The scores of the next token, and the new keys and values of each layer."""
        cache = importlib.import_module("transformers").DynamicCache()
        for k in range(past.shape[0]):
            cache.update(past[k, 0], past[k, 1], k)
        at = torch.full((1, 1), past.shape[4], dtype=torch.long)
        out = self.decoder(input_ids=token, past_key_values=cache, position_ids=at, use_cache=True)
        layers = [torch.stack((layer.keys, layer.values)) for layer in out.past_key_values.layers]
        return out.logits, torch.stack(layers)


class States(nn.Module):
    """An encoder as a function of ids alone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The last layer's states."""
        return self.encoder(input_ids=input_ids).last_hidden_state


class RecurrentLanguageModel(nn.Module):
    """Embedding, two LSTM layers, projection to the vocabulary."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.recurrence = nn.LSTM(width, width, 2, batch_first=True)
        self.projection = nn.Linear(width, vocabulary)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The scores of the next token at each position."""
        return self.projection(self.recurrence(self.embedding(ids))[0])


def unit_gain(module: nn.Module, below: int = 5000) -> nn.Module:
    """Widens linear layers: the customary 0.02 leaves attention nearly uniform, a dull test."""
    for m in module.modules():
        if isinstance(m, nn.Linear) and max(m.in_features, m.out_features) < below:
            nn.init.normal_(m.weight, std=1 / math.sqrt(m.in_features))
    return module


def ids(batch: int, length: int, vocabulary: int) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, vocabulary, (batch, length))


def bert_base() -> Model:
    """BERT-base; batch and sequence are symbolic, the second set pads its rows unequally."""
    transformers = importlib.import_module("transformers")
    config = transformers.BertConfig()
    encoder = unit_gain(transformers.BertModel(config, add_pooling_layer=False))
    vocabulary = config.vocab_size
    ragged = (torch.arange(37)[None] < torch.tensor([[37], [20], [5]])).long()
    full = torch.ones(1, 128, dtype=torch.long)
    axes = {0: "batch", 1: "sequence"}
    return Model(
        HiddenState(encoder).eval(),
        (
            {"input_ids": ids(1, 128, vocabulary), "attention_mask": full},
            {"input_ids": ids(3, 37, vocabulary), "attention_mask": ragged},
        ),
        {"input_ids": axes, "attention_mask": axes},
    )


def gpt2() -> nn.Module:
    """GPT-2 small, its attention away from uniform."""
    transformers = importlib.import_module("transformers")
    decoder = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    for name, parameter in decoder.named_parameters():
        if name.endswith(("c_attn.weight", "c_fc.weight")):
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[0]))
    return decoder


def gpt2_prefill() -> Model:
    """GPT-2 small over a prompt of 64 tokens."""
    return Model(Logits(gpt2()).eval(), ({"input_ids": ids(1, 64, 50257)},))


def gpt2_decode() -> Model:
    """GPT-2 small: one token after 128."""
    inputs = {"token": ids(1, 1, 50257), "past": torch.randn(12, 2, 1, 12, 128, 64)}
    return Model(DecodeStep(gpt2()).eval(), (inputs,))


def t5_encoder() -> Model:
    """The encoder of T5-small over 64 tokens."""
    transformers = importlib.import_module("transformers")
    config = transformers.T5Config(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8,
        decoder_start_token_id=0, feed_forward_proj="relu",
    )  # fmt: skip
    encoder = transformers.T5EncoderModel(config)
    return Model(States(encoder).eval(), ({"input_ids": ids(1, 64, 32128)},))


def lstm_language_model() -> Model:
    """A medium LSTM language model (two layers of 650) over 35 tokens."""
    # The newer exporter writes the recurrence out step by step.
    return Model(
        RecurrentLanguageModel(10000, 650).eval(), ({"ids": ids(1, 35, 10000)},), traced=True
    )


MODELS: dict[str, Callable[[], Model]] = {
    "resnet18": image_network("resnet18"),
    "resnet50": image_network("resnet50"),
    "vgg16": image_network("vgg16"),
    "densenet121": image_network("densenet121"),
    "mobilenet_v2": image_network("mobilenet_v2"),
    "efficientnet_b0": image_network("efficientnet_b0"),
    "vit_b_16": vision_transformer,
    "unet": unet,
    "bert_base": bert_base,
    "gpt2_prefill64": gpt2_prefill,
    "gpt2_decode128": gpt2_decode,
    "t5_encoder": t5_encoder,
    "lstm_lm": lstm_language_model,
}


# ------------------------------------------------------------------ work


def reference(module: nn.Module, inputs: Inputs) -> list[np.ndarray]:
    """What the module computes in float64."""
    wide = [v.double() if v.is_floating_point() else v for v in inputs.values()]
    result = module(*wide)
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    arrays = [o.numpy() for o in outputs]
    if any(a.dtype != np.float64 or not np.isfinite(a).all() for a in arrays):
        raise SystemExit("a reference output is not finite float64")
    return arrays


def export(model: Model, path: Path) -> None:
    """Writes the ONNX file in one piece."""
    first = model.sets[0]
    arguments, names = tuple(first.values()), list(first)
    if model.traced:
        torch.onnx.export(
            model.module, arguments, str(path), input_names=names, opset_version=17, dynamo=False
        )
        return
    shapes = None
    if model.symbols:
        dims = {s: torch.export.Dim(s, min=1) for axes in model.symbols.values()
                for s in axes.values()}  # fmt: skip
        shapes = {n: {a: dims[s] for a, s in model.symbols.get(n, {}).items()} for n in names}
        # A traced size of 1 would be taken for a constant.
        arguments = tuple(model.sets[-1].values())
    torch.onnx.export(
        model.module, arguments, str(path), input_names=names, opset_version=18, dynamo=True,
        external_data=False, dynamic_shapes=shapes, verbose=False,
    )  # fmt: skip


def write(name: str, folder: Path, program: bool = False) -> str:
    """Builds, exports and records one model; returns a line about it."""
    torch.manual_seed(0)
    began = time.perf_counter()
    model = MODELS[name]()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        staged = Path(scratch) / f"{name}.onnx"
        export(model, staged)
        proto = onnx.load(staged, load_external_data=False)
        staged.replace(folder / staged.name)
        if program:
            arguments = tuple(model.sets[0].values())
            staged = Path(scratch) / f"{name}.pt2"
            torch.export.save(torch.export.export(model.module, arguments), str(staged))
            staged.replace(folder / staged.name)
    wide = copy.deepcopy(model.module).double()
    spread = []
    for k, inputs in enumerate(model.sets):
        outputs = reference(wide, inputs)
        spread.append(f"{outputs[0].std():.3g}")
        fed: dict[str, Any] = {f"in_{n}": v.numpy() for n, v in inputs.items()}
        fed |= {f"out_{i}": o for i, o in enumerate(outputs)}
        np.savez(folder / (f"{name}.{k}.npz" if k else f"{name}.npz"), **fed)
    size = (folder / f"{name}.onnx").stat().st_size / 1e6
    took = time.perf_counter() - began
    return (
        f"{name:16} {len(proto.graph.node):5} nodes {size:7.1f} MB  "
        f"std of output {', '.join(spread)}  {took:.0f} s"
    )


def main() -> int:
    """Exports what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--force", action="store_true", help="also export what is there")
    parser.add_argument("--pt2", action="store_true", help="also write the exported programs")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(MODELS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or MODELS:
        if chosen.force or not (chosen.folder / f"{name}.npz").exists():
            print(write(name, chosen.folder, chosen.pt2), flush=True)
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # The exporters warn of their own internals.
    declared = declare_operators()
    with torch.no_grad():
        sys.exit(main())
