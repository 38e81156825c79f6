"""Profiles as traces and pages, from the command that writes them to a browser that shows them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright import cli
from tilewright.backends.cpu import profile as cpu_profile
from tilewright.backends.cpu.peaks import Peaks
from tilewright.profiling.page import split_assembly

from .models import convolutions, recurrent

PEAKS = Peaks(
    2,
    (1e11, 2e11),
    {"L1": (4e11, 8e11), "L2": (1e11, 2e11), "L3": (3e10, 5e10), "DRAM": (1e10, 2e10)},
    {"L1": (1 << 15, 1 << 16), "L2": (1 << 20, 1 << 21), "L3": (1 << 24, 1 << 24), "DRAM": (0, 0)},
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGE_BYTES = 3_000_000


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("TILEWRIGHT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_profile, "known_peaks", lambda _: PEAKS)
    monkeypatch.setattr(cpu_profile, "_SECONDS", 0.0)


def profile(model: str, *options: str) -> int:
    return cli.run_command(["profile", model, *options])


def data_of(page: str) -> dict[str, Any]:
    """What is packed into a page."""
    packed = re.search(r'id="data">([^<]*)<', page)
    assert packed is not None
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed[1])))
    return found


# ------------------------------------------------------------------ figures


def test_the_table_shows_every_kernel_with_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(convolutions(tmp_path), "--threads", "1") == 0
    printed = capsys.readouterr().out
    assert "measured: medians of" in printed
    assert "roofline: 100 GFLOP/s" in printed
    for word in ("of roofline", "limited by", "source nodes", "Conv:first", "MatMul:head"):
        assert word in printed


def test_json_holds_the_figures_and_all_source_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(convolutions(tmp_path), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kind"] == "measured"
    assert data["roofs"]["DRAM"] > 0
    named = {n for k in data["kernels"] for n in k["source nodes"]}
    assert {"Conv:first", "Relu:act", "Conv:second", "Add:join", "MatMul:head"} <= named
    for kernel in data["kernels"]:
        assert kernel["source nodes"], kernel["name"]
        assert kernel["launches"] >= 1
        assert kernel["limited by"] in ("compute", "L1", "L2", "L3", "DRAM")
    total = sum(k["measured seconds"] for k in data["kernels"])
    assert total == pytest.approx(data["measured seconds"])


def test_a_compiled_file_is_profiled_without_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = str(tmp_path / "model.tw")
    assert cli.run_command(["compile", convolutions(tmp_path), "-o", artifact]) == 0
    page = tmp_path / "page.html"
    assert profile(artifact, "--html", str(page)) == 0
    assert "GB/s" in capsys.readouterr().out
    assert data_of(page.read_text())["kernels"][0]["loops"] == ""
    assert profile(artifact, "--shape", "x:1x3x20x20") == 2
    assert "TW-E0821" in capsys.readouterr().err


# ------------------------------------------------------------------ the trace


@pytest.mark.parametrize("make", [convolutions, recurrent])
def test_a_trace_has_an_event_for_every_step_of_one_call(make: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert profile(make(tmp_path), "--trace", str(trace), "--threads", "1") == 0
    events = json.loads(trace.read_text())["traceEvents"]
    call, *steps = [e for e in events if e["ph"] == "X"]
    assert len(steps) >= 4
    end = 0.0
    for event in steps:
        assert {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"} == set(event)
        # Steps follow each other, inside of the call.
        assert event["ts"] >= end - 1e-6
        end = event["ts"] + event["dur"]
        assert event["dur"] >= 0
    assert end <= call["ts"] + call["dur"] + 1e-6
    assert any(e["args"]["nodes"] for e in steps)
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"tilewright", "caller"}


# ------------------------------------------------------------------ the page


def test_a_page_needs_nothing_from_anywhere(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert profile(convolutions(tmp_path), "--html", str(page)) == 0
    text = page.read_text()
    # The one address is the name of SVG, which nobody fetches.
    assert re.findall(r"https?://[^\s\"']+", text) == ["http" + "://www.w3.org/2000/svg"]
    assert not re.search(r"<(link|img|iframe|script[^>]*\ssrc)", text)
    assert not re.search(r"@import|url\(|\bimport\s|fetch\(|XMLHttpRequest|WebSocket", text)
    assert "default-src 'none'" in text
    assert "@DATA@" not in text and "@TITLE@" not in text


def test_a_page_holds_all_that_is_known(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert profile(convolutions(tmp_path), "--html", str(page)) == 0
    data = data_of(page.read_text())
    assert data["model"] == "convolutions"
    for kernel in data["kernels"]:
        assert kernel["loops"].startswith(f"def {kernel['name']}(")
        assert f"{kernel['name']}:" in kernel["assembly"]
        assert "ret" in kernel["assembly"]
        assert kernel["recipe"]
    assert len(data["events"]) == len(data["steps"])
    for step in data["steps"]:
        assert step["reads"] and step["writes"]
        numbers = [*step["reads"], *step["writes"]]
        assert all(0 <= n < len(data["tensors"]) for n in numbers)
    for tensor in data["tensors"]:
        assert 0 <= tensor["first"] <= tensor["last"] < len(data["steps"])
        if tensor["kind"] == "arena":
            assert tensor["offset"] + tensor["bytes"] <= data["arena"]
    # What is alive at once lies in different places.
    held = [t for t in data["tensors"] if t["kind"] == "arena"]
    for k, a in enumerate(held):
        for b in held[k + 1 :]:
            at_once = a["first"] < b["last"] and b["first"] < a["last"]
            meets = (
                a["offset"] < b["offset"] + b["bytes"] and b["offset"] < a["offset"] + a["bytes"]
            )
            assert not (at_once and meets and a["offset"] != b["offset"]), (a, b)


def test_the_page_of_a_whole_network_is_small(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert profile("zoo:resnet50", "--html", str(page)) == 0
    assert page.stat().st_size < PAGE_BYTES
    assert len(data_of(page.read_text())["steps"]) > 50


def test_names_can_not_break_a_page(tmp_path: Path) -> None:
    model = Path(convolutions(tmp_path)).rename(tmp_path / "a&b<script>.onnx")
    page = tmp_path / "page.html"
    assert profile(str(model), "--html", str(page)) == 0
    assert page.read_text().count("</script>") == 2


def test_assembly_is_cut_into_kernels_with_their_loops() -> None:
    listing = """\
