"""The tables of NumPy's functions name all of them, each once."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from tilewright.frontends.numpy.table import REFUSED, SUPPORTED

NOT_OF_ARRAYS = frozenset(
    """
    array2string array_repr array_str asarray_chkfinite asfortranarray asmatrix base_repr
    binary_repr bmat broadcast_shapes busday_count busday_offset can_cast common_type
    datetime_as_string datetime_data from_dlpack frombuffer fromfile fromiter fromregex fromstring
    genfromtxt get_include get_printoptions getbufsize geterr geterrcall info is_busday isdtype
    isfortran isnat isscalar issubdtype iterable load loadtxt may_share_memory min_scalar_type
    mintypecode nested_iters printoptions promote_types require save savetxt savez
    savez_compressed set_printoptions setbufsize seterr seterrcall shares_memory show_config
    show_runtime test typename bartlett blackman hamming hanning kaiser diag_indices indices
    mask_indices tril_indices triu_indices LinAlgError row_stack format_float_positional
    format_float_scientific
    """.split()  # noqa: SIM905
)
"""Texts, files, dates, settings, old names, and what makes arrays of plain numbers only."""


def public(module: ModuleType) -> list[str]:
    prefix = module.__name__
    return [
        f"{prefix}.{getattr(f, '__name__', name)}"
        for name, f in vars(module).items()
        if not name.startswith("_")
        and callable(f)
        and not isinstance(f, type)
        and name not in NOT_OF_ARRAYS
    ]


@pytest.mark.parametrize("module", [np, np.linalg])
def test_every_function_is_traced_or_refused(module: ModuleType) -> None:
    known = set(SUPPORTED) | set(REFUSED)
    assert not [name for name in public(module) if name not in known]


def test_no_function_is_in_both_tables() -> None:
    assert not set(SUPPORTED) & set(REFUSED)


def test_the_tables_name_functions_that_exist() -> None:
    for name in (*SUPPORTED, *REFUSED):
        found: object = np
        for part in name.split(".")[1:]:
            found = getattr(found, part)
        assert callable(found)
