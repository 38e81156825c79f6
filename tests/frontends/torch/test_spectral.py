"""Singular values and eigenvalues agree with torch's, and their vectors make up the matrix."""

from __future__ import annotations

from typing import Any

import pytest

import tilewright as tw

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore")


class Spectra(nn.Module):  # type: ignore[misc, name-defined]
    """What is known of a matrix by its singular values."""

    def forward(self, a: Any) -> Any:
        square = a @ a.mT
        return (
            *torch.linalg.svd(a, full_matrices=True),
            torch.linalg.pinv(a),
            *torch.linalg.eigh(square - 2 * square.mT.diagonal(dim1=-2, dim2=-1).diag_embed()),
        )


def matrices(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 4), (3, 5), (2, 4, 4), (1, 1)])
def test_vectors_are_orthogonal_and_make_up_the_matrix(shape: tuple[int, ...]) -> None:
    a = matrices(*shape)
    if shape == (2, 4, 4):
        a[0, :, 1] = a[0, :, 0]  # one direction of no length
        a[1] = 0
    u, s, v, inverse, values, vectors = tw.compile(Spectra().eval(), (a,))(a)
    near = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(s, torch.linalg.svdvals(a), **near)
    count = s.shape[-1]
    torch.testing.assert_close((u[..., :count] * s[..., None, :]) @ v[..., :count, :], a, **near)
    for x in (u, v.mT, vectors):
        unit = torch.eye(x.shape[-1], dtype=x.dtype).expand(*x.shape[:-2], -1, -1)
        torch.testing.assert_close(x.mT @ x, unit, **near)
    torch.testing.assert_close(inverse, torch.linalg.pinv(a), **near)
    square = a @ a.mT
    square = square - 2 * square.diagonal(dim1=-2, dim2=-1).diag_embed()
    torch.testing.assert_close(values, torch.linalg.eigvalsh(square), **near)
    torch.testing.assert_close((vectors * values[..., None, :]) @ vectors.mT, square, **near)


def test_symbolic_sizes_are_refused() -> None:
    rows = torch.export.Dim("rows", min=4, max=8)
    with pytest.raises(tw.UnsupportedError, match="symbolic sizes of a"):
        tw.compile(Spectra().eval(), (matrices(5, 3),), dynamic_shapes=({0: rows},))
