"""Run as each of two ranks by test_deepspeed_memory.py: prints the bytes that a process holds, and what is told of it.

Arguments: preset, precision.
"""

import gc
import json
import sys

import torch
from torch import nn

from tk_deepspeed.options import DeepspeedOptions
from tk_deepspeed.strategy import Deepspeed

FP32, STATES = 4, 2


class Config:
    hidden_size = 64

    def get_text_config(self) -> "Config":
        return self


class Model(nn.Module):
    """Its activations are small beside its weights."""

    config = Config()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(16))
        self.layers[0].requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x.to(layer.weight.dtype)))
        return x.float().sum()


def held() -> int:
    """Bytes of all tensors, a storage once."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        if issubclass(type(each), torch.Tensor) and each.device.type == "cpu":
            for tensor in (each, getattr(each, "ds_tensor", each)):
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


preset, precision = sys.argv[1:]
strategy = Deepspeed(DeepspeedOptions(preset=preset))  # type: ignore[arg-type]
world = strategy.start()
before = held()
model = Model()
share = strategy.share(model, world.size, precision)
numbers = sum(p.numel() for p in model.parameters())
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
module, optimizer = strategy.wrap(
    model, precision, lambda: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]), 1.0
)
most = 0
for step in range(2):
    with strategy.synchronise(module, last=True):
        loss = module(torch.ones(1, 512))
        most = max(most, held() * step)
        strategy.backward(loss)
    most = max(most, held() * step)
    strategy.step(module, optimizer)
updated = trained * (share.gradients + STATES * share.optimizer)
print(json.dumps({"held": most - before, "told": FP32 * (numbers * share.weights + updated) + share.gathered}))
strategy.stop()
