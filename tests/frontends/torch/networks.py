"""Small networks in plain torch, each of the shape of a well-known one, for tests."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
functional = nn.functional


class Attention(nn.Module):  # type: ignore[misc, name-defined]
    """Attention of several heads, over the input itself or over a context.

    Args:
        width: of the input and the result; a multiple of ``heads``.
        context: the width of the context.
    """

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context or width, width, bias=False)
        self.value = nn.Linear(context or width, width)
        self.last = nn.Linear(width, width)

    def split(self, x: Any) -> Any:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, x: Any, keys: Any, values: Any, mask: Any, causal: bool = False) -> Any:
        query = self.split(self.query(x))
        found = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=causal
        )
        return self.last(found.transpose(1, 2).flatten(2))

    def forward(self, x: Any, context: Any = None, mask: Any = None, causal: bool = False) -> Any:
        source = x if context is None else context
        return self.attend(x, self.split(self.key(source)), self.split(self.value(source)),
                           mask, causal)  # fmt: skip


def perceptron(width: int) -> Any:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Block(nn.Module):  # type: ignore[misc, name-defined]
    """A layer of a transformer: attention and perceptron, each after a norm, with residuals."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, heads)
        self.perceptron = perceptron(width)

    def forward(self, x: Any, mask: Any = None, causal: bool = False) -> Any:
        x = x + self.attention(self.norms[0](x), mask=mask, causal=causal)
        return x + self.perceptron(self.norms[1](x))


class VisionTransformer(nn.Module):  # type: ignore[misc, name-defined]
    """Patches by a convolution, a class token, learned places, and the token's class (ViT)."""

    def __init__(self, width: int = 24, size: int = 16, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(2))
        self.head = nn.Linear(width, 7)

    def forward(self, image: Any) -> Any:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class TextEncoder(nn.Module):  # type: ignore[misc, name-defined]
    """Tokens that see all tokens which a mask lets them see (BERT)."""

    def __init__(self, words: int = 50, width: int = 24) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(64, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, 3) for _ in range(2))

    def forward(self, tokens: Any, seen: Any) -> Any:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.places(places))
        mask = (1.0 - seen[:, None, None].to(x.dtype)) * torch.finfo(x.dtype).min
        for block in self.blocks:
            x = block(x, mask)
        return x


class Decoder(nn.Module):  # type: ignore[misc, name-defined]
    """What a generator of words knows."""

    def __init__(self, words: int = 50, width: int = 24) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, 3) for _ in range(2))
        self.norm = nn.LayerNorm(width)


class Generator(Decoder):
    """The scores of the next word after each word of a prompt (GPT-2's prefill)."""

    def forward(self, tokens: Any) -> Any:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x) @ self.words.weight.T


class Step(Decoder):
    """One more word, given the keys and values of those before it (GPT-2's decode step).

    The cache is ``[layers, 2, batch, heads, length, features]``; a longer one comes back.
    """

    def forward(self, token: Any, cache: Any) -> Any:
        place = torch.full((1, 1), cache.shape[4], dtype=torch.long)
        x = self.words(token) + self.places(place)
        grown = []
        for block, past in zip(self.blocks, cache, strict=True):
            inner = block.norms[0](x)
            attention = block.attention
            keys = torch.cat([past[0], attention.split(attention.key(inner))], 2)
            values = torch.cat([past[1], attention.split(attention.value(inner))], 2)
            grown.append(torch.stack([keys, values]))
            x = x + attention.attend(inner, keys, values, None)
            x = x + block.perceptron(block.norms[1](x))
        return self.norm(x) @ self.words.weight.T, torch.stack(grown)


