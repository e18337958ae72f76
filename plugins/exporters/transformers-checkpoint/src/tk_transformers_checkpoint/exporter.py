"""Writes a merged model and proves the result: the keys of the base checkpoint (but for a head of its own), and the
logits of the trained model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tk.contracts import LoadedModel, ModelFamily
from tk.errors import TkError
from tk.files import explained

HEADS = frozenset({"lm_head", "score", "classifier", "pooler"})
"""Parts of checkpoints that another head has not, or has instead."""


DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
TOLERANCE = 1e-4
"""Largest difference of logits after loading, relative to the largest."""


class TransformersExporter:
    """Exporter `transformers`."""

    def export(self, model: LoadedModel, folder: Path, *, family: ModelFamily) -> Path:
        """Write beside `folder`, check, then move into place; a checkpoint that fails its check is deleted."""
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            with explained(folder, SafetensorError):
                family.save(model, partial)
            self._check_keys(model, partial)
            self._check_logits(model, partial, family)
            if folder.is_dir():
                folder.rmdir()
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def _check_keys(self, model: LoadedModel, folder: Path) -> None:
        computed = {
            name for name, _ in model.module.named_buffers()
        }  # older checkpoints hold position ids and the like
        base, written = _keys(Path(model.path)) - computed, _keys(folder) - computed
        if model.head.kind != "lm":
            prefix = f"{model.module.base_model_prefix}."
            base, written = (
                {key.removeprefix(prefix) for key in keys if not HEADS & set(key.split("."))}
                for keys in (base, written)
            )
        if base and base != written:
            lost, new = sorted(base - written)[:3], sorted(written - base)[:3]
            raise TkError(f"the export is not the base checkpoint's shape: keys lost: {lost}, keys added: {new}.")

    @torch.no_grad()
    def _check_logits(self, model: LoadedModel, folder: Path, family: ModelFamily) -> None:
        """On the CPU, where two computations of the same are the same in half precision too."""
        module = model.module.to("cpu")
        if "flash" in (module.config._attn_implementation or ""):  # which runs on no CPU
            module.set_attn_implementation("sdpa")
        again = family.load(
            str(folder),
            device="cpu",
            dtype=DTYPES[next(module.parameters()).dtype],
            head=model.head,
            attention=module.config._attn_implementation or "auto",
            trust_remote_code=type(module).__module__.startswith("transformers_modules"),
        )
        ids = torch.arange(1, 33).remainder(model.module.config.get_text_config().vocab_size)[None]
        ours, theirs = (m.module.eval()(ids)[0].float() for m in (model, again))  # hidden states where there is no head
        worst = (ours - theirs).abs().max() / ours.abs().max()
        if not worst <= TOLERANCE:
            raise TkError(f"the exported checkpoint computes other logits than the trained model (by {worst:.2e}).")


def _keys(folder: Path) -> set[str]:
    """Tensor names of a checkpoint folder; empty where it is not safetensors on this disk."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    single = folder / "model.safetensors"
    if not single.is_file():
        return set()
    with safe_open(single, "pt") as file:
        return set(file.keys())
