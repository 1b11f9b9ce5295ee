"""The fast operations against their plain forms: values, gradients, rounding, and Adam against torch's."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from aihf_control.models.functional import (
    log_slope,
    perceptron,
    plain_tanh_perceptron,
    squashed_sample,
    tanh_perceptron,
)
from aihf_control.models.optim import Adam


def layers(*sizes: int, n: int = 3, dtype=torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype).div(math.sqrt(shape[-2])).requires_grad_()

    return [(tensor(n, a, b), tensor(n, 1, b)) for a, b in itertools.pairwise(sizes)]


def replace_nonfinite(x, pairs, layer_norm):
    *hidden, (weight, bias) = pairs
    for w, b in hidden:
        x = x @ w + b
        x = (F.layer_norm(x, x.shape[-1:]) if layer_norm else x).relu()
    return x @ weight + bias


def inputs(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=dtype).requires_grad_()


def test_a_tanh_perceptron_is_the_plain_one_which_can_be_differentiated_twice():
    x, pairs = inputs(3, 5, 4), layers(4, 8, 6, 1)
    (w0, b0), (w1, b1), (w2, b2) = pairs
    by_hand = ((x @ w0 + b0).tanh() @ w1 + b1).tanh() @ w2 + b2
    torch.testing.assert_close(tanh_perceptron(x, pairs), by_hand)
    slopes = [torch.autograd.grad(f.sum(), x, create_graph=True)[0] for f in (plain_tanh_perceptron(x, pairs), by_hand)]
    second = [torch.autograd.grad(slope.square().sum(), w0)[0] for slope in slopes]
    torch.testing.assert_close(*second)
    assert second[0].abs().sum() > 0


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("sizes", [(4, 8, 6, 2), (4, 8, 20), (4, 3)])
def test_a_perceptron_and_its_gradient_are_the_plain_ones(sizes, layer_norm):
    x, pairs = inputs(3, 5, 4), layers(*sizes)
    torch.testing.assert_close(perceptron(x, pairs, torch.float32, layer_norm), replace_nonfinite(x, pairs, layer_norm))
    leaves = [x, *(t for pair in pairs for t in pair)]
    weight = torch.randn(3, 5, sizes[-1], dtype=torch.float64)
    grads = [
        torch.autograd.grad((f * weight).sum(), leaves)
        for f in (perceptron(x, pairs, torch.float32, layer_norm), replace_nonfinite(x, pairs, layer_norm))
    ]
    torch.testing.assert_close(*grads)


def test_a_frozen_perceptron_passes_the_gradient_on():
    x, pairs = inputs(3, 5, 4), [(w.detach(), b.detach()) for w, b in layers(4, 8, 2)]
    grads = [
        torch.autograd.grad(f.sum(), x)[0]
        for f in (perceptron(x, pairs, torch.float32), replace_nonfinite(x, pairs, layer_norm=False))
    ]
    torch.testing.assert_close(*grads)


def test_what_it_was_given_is_not_written_on():
    x, pairs, grad = inputs(3, 5, 4), layers(4, 8, 6, 2), torch.ones(3, 5, 2, dtype=torch.float64)
    before = [t.detach().clone() for t in (x, grad, *(t for pair in pairs for t in pair))]
    perceptron(x, pairs, torch.float32).backward(grad)
    after = [t.detach() for t in (x, grad, *(t for pair in pairs for t in pair))]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_rounded_products_stay_near_and_leave_the_setting_as_it_was():
    x = inputs(2, 64, 8, dtype=torch.float32)
    pairs = layers(8, 64, 64, 3, n=2, dtype=torch.float32)
    exact, rounded = (perceptron(x, pairs, products) for products in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
    if torch.cpu._is_amx_tile_supported():
        assert not torch.equal(rounded, exact)
    assert torch.get_float32_matmul_precision() == "highest" and rounded.dtype == torch.float32


def test_a_squashed_sample_is_the_plain_one():
    mean, log_std, noise = (
        inputs(2, 5, 3),
        inputs(2, 5, 3).detach().mul(0.3).requires_grad_(),
        torch.randn(2, 5, 3).double(),
    )
    bounds = (-20.0, 2.0)
    act, log_prob, u = squashed_sample(torch.cat([mean, log_std], -1), noise, bounds)
    normal = torch.distributions.Normal(mean, log_std.exp())
    torch.testing.assert_close(u, mean + log_std.exp() * noise)
    torch.testing.assert_close(act, u.tanh())
    torch.testing.assert_close(log_prob, (normal.log_prob(u) - torch.log(1 - act.square())).sum(-1))
    assert gradcheck(lambda m, s: squashed_sample(torch.cat([m, s], -1), noise, bounds), (mean, log_std))


def test_the_slope_is_finite_where_the_plain_one_underflows():
    assert torch.isfinite(log_slope(torch.tensor([-40.0, 0.0, 40.0]))).all()


def test_adam_is_torchs():
    g = torch.Generator().manual_seed(0)
    mine, theirs = ([torch.ones(2, 3, requires_grad=True), torch.zeros(4, requires_grad=True)] for _ in range(2))
    ours, torchs = Adam(mine, 0.1), torch.optim.Adam(theirs, 0.1)
    for _ in range(5):
        grads = [torch.randn(3, 2, generator=g).T, torch.randn(4, generator=g)]  # one lies transposed in memory
        for p, grad in zip(theirs, grads, strict=True):
            p.grad = grad.contiguous()
        torchs.step()
        ours.step(grads)
    torch.testing.assert_close(mine, theirs)


def test_adam_resumes_exactly():
    one, other = ([torch.ones(3, requires_grad=True)] for _ in range(2))
    a, b = Adam(one, 0.1), Adam(other, 0.1)
    a.step([torch.tensor([1.0, 2.0, -1.0])])
    with torch.no_grad():
        other[0].copy_(one[0])
    b.load_state_dict(a.state_dict())
    for opt in (a, b):
        opt.step([torch.tensor([0.5, -2.0, 1.0])])
    assert torch.equal(one[0], other[0])


def test_adam_takes_the_moments_of_dead_units_as_zero_and_nothing_else():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such mode")
    p = torch.ones(2, requires_grad=True)
    adam = Adam([p], 0.1)
    adam.first[0].copy_(torch.tensor([1e-40, 1.0]))
    adam.step([torch.zeros(2)])
    assert adam.first[0].tolist() == [0.0, pytest.approx(0.9)]
    assert torch.tensor(1e-40).mul(0.5).item() > 0  # elsewhere they are numbers still
