"""kernel.c against the same roundings in float64, for every instruction set.

Sets that the processor lacks are computed by the same source with their instructions in plain C.
"""

import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import layer_norm as normalised

from aihf_control.models import functional as fused
from aihf_control.models import kernel, kernel_library
from aihf_control.models.functional import perceptron
from aihf_control.models.optim import Adam

SIZES = [(14, 64, 96, 6), (3, *[32] * 7, 2), (3, 32, 1), (393, 64, 32, 96, 34), (11, 256, 256, 1), (5, 2)]


class Emulated(kernel_library.InstructionSet):
    """A set whose own instructions are replaced by AVX2."""

    def flags(self):
        tiles = ("-include", str(Path(__file__).with_name("emulated_tiles.h"))) if self.name == "amx" else ()
        return (*super().flags(), *tiles)

    def is_supported(self):
        return torch.cpu._is_avx2_supported()


EMULATED = [Emulated(s.name, s.products, s.vector, ("fma", "avx2")) for s in kernel_library.SETS if s.name != "avx2"]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """Return the library of a set, compiled once, in a cache of the tests' own."""
    made = {}

    def of(instructions):
        if instructions not in made:
            if not shutil.which("cc") or not instructions.is_supported():
                pytest.skip("no C compiler, or a processor without these instructions")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))
                made[instructions] = kernel_library.opened(instructions)
            if not isinstance(instructions, Emulated) and made[instructions].usable():
                pytest.skip("the system does not permit these instructions")
        return made[instructions]

    return of


@pytest.fixture(params=[*kernel_library.SETS, *EMULATED], ids=lambda s: s.name + " emulated" * isinstance(s, Emulated))
def products(request, libraries, monkeypatch) -> torch.dtype:
    """The type of products that the library of a set computes, which is put in place of what is chosen."""
    monkeypatch.setattr(kernel, "library", {request.param.products: libraries(request.param)}.get)
    return request.param.products


def stack(*sizes: int, n: int = 2):
    g = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, a, b, generator=g).div(a**0.5).requires_grad_(),
            torch.randn(n, 1, b, generator=g).requires_grad_(),
        )
        for a, b in itertools.pairwise(sizes)
    ]


