"""Adam for stacks of networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from aihf_control.models import kernel


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) by `kernel.c` or torch's fused kernel.

    The overhead of torch.optim is larger than the kernel's time on small networks. Adam works elementwise, so a lane
    that diverges does not affect the others.

    The moments of a dead unit decay to denormal numbers, on which arithmetic is many times slower. So denormal numbers
    are flushed to zero during the step, on this thread.

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
        """Do one step on a loss of shape (L,), for these parameters only."""
        self.step(torch.autograd.grad(loss, self.params, torch.ones_like(loss)))

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        laid_out = [g.contiguous() for g in grads]  # the kernel ignores strides
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
        """Move the slow parameters towards the parameters."""
        if self.slow:
            torch._foreach_lerp_(self.slow, self.params, self.rate)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict:
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict) -> None:
        mine, theirs = ([s["steps"], *s["first"], *s["second"]] for s in (self.state_dict(), state))
        for a, b in zip(mine, theirs, strict=True):
            a.copy_(b)
