"""AdamW, and Muon for matrices with AdamW for the rest."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from speculators.model import SpeculatorModel
from speculators.settings.training import AdamW, Muon
from speculators.train.sharding import part, whole

# Newton-Schulz coefficients of Jordan et al. 2024: steep at 0, so that small singular values rise in five iterations.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(update: Tensor) -> Tensor:
    """The nearest matrix with singular values near one, by five Newton-Schulz iterations.

    Args:
        update: [R, C] matrix. Iterated in bfloat16 on accelerators and in float32 on a CPU, where bfloat16 without
            its own units was measured ten times slower; that is also why this is not torch.optim.Muon.
    """
    a, b, c = COEFFICIENTS
    x = update if update.device.type == "cpu" else update.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = (x.mT if tall else x) / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x.mT if tall else x).to(update.dtype)


class OrthogonalMomentum(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): Nesterov momentum, orthogonalised; for matrices only.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate; a tall matrix takes sqrt(rows / columns) times it.
        momentum: share of the velocity that stays, in [0, 1).
        weight_decay: decoupled, per unit of learning rate.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                velocity = self.state[p]["velocity"]
                velocity.mul_(group["momentum"]).add_(p.grad)
                # Whole also where parameters are sharded: one gather, instead of several in each iteration.
                update = part(orthogonalise(whole(p.grad.add(velocity, alpha=group["momentum"]))), p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def build(model: SpeculatorModel, settings: AdamW | Muon) -> list[torch.optim.Optimizer]:
    """The optimizers of all trainable parameters; each group carries `peak_lr` for the schedule.

    Args:
        model: the draft, on its device.
        settings: AdamW decays matrices only. Muon takes the weights of linear layers except the vocabulary heads; its
            AdamW takes embeddings, vocabulary heads and vectors.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if isinstance(settings, AdamW):
        matrices = [p for p in trainable if p.ndim >= 2]
        vectors = [p for p in trainable if p.ndim < 2]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        made: list[torch.optim.Optimizer] = [
            adamw(groups, settings.lr, settings.betas, settings.eps, settings.weight_decay)
        ]
    else:
        heads = {id(head) for head in model.heads}
        linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - heads
        hidden = [p for p in trainable if id(p) in linear]
        rest = [p for p in trainable if id(p) not in linear]
        made = [OrthogonalMomentum(hidden, settings.lr, settings.momentum, settings.weight_decay)] if hidden else []
        # Short second-moment memory: next to Muon this AdamW sees noisy, sparse gradients (embeddings, head).
        made += [adamw([{"params": rest}], settings.adamw_lr, (0.9, 0.95), 1e-8, 0.0)] if rest else []
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return made


def adamw(groups: list, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the groups that have parameters, fused where torch has the kernel."""
    groups = [g for g in groups if g["params"]]
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda", "xpu", "mps")
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
