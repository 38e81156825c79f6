"""CPU targets are described by numbers, and code for a better CPU is refused before it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilewright.backends.cpu import target as target_module
from tilewright.backends.cpu.target import (
    TARGET_NAMES,
    host_features,
    missing_features,
    resolve_target,
)
from tilewright.errors import TargetError


def test_levels_widen_vectors_and_keep_what_the_lower_ones_require() -> None:
    v2, v3, v4 = (resolve_target(f"x86-64-v{n}") for n in (2, 3, 4))
    assert [t.lanes(32) for t in (v2, v3, v4)] == [4, 8, 16]
    assert [t.vector_registers for t in (v2, v3, v4)] == [16, 16, 32]
    assert set(v2.required) < set(v3.required) < set(v4.required)
    assert "fma" in v3.required
    assert "fma" not in v2.required


def test_native_requires_only_what_this_cpu_has() -> None:
    native = resolve_target("native")
    assert missing_features(native) == ()
    assert set(native.required) <= host_features()
    assert 0 < native.l1_bytes <= native.l2_bytes <= native.l3_bytes


def test_a_feature_this_cpu_lacks_is_named() -> None:
    target = replace(resolve_target("x86-64-v2"), required=("sse4_2", "no_such_feature"))
    assert "no_such_feature" in missing_features(target)


def test_an_unknown_target_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(TargetError, match="TW-E0401") as caught:
        resolve_target("x86-64-v9")
    assert all(name in str(caught.value) for name in TARGET_NAMES)


def test_native_code_for_another_kind_of_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "ppc64le")
    with pytest.raises(TargetError, match=r"TW-E0402.*ppc64le; compile or export for a target"):
        resolve_target("native")
    assert resolve_target("aarch64").name == "aarch64"


def test_a_cpu_older_than_every_level_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = host_features() - {"popcnt", "avx", "avx2"}
    monkeypatch.setattr(target_module, "host_features", lambda: old)
    with pytest.raises(TargetError, match=r"TW-E0402.*this CPU lacks popcnt, .*x86-64-v2"):
        resolve_target("native")
