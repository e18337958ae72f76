"""A LLaVA without weights and with little text in it, which is asked what the model makes of pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from transformers import AutoModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from tk.contracts import Medium
from tk_auto.quiet import quiet

SETTINGS = ("vision_feature_select_strategy", "vision_aspect_ratio")
"""Fields of the config that the model's packing of features may ask for."""


class Outline:
    """tile: features of one tile. unread: ends of the names of parameters that no feature depends on, which are those of
    the vision tower's layers behind the one that is read."""

    def __init__(self, config: Any) -> None:
        self.config = copy.deepcopy(config)
        self.config.text_config.num_hidden_layers = 1
        self.pinpoints = getattr(config, "image_grid_pinpoints", None)
        with torch.device("meta"), quiet():
            self.module = AutoModel.from_config(self.config, dtype=torch.float32, attn_implementation="eager")
        with torch.inference_mode(False), torch.enable_grad():
            made = self._square()
            sum(features.sum() for features in made.pooler_output).backward()
        self.tile = made.last_hidden_state.shape[1] - int(config.vision_feature_select_strategy == "default")
        parts = {name: p for name, p in self.module.named_parameters() if not name.startswith("language_model.")}
        self.unread = tuple(name for name, p in parts.items() if p.grad is None)

    def count(self, *, in_company: bool) -> Callable[[Medium], int]:
        """Tokens of a picture. in_company: those with others in their sample are one tile and are not cut into more."""
        if self.pinpoints is None:
            return lambda medium: self.tile
        pack = self.module.pack_image_features
        settings = {name: getattr(self.config, name) for name in SETTINGS if name in signature(pack).parameters}

        def count(medium: Medium) -> int:
            height, width = medium.size[-2:]
            tiles = 1 if in_company and medium.among > 1 else self._tiles(height, width)
            features = torch.empty(tiles, self.tile, 1)
            packed, _ = pack([features], [(height, width)], image_newline=torch.empty(1), **settings)
            return len(packed[0])

        return count

    def _square(self) -> Any:
        """What the model makes of a square picture of a tile's size."""
        side = self.config.vision_config.image_size
        pixels = torch.empty(1, 3, side, side, device="meta")
        if self.pinpoints is None:
            return self.module.get_image_features(pixel_values=pixels)
        tiles = pixels.expand(self._tiles(side, side), 3, side, side)[None]
        return self.module.get_image_features(pixel_values=tiles, image_sizes=torch.tensor([[side, side]]))

    def _tiles(self, height: int, width: int) -> int:
        tiles: int = image_size_to_num_patches([height, width], self.pinpoints, self.config.vision_config.image_size)
        return tiles