class RootMeanSquare(nn.Module):  # type: ignore[misc, name-defined]
    """T5's norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Any) -> Any:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Distances(nn.Module):  # type: ignore[misc, name-defined]
    """A bias for each head by the distance of two words, far ones in common buckets (T5)."""

    def __init__(self, heads: int, both: bool, buckets: int = 8, far: int = 20) -> None:
        super().__init__()
        self.bias = nn.Embedding(buckets, heads)
        self.both, self.buckets, self.far = both, buckets, far

    def forward(self, queries: int, keys: int) -> Any:
        """``queries`` are the last of as many words as there are keys."""
        own = torch.arange(queries)[:, None] + (keys - queries)
        distance = torch.arange(keys)[None, :] - own
        buckets = self.buckets
        found = torch.zeros_like(distance)
        if self.both:
            buckets //= 2
            found = found + (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = -torch.min(distance, torch.zeros_like(distance))
        near = buckets // 2
        scale = (buckets - near) / math.log(self.far / near)
        coarse = near + (torch.log(distance.float() / near) * scale).long()
        coarse = torch.min(coarse, torch.full_like(coarse, buckets - 1))
        found = found + torch.where(distance < near, distance, coarse)
        return self.bias(found).permute(2, 0, 1)[None]


class RelativeEncoder(nn.Module):  # type: ignore[misc, name-defined]
    """T5's encoder: places only as distances, norms without means."""

    def __init__(self, words: int = 50, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.distances = Distances(heads, both=True)
        self.attentions = nn.ModuleList(Attention(width, heads) for _ in range(2))
        self.norms = nn.ModuleList(RootMeanSquare(width) for _ in range(2))

    def forward(self, tokens: Any, seen: Any) -> Any:
        x = self.words(tokens)
        unseen = torch.where(seen[:, None, None] > 0, 0.0, torch.finfo(x.dtype).min)
        mask = self.distances(tokens.shape[1], tokens.shape[1]) + unseen
        for attention, norm in zip(self.attentions, self.norms, strict=True):
            x = x + attention(norm(x), mask=mask)
        return x


class RelativeDecoder(nn.Module):  # type: ignore[misc, name-defined]
    """A step of T5's decoder: the last words, given a cache of words and an encoded text.

    The cache is ``[2, batch, heads, length, features]``.
    """

    def __init__(self, words: int = 50, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.distances = Distances(heads, both=False)
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads)
        self.norms = nn.ModuleList(RootMeanSquare(width) for _ in range(3))

    def forward(self, tokens: Any, cache: Any, encoded: Any, seen: Any) -> Any:
        x = self.words(tokens)
        inner = self.norms[0](x)
        keys = torch.cat([cache[0], self.own.split(self.own.key(inner))], 2)
        values = torch.cat([cache[1], self.own.split(self.own.value(inner))], 2)
        queries, length = tokens.shape[1], keys.shape[2]
        later = torch.arange(length)[None] > torch.arange(queries)[:, None] + (length - queries)
        mask = self.distances(queries, length).masked_fill(later, torch.finfo(x.dtype).min)
        x = x + self.own.attend(inner, keys, values, mask)
        unseen = (1.0 - seen[:, None, None].to(x.dtype)) * torch.finfo(x.dtype).min
        x = x + self.cross(self.norms[1](x), encoded, unseen)
        return self.norms[2](x) @ self.words.weight.T, torch.stack([keys, values])


class SpeechEncoder(nn.Module):  # type: ignore[misc, name-defined]
    """Whisper's encoder: two convolutions over time, sinusoids for places, a transformer."""

    def __init__(self, bands: int = 8, width: int = 24, longest: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv1d(bands, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        rates = torch.exp(torch.arange(width // 2) * (-math.log(10000) / (width // 2 - 1)))
        angles = torch.arange(longest)[:, None] * rates
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))
        self.blocks = nn.ModuleList(Block(width, 3) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, sound: Any) -> Any:
        x = functional.gelu(self.second(functional.gelu(self.first(sound)))).transpose(1, 2)
        x = x + self.places[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Recurrent(nn.Module):  # type: ignore[misc, name-defined]
    """Two layers of LSTM in both directions, and what follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        y, (h, c) = self.layers(x)
        return {"scores": self.last(y), "state": (h, c)}


class Residual(nn.Module):  # type: ignore[misc, name-defined]
    """Two normed convolutions around a shift by the time."""

    def __init__(self, channels: int, width: int, time: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, channels), nn.GroupNorm(4, width)])
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shift = nn.Linear(time, width)
        self.short = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Any, time: Any) -> Any:
        y = self.first(functional.silu(self.norms[0](x)))
        y = y + self.shift(functional.silu(time))[:, :, None, None]
        return self.short(x) + self.second(functional.silu(self.norms[1](y)))


class Denoiser(nn.Module):  # type: ignore[misc, name-defined]
    """A diffusion U-Net: down, attention to a text, and up again beside what was kept."""

    def __init__(self, width: int = 16, text: int = 12) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.before = Residual(width, width, width)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.within = Residual(width, 2 * width, width)
        self.norm = nn.LayerNorm(2 * width)
        self.own = Attention(2 * width, 4)
        self.cross = Attention(2 * width, 4, text)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.after = Residual(2 * width, width, width)
        self.last = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, image: Any, step: Any, text: Any) -> Any:
        rates = torch.exp(torch.arange(self.width // 2) * (-math.log(10000) * 2 / self.width))
        angles = step[:, None].float() * rates
        time = self.time(torch.cat([angles.cos(), angles.sin()], 1))
        kept = self.before(self.first(image), time)
        x = self.within(self.down(kept), time)
        rows, columns = x.shape[2:]
        sequence = x.flatten(2).transpose(1, 2)
        sequence = sequence + self.own(self.norm(sequence))
        sequence = sequence + self.cross(self.norm(sequence), text)
        x = sequence.transpose(1, 2).unflatten(2, (rows, columns))
        x = self.up(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.last(functional.silu(self.after(torch.cat([x, kept], 1), time)))


class ImageClassifier(nn.Module):  # type: ignore[misc, name-defined]
    """Convolutions with batch norms: a residual block (ResNet), an inverted one (MobileNet)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def layer(channels: int, wanted: int, kernel: int, groups: int = 1, stride: int = 1) -> Any:
            convolution = nn.Conv2d(
                channels, wanted, kernel, stride, kernel // 2, groups=groups, bias=False
            )
            return nn.Sequential(convolution, nn.BatchNorm2d(wanted))

        self.stem = nn.Sequential(layer(3, width, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.residual = nn.Sequential(layer(width, width, 3), nn.ReLU(), layer(width, width, 3))
        self.inverted = nn.Sequential(
            layer(width, 4 * width, 1), nn.ReLU6(),
            layer(4 * width, 4 * width, 3, groups=4 * width, stride=2), nn.ReLU6(),
            layer(4 * width, 2 * width, 1),
        )  # fmt: skip
        self.last = nn.Linear(2 * width, 10)

    def forward(self, image: Any) -> Any:
        x = self.stem(image)
        x = self.inverted(functional.relu(x + self.residual(x)))
        return self.last(functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1))
