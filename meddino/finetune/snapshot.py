"""The state of a training run, in types that `torch.load(weights_only=True)` accepts."""

import random
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel


def snapshot(trainer: Any) -> dict[str, Any]:
    """Everything that the next epoch depends on, including the random number generators.

    All processes of a team call it together, since it gathers the state of each.
    """
    scaler = trainer.grad_scaler
    return {
        "epoch": trainer.current_epoch,
        "network": unwrapped(trainer.network).state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "log": _plain(trainer.logger.get_checkpoint()),
        "history": trainer.history,
        "random": trainer.team.gather(random_state()),
    }


def restore(trainer: Any, state: dict[str, Any]) -> None:
    """Put a trainer that was set up alike into the state of `snapshot`."""
    trainer.current_epoch = state["epoch"]
    unwrapped(trainer.network).load_state_dict(state["network"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.grad_scaler is not None and state["scaler"] is not None:
        trainer.grad_scaler.load_state_dict(state["scaler"])
    trainer.logger.load_checkpoint(state["log"])
    trainer.history = state["history"]
    set_random_state(state["random"][trainer.team.rank])


def unwrapped(network: Any) -> torch.nn.Module:
    """The network inside the wrappers of DDP and `torch.compile`, if it has them."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    inner: torch.nn.Module = getattr(network, "_orig_mod", network)
    return inner


def random_state() -> dict[str, Any]:
    """States of the random number generators of Python, numpy and torch, on CPU and GPU."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states of `random_state`."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu())


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _plain(value: Any) -> Any:
    """Convert numpy numbers to Python's: `weights_only=True` loads no numpy scalars."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