\t.text
\t.globl\tfirst
first:
\t.cfi_startproc
\tret
.Lfunc_end0:
first.par0:
\tpushq\t%rbx
.LBB1_1:
\tjmp\t.LBB1_1
.Lfunc_end1:
other:
\tnop
.Lfunc_end2:
second:
\tvaddps\t%zmm0, %zmm1, %zmm2 # a note
"""
    found = split_assembly(listing, ["first", "second", "third"])
    assert found["first"].split() == [
        "first:", "ret", ".Lfunc_end0:", "first.par0:", "pushq", "%rbx", ".LBB1_1:", "jmp",
        ".LBB1_1", ".Lfunc_end1:",
    ]  # fmt: skip
    assert found["second"] == "second:\n  vaddps  %zmm0, %zmm1, %zmm2"
    assert found["third"] == ""


# ------------------------------------------------------------------ a browser


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}")
    return found


def show(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a page in a headless browser, with a folder of its own and no network."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--hide-scrollbars", "--virtual-time-budget=20000",
             "--host-resolver-rules=MAP * ~NOTFOUND",
             f"--user-data-dir={page.parent / 'browser'}", "--window-size=1300,2400",
             "--enable-logging=stderr", "--v=0"]  # fmt: skip
    return subprocess.run(
        [browser(), *quiet, *options, page.as_uri()],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


@pytest.mark.parametrize("make", [convolutions, recurrent])
def test_a_browser_draws_every_part_of_a_page(make: Any, tmp_path: Path) -> None:
    browser()
    page = tmp_path / "page.html"
    assert profile(make(tmp_path), "--html", str(page), "--threads", "1") == 0
    data = data_of(page.read_text())
    done = show(page, "--dump-dom")
    dom = done.stdout
    assert 'data-ready="yes"' in dom, dom[-2000:] + done.stderr[-2000:]
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|Error)", done.stderr)
    parts = {name: _part(dom, name) for name in ("timeline", "roofline", "memory", "graph")}
    assert parts["timeline"].count("<rect") == len(data["events"])
    assert parts["graph"].count("<rect") == len(data["steps"])
    assert parts["roofline"].count("<line") > 6
    counted = [k for k in data["kernels"] if k["figures"].get("GFLOP/s")]
    assert parts["roofline"].count("<circle") == len(counted) >= 2
    assert parts["memory"].count("<rect") >= 2
    assert _part(dom, "kernels").count("<tr") == 1 + len(data["kernels"])
    slowest = max(data["kernels"], key=lambda k: k["seconds"])
    assert slowest["name"] in _part(dom, "kernel-name")
    if slowest["loops"]:
        assert "def " in _part(dom, "text")


def _part(dom: str, name: str) -> str:
    """The content of an element, up to the next one with a name."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)(?=<[a-z]+ id="|<script)', dom, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_a_picture_of_a_page_is_not_blank(tmp_path: Path) -> None:
    browser()
    pillow = pytest.importorskip("PIL.Image")
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    assert profile(convolutions(tmp_path), "--html", str(page)) == 0
    done = show(page, f"--screenshot={picture}")
    assert picture.exists(), done.stderr[-2000:]
    pixels = np.asarray(pillow.open(picture).convert("RGB")).reshape(-1, 3)
    assert pixels.shape[0] == 1300 * 2400
    # Several colours, each over some area: bars, dots and rectangles, not text alone.
    colours, counts = np.unique(pixels // 16, axis=0, return_counts=True)
    assert (counts > 500).sum() >= 8, len(colours)
