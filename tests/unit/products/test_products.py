"""Products by oneDNN: the same numbers and gradients as torch's, and no use where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec import products
from genrec.products import Linear, Product, hasten, linear

needs_onednn = pytest.mark.skipif(not products.AVAILABLE, reason="this processor has no AVX-512: torch's own products")


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def _gradients(result: Tensor, *of: Tensor) -> list[Tensor]:
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(0))
    return list(torch.autograd.grad(result, of, upstream))


@needs_onednn
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [((700,), 64, 256), ((9, 50), 256, 64), ((5, 3, 40), 96, 96)])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_is_torchs(rows: tuple[int, ...], inputs: int, outputs: int, biased: bool) -> None:
    states, weight, bias = _drawn(*rows, inputs), _drawn(outputs, inputs), _drawn(outputs)
    leaves = (states, weight, bias) if biased else (states, weight)
    ours, torchs = linear(*leaves), functional.linear(*leaves)
    assert type(ours.grad_fn).__name__ == "_LinearBackward"  # not torch's own, compared with itself
    torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-4)
    for found, expected in zip(_gradients(ours, *leaves), _gradients(torchs, *leaves), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@needs_onednn
def test_gradients_are_those_of_finite_differences() -> None:
    states, weight = _drawn(64, 64), _drawn(128, 64)
    towards = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(linear(states, weight).square().sum(), weight)
    with torch.no_grad():
        above, below = (linear(states, weight + step * towards).double().square().sum() for step in (1e-2, -1e-2))
    assert float((gradient * towards).sum()) == pytest.approx(float(above - below) / 2e-2, rel=1e-3)


@needs_onednn
def test_what_it_returns_may_be_worked_on_in_place() -> None:
    states, weight = _drawn(8, 60, 64), _drawn(128, 64)
    found = torch.autograd.grad(linear(states, weight).relu_().sum(), weight)[0]
    expected = torch.autograd.grad(functional.linear(states, weight).relu().sum(), weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 400])  # below and above the size at which oneDNN is asked
def test_a_product_laid_out_once_is_the_product(rows: int) -> None:
    states, weight, sums = (each.detach() for each in (_drawn(rows, 64), _drawn(192, 64), _drawn(rows, 192)))
    product, expected = Product(weight), states @ weight.T
    torch.testing.assert_close(product(states), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product.relu(states), expected.relu(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product.add_to(sums.clone(), states), sums + expected, rtol=1e-5, atol=1e-4)


def test_other_precisions_autocast_and_sharded_parameters_are_torchs() -> None:
    states, weight = _drawn(400, 64), _drawn(192, 64)
    assert linear(states.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(states, weight).dtype == torch.bfloat16
    sharded = weight.detach().clone().requires_grad_()
    sharded.ds_id = 0  # type: ignore[attr-defined]
    assert type(linear(states, sharded).grad_fn).__name__ != "_LinearBackward"
    assert linear(states[:0], weight).shape == (0, 192)


def test_a_model_of_another_maker_is_hastened_in_place() -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    states = _drawn(400, 64).detach()
    before, names = model(states), set(model.state_dict())
    assert hasten(model) is model
    assert type(model[0]) is Linear
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(states), before, rtol=1e-5, atol=1e-5)
