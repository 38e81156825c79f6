"""NumPy's functions that are refused, and why."""

from __future__ import annotations

from collections.abc import Mapping

_SIZE = "the size of its result depends on data, which exists only when the compiled code runs"
_WRITES = "it writes what depends on how many elements of a mask are true; use np.where"
_FACTOR = "factorisations of matrices have no compiled form yet"
_COMPLEX = "it gives complex numbers"
_PYTHON = "it calls a Python function for each element or row; write it with whole arrays"
_BITS = "it looks at the bits of floats"
_WHOLE = "it has no compiled form yet"

_REASONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "TW-E0242": (
        _SIZE,
        (
            "argwhere", "bincount", "compress", "extract", "flatnonzero", "histogram_bin_edges",
            "intersect1d", "nanargmax", "nanargmin", "nonzero", "setdiff1d", "setxor1d",
            "trim_zeros", "union1d", "unique", "unique_all", "unique_counts", "unique_inverse",
            "unique_values",
        ),
    ),
    "TW-E0244": (
        _WRITES,
        ("place",),
    ),
}  # fmt: skip

_OTHERS: dict[str, tuple[str, ...]] = {
    _FACTOR: tuple(
        f"linalg.{name}"
        for name in (
            "cholesky", "cond", "det", "eigh", "eigvalsh", "inv", "lstsq", "matrix_rank", "pinv",
            "qr", "slogdet", "solve", "svd", "svdvals", "tensorinv", "tensorsolve",
        )
    ),
    _COMPLEX: ("linalg.eig", "linalg.eigvals", "roots", "sort_complex"),
    _PYTHON: ("apply_along_axis", "apply_over_axes", "fromfunction", "frompyfunc", "piecewise"),
    _BITS: (
        "bitwise_count", "copysign", "frexp", "ldexp", "nextafter", "packbits", "signbit",
        "spacing", "unpackbits",
    ),
    _WHOLE: (
        "choose", "delete", "diag_indices_from", "einsum_path", "gcd", "geomspace", "histogram2d",
        "histogramdd", "i0", "insert", "ix_", "lcm", "poly", "polyadd", "polyder", "polydiv",
        "polyfit", "polyint", "polymul", "polysub", "ravel_multi_index", "resize",
        "tril_indices_from", "triu_indices_from", "unravel_index", "unwrap",
    ),
}  # fmt: skip

REFUSED: Mapping[str, tuple[str, str]] = {
    **{
        f"numpy.{name}": (code, reason)
        for code, (reason, names) in _REASONS.items()
        for name in names
    },
    **{
        f"numpy.{name}": ("TW-E0241", reason) for reason, names in _OTHERS.items() for name in names
    },
}
"""Of each function that is refused: the error's code, and the reason."""
