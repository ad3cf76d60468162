"""DINO's projection head."""

import torch.nn.functional as F
from torch import Tensor, nn


class DINOHead(nn.Module):
    """Three linear layers, L2 normalisation, and a bias-free layer of prototypes (DINOv3).

    DINOv3's public code has options for weight-normalised prototypes that do nothing; they are
    plain here as well.
    """

    def __init__(self, width: int, prototypes: int, hidden: int, bottleneck: int) -> None:
        """Build it for tokens of `width`."""
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = nn.Linear(bottleneck, prototypes, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, width) to logits over prototypes (N, prototypes)."""
        logits: Tensor = self.last_layer(self.bottleneck(x))
        return logits

    def bottleneck(self, x: Tensor) -> Tensor:
        """Map tokens (N, width) to directions (N, bottleneck), as compared with prototypes."""
        # In float32: the epsilon that guards the norm would vanish in half precision.
        x = F.normalize(self.mlp(x).float(), dim=-1, eps=1e-12)
        return x.to(self.last_layer.weight.dtype)