def numbers(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaves(x, pairs):
    return [x, *(t for pair in pairs for t in pair)]


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.float().bfloat16().double()


class RoundedProduct(torch.autograd.Function):
    """a b with both factors rounded in the gradient, and `forward` saying whether in the value; in float64."""

    @staticmethod
    def forward(ctx, a, b, inner):
        ctx.save_for_backward(a, b)
        return rounded(a) @ rounded(b) if inner else a @ b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        grad = rounded(grad)
        return grad @ rounded(b).transpose(1, 2), rounded(a).transpose(1, 2) @ grad, None


def expected(x, pairs, products, norm: bool, tanh: bool = False):
    """Compute the expected results of kernel.c.

    All sums are exact; of bfloat16 the outer layers' values, and other factors rounded.
    """
    h = x.double()
    for i, (w, b) in enumerate(pairs):
        if products == torch.bfloat16:
            h = RoundedProduct.apply(h, w.double(), 0 < i < len(pairs) - 1) + b.double()
        else:
            h = h @ w.double() + b.double()
        if i < len(pairs) - 1:
            h = (normalised(h, h.shape[-1:]) if norm else h).relu() if not tanh else h.tanh()
    return h


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far a is from b, as a share of b's size."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("batch", [256, 50, 1])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_are_those_of_its_roundings(products, sizes, batch, norm):
    pairs, x, grad = stack(*sizes), numbers(2, batch, sizes[0]).requires_grad_(), numbers(2, batch, sizes[-1], seed=3)
    assert kernel.takes(x, leaves(x, pairs)[1:], products)
    out, true = perceptron(x, pairs, products, norm), expected(x, pairs, products, norm)
    assert off(out, true) < (3e-4 if products == torch.bfloat16 else 1e-6)
    mine, theirs = (torch.autograd.grad(f, leaves(x, pairs), grad.to(f.dtype)) for f in (out, true))
    # a factor at the border of two roundings, or a unit at that of its relu, may fall to the other side
    assert max(map(off, mine, theirs)) < 1e-2
    assert all(m.shape == p.shape and m.dtype == p.dtype for m, p in zip(mine, leaves(x, pairs), strict=True))


@pytest.mark.parametrize("batch", [3200, 50, 1])
@pytest.mark.parametrize("sizes", [(5, 64, 32, 1), (17, 32, 3)])
def test_tanh_networks_are_those_of_their_roundings(products, sizes, batch):
    pairs, x, grad = stack(*sizes), numbers(2, batch, sizes[0]).requires_grad_(), numbers(2, batch, sizes[-1], seed=3)
    out = kernel.perceptron(x, leaves(x, pairs)[1:], products, tanh=True)
    true = expected(x, pairs, products, norm=False, tanh=True)
    assert off(out, true) < (3e-4 if products == torch.bfloat16 else 1e-6)
    mine, theirs = (torch.autograd.grad(f, leaves(x, pairs), grad.to(f.dtype)) for f in (out, true))
    assert max(map(off, mine, theirs)) < (1e-2 if products == torch.bfloat16 else 2e-6)


def test_tanh_saturates_without_overflow_and_keeps_nan(products):
    identity = [(torch.eye(32)[None], torch.zeros(1, 1, 32)), (torch.eye(32)[None], torch.zeros(1, 1, 32))]
    x = torch.tensor([0.0, 1e-3, -1e-3, 0.5, -3.0, 30.0, -200.0, math.inf, -math.inf, *[0.0] * 23]).view(1, 1, 32)
    params = leaves(None, identity)[1:]
    torch.testing.assert_close(
        kernel.perceptron(x.clamp(-300, 300), params, products, tanh=True),
        x.tanh(),
        rtol=1e-2 if products == torch.bfloat16 else 0,
        atol=2e-7,
    )
    assert kernel.perceptron(torch.full((1, 1, 32), math.nan), params, products, tanh=True).isnan().all()


def test_without_a_gradient_the_values_are_the_same(products):
    x, pairs = numbers(2, 50, 14), stack(14, 64, 96, 6)
    with torch.no_grad():
        alone = perceptron(x, pairs, products, True)
    assert torch.equal(alone, perceptron(x, pairs, products, True)) and not alone.requires_grad


def test_the_outer_layers_keep_at_least_sixteen_digits(products):
    x, pairs = numbers(2, 64, 5), stack(5, 3)
    assert off(perceptron(x, pairs, products), expected(x, pairs, products, norm=False)) < 2e-5


def test_a_network_gives_the_same_bits_without_the_others(products):
    pairs, x = stack(14, 64, 64, 2, n=3), numbers(3, 40, 14)
    alone = [(w[1:2].detach().requires_grad_(), b[1:2].detach().requires_grad_()) for w, b in pairs]
    beside, by_itself = perceptron(x, pairs, products, True), perceptron(x[1:2], alone, products, True)
    assert torch.equal(beside[1:2], by_itself)
    grads = torch.autograd.grad(beside.square().sum(), leaves(x, pairs)[1:])
    for g, only in zip(grads, torch.autograd.grad(by_itself.square().sum(), leaves(x, alone)[1:]), strict=True):
        assert torch.equal(g[1:2], only)


@pytest.mark.parametrize("norm", [False, True])
def test_a_diverging_network_is_reported_and_leaves_the_others_unchanged(products, norm):
    pairs, x = stack(4, 32, 32, 2), numbers(2, 40, 4)
    with torch.no_grad():
        pairs[0][1][0, 0, 5] = torch.nan  # a bias: the relu has to let it through, forward and back
    out = perceptron(x, pairs, products, norm)
    assert out[0].isnan().all() and out[1].isfinite().all()
    grads = torch.autograd.grad(out.square().sum(), leaves(x, pairs)[1:])
    assert all(g[0].isnan().any() and g[1].isfinite().all() for g in grads)
    assert grads[1][0, 0, 5].isnan()


def test_a_frozen_network_passes_the_gradient_on_and_a_fixed_input_stops_it(products):
    x, pairs = numbers(2, 40, 4).requires_grad_(), stack(4, 32, 2)
    out = perceptron(x, pairs, products).sum()
    to_input, *to_weights = torch.autograd.grad(out, leaves(x, pairs))
    frozen = [(w.detach(), b.detach()) for w, b in pairs]
    assert torch.equal(torch.autograd.grad(perceptron(x, frozen, products).sum(), x)[0], to_input)
    only = torch.autograd.grad(perceptron(x.detach(), pairs, products).sum(), leaves(x, pairs)[1:])
    assert all(map(torch.equal, only, to_weights))


def test_what_it_was_given_is_not_written_on_and_may_lie_anyhow(products):
    pairs, x = stack(4, 32, 32, 2), numbers(4, 40, 2).permute(2, 1, 0)
    before = [t.detach().clone() for t in leaves(x, pairs)]
    out = perceptron(x, pairs, products)
    out.backward(torch.ones(()).expand_as(out))
    assert all(map(torch.equal, before, (t.detach() for t in leaves(x, pairs))))
    assert torch.equal(out, perceptron(x.contiguous(), pairs, products))


def test_small_and_large_calls_beside_torchs_own_products_give_the_same_bits_again(products):
    small, large = (numbers(2, 7, 3), stack(3, 32, 1)), (numbers(2, 3000, 20), stack(20, 128, 128, 4))
    first = [perceptron(x, pairs, products) for x, pairs in (small, large)]
    a = numbers(3, 64, 64)
    torchs = fused.product(a, a, products == torch.bfloat16)
    for _ in range(3):
        for (x, pairs), was in zip((small, large), first, strict=True):
            assert torch.equal(perceptron(x, pairs, products), was)
            assert torch.equal(fused.product(a, a, products == torch.bfloat16), torchs)


@pytest.mark.parametrize("norm", [False, True])
def test_networks_that_share_an_input_are_those_that_are_given_a_copy_each(products, norm):
    pairs, x, grad = stack(5, 64, 32, 3, n=4), numbers(2, 50, 5).requires_grad_(), numbers(4, 50, 3, seed=3)
    copies = x.detach().repeat_interleave(2, 0).requires_grad_()
    mine, theirs = perceptron(x, pairs, products, norm), perceptron(copies, pairs, products, norm)
    assert torch.equal(mine, theirs)
    dx, *mine = torch.autograd.grad(mine, leaves(x, pairs), grad)
    both, *theirs = torch.autograd.grad(theirs, leaves(copies, pairs), grad)
    assert all(map(torch.equal, mine, theirs))
    torch.testing.assert_close(dx, both.view(2, 2, 50, 5).sum(1))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("batch", [256, 50])
def test_a_regression_is_that_of_autograd(products, batch, norm):
    pairs, x, target = stack(5, 64, 32, 1, n=4), numbers(2, batch, 5), numbers(2, batch, seed=3)
    assert kernel.takes(x, leaves(x, pairs)[1:], products)
    out, loss, grads = fused.regress(x, pairs, target, products, norm)
    plain = perceptron(x, pairs, products, norm).squeeze(-1)
    its_loss = 0.5 * (plain - target.repeat_interleave(2, 0)).square().mean(-1)
    its_grads = torch.autograd.grad(its_loss.sum(), leaves(x, pairs)[1:])
    assert torch.equal(out, plain)
    torch.testing.assert_close(loss, its_loss)
    assert max(map(off, grads, its_grads)) < (1e-2 if products == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("batch", [256, 50, 1])
def test_the_least_output_and_its_gradient_are_those_of_autograd(products, batch, norm):
    pairs = [(w.detach(), b.detach()) for w, b in stack(5, 64, 32, 1, n=4)]
    x, grad = numbers(2, batch, 5).requires_grad_(), numbers(2, batch, seed=3)
    value = fused.least(x, pairs, products, norm)
    plain = perceptron(x, pairs, products, norm).view(2, 2, batch).amin(1)
    assert torch.equal(value, plain)
    mine, theirs = (torch.autograd.grad(f, x, grad)[0] for f in (value, plain))
    assert off(mine, theirs) < (1e-2 if products == torch.bfloat16 else 1e-5)


def test_in_regression_and_minimum_a_diverging_network_is_reported_and_leaves_the_others_unchanged(products):
    pairs, x, target = stack(5, 64, 1, n=4), numbers(2, 50, 5), numbers(2, 50, seed=3)
    before = fused.regress(x, pairs, target, products)
    with torch.no_grad():
        pairs[0][1][1, 0, 5] = torch.nan
    out, loss, grads = fused.regress(x, pairs, target, products)
    others = torch.tensor([0, 2, 3])
    assert out[1].isnan().all() and loss[1].isnan() and all(g[1].isnan().any() for g in grads)
    assert all(
        map(torch.equal, [t[others] for t in (out, loss, *grads)], [t[others] for t in (*before[:2], *before[2])])
    )
    fixed = [(w.detach(), b.detach()) for w, b in pairs]
    value = fused.least(x.requires_grad_(), fixed, products)
    assert value[0].isnan().all() and value[1].isfinite().all()
    assert torch.autograd.grad(value[1].sum(), x)[0][1].isfinite().all()


def test_a_squashed_sample_and_its_gradient_are_torchs(products):
    out, noise = numbers(2, 300, 6) * 4, numbers(2, 300, 3, seed=3)
    out[0, 0, 3:], out[0, 1] = torch.tensor([-30.0, -20.0, 2.5]), torch.tensor([200.0, -200.0, 0.0, 1.0, 2.0, -8.0])
    weights = [numbers(2, 300, 3, seed=4), numbers(2, 300, seed=5), numbers(2, 300, 3, seed=6)]
    values, grads = [], []
    for dtype in (torch.float32, torch.float64):
        x = out.to(dtype).requires_grad_()
        made = fused.squashed_sample(x, noise.to(dtype), (-20.0, 2.0))
        values.append(made)
        used = [sum((t * w.to(dtype)).sum() for t, w in zip(made[:n], weights, strict=False)) for n in (1, 2, 3)]
        grads.append([torch.autograd.grad(f, x, retain_graph=True)[0] for f in used])
    for mine, theirs in zip((*values[0], *grads[0]), (*values[1], *grads[1]), strict=True):
        torch.testing.assert_close(mine, theirs.float(), rtol=2e-5, atol=2e-6)
    out = out.clone()
    out[1, 5, 1] = out[1, 6, 4] = torch.nan
    act, log_prob, u = fused.squashed_sample(out, noise, (-20.0, 2.0))
    assert all(
        t.isnan().sum() == 2 and t[1, 5:7].isnan().flatten(1).any(1).all() for t in (act, log_prob[..., None], u)
    )


def test_adam_and_what_follows_it_are_torchs(products, monkeypatch):
    def run(n: int) -> list[torch.Tensor]:
        params, slow = [numbers(3, 5), numbers(2, 7, 9)], [torch.zeros(3, 5), torch.zeros(2, 7, 9)]
        adam = Adam(params, 0.1, slow=slow, rate=0.2)
        for k in range(n):
            adam.step([numbers(5, 3, seed=k).T, numbers(2, 7, 9, seed=k)])  # one lies transposed in memory
        adam.follow()
        return [*params, *slow, *adam.first, *adam.second, adam.steps]

    mine = run(5)
    monkeypatch.setattr(kernel, "library", lambda products: None)
    torch.testing.assert_close(mine, run(5), rtol=1e-5, atol=1e-6)


def test_it_takes_only_what_it_can(products):
    def asked(x, pairs):
        return kernel.takes(x, leaves(x, pairs)[1:], products)

    good = numbers(2, 8, 4)
    assert asked(good, stack(4, 32, 2))
    assert not asked(good.double(), [(w.double(), b.double()) for w, b in stack(4, 32, 2)])
    assert not asked(good, stack(4, 20, 2))  # not in whole blocks
    assert not asked(good, stack(4, *[32] * 8, 2))  # deeper than it goes
    assert not asked(numbers(2, 0, 4), stack(4, 32, 2)) and not asked(numbers(2, 8, 0), stack(0, 32, 2))
    assert not asked(numbers(2, 8, 5), stack(4, 32, 2)) and not asked(numbers(3, 8, 4), stack(4, 32, 2))
    assert not asked(numbers(8, 4), stack(4, 32, 2))
    (w, b), last = stack(4, 32, 2)
    assert not asked(good, [(w, b[:1]), last])  # torch spreads it over both
    assert not asked(good.to("meta"), [(w.to("meta"), b.to("meta")) for w, b in stack(4, 32, 2)])


def test_without_a_kernel_torch_multiplies(monkeypatch):
    monkeypatch.setattr(kernel, "library", lambda products: None)
    good = numbers(2, 8, 4)
    assert not kernel.takes(good, leaves(good, stack(4, 32, 2))[1:], torch.float32)
