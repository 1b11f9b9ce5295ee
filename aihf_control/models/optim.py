"""Optimises stacks of networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from aihf_control.models import kernel


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) on torch's fused kernel, without what torch.optim does around it, which
    takes longer than the kernel on small networks. It works elementwise, so a lane that diverges stays alone.

    The moments of a unit that is dead decay towards zero, end at the least number above it, and stay there. Arithmetic
    on such numbers is many times as slow, so the step takes them as zero (on this thread; those that train are alone).

    After each step the parameters `slow` follow these at `rate`: slow += rate (param - slow).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        slow: Iterable[Tensor] = (),
        rate: float = 0.0,
    ):
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.slow, self.rate = list(slow), rate
        self.steps = torch.zeros((), device=self.params[0].device)
        self.first, self.second = ([torch.zeros_like(p) for p in self.params] for _ in range(2))

    def descend(self, loss: Tensor) -> None:
        """One step down a loss of shape (L,), for these parameters and no others."""
        self.step(torch.autograd.grad(loss, self.params, torch.ones_like(loss)))

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        laid_out = [g.contiguous() for g in grads]  # the kernel reads memory as it lies
        how = (self.lr, *self.betas, self.eps, self.rate)
        if kernel.adam(self.params, laid_out, (self.first, self.second, self.steps), self.slow, how):
            return
        self.steps += 1
        torch.set_flush_denormal(True)
        try:
            torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
                self.params, laid_out, self.first, self.second, [], [self.steps] * len(self.params),
                lr=self.lr, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps,
                weight_decay=0.0, amsgrad=False, maximize=False,
            )  # fmt: skip
        finally:
            torch.set_flush_denormal(False)
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Let the slow parameters follow."""
        if self.slow:
            torch._foreach_lerp_(self.slow, self.params, self.rate)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict:
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict) -> None:
        mine, theirs = ([s["steps"], *s["first"], *s["second"]] for s in (self.state_dict(), state))
        for a, b in zip(mine, theirs, strict=True):
            a.copy_(b)
