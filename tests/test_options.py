"""Options: what is chosen goes before the environment, which goes before the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.errors import OptionError
from tilewright.options import Options, from_environment


def test_defaults_put_the_cache_in_the_users_cache_folder() -> None:
    assert from_environment({"HOME": "/h"}) == Options(cache_dir=Path("/h/.cache/tilewright"))
    xdg = {"HOME": "/h", "XDG_CACHE_HOME": "/x"}
    assert from_environment(xdg).cache_dir == Path("/x/tilewright")
    assert from_environment({**xdg, "XDG_CACHE_HOME": "rel"}).cache_dir == Path(
        "/h/.cache/tilewright"
    )
    assert from_environment({}).cache_dir is None


def test_variables_are_read_and_choices_go_first() -> None:
    env = {
        "TILEWRIGHT_TARGET": "x86-64-v3",
        "TILEWRIGHT_THREADS": "3",
        "TILEWRIGHT_CACHE": "0",
        "TILEWRIGHT_CACHE_DIR": "/c",
        "TILEWRIGHT_CACHE_BYTES": "1000",
        "TILEWRIGHT_DEBUG": "2",
        "TILEWRIGHT_MATH": "strict",
    }
    assert from_environment(env) == Options("x86-64-v3", 3, False, Path("/c"), 1000, 2, "strict")
    chosen = from_environment(env, threads=1, target=None, cache=True)
    assert (chosen.threads, chosen.target, chosen.cache) == (1, "x86-64-v3", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("THREADS", "many"), ("THREADS", "0"), ("THREADS", "-1"), ("THREADS", "²"), ("DEBUG", "6"),
     ("CACHE", "yes"), ("CACHE_BYTES", "1G"), ("MATH", "exact")],
)  # fmt: skip
def test_a_variable_that_is_not_understood_is_refused(name: str, value: str) -> None:
    with pytest.raises(OptionError, match="TW-E0801"):
        from_environment({f"TILEWRIGHT_{name}": value})


def test_a_bad_variable_does_not_matter_when_the_option_is_chosen() -> None:
    assert from_environment({"TILEWRIGHT_THREADS": "many"}, threads=2).threads == 2


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="TW-E0802.*thread;.*threads"):
        from_environment({}, thread=2)
