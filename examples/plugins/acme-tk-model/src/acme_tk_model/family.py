"""The family `acme`: everything as for any checkpoint of transformers, once it knows the architecture."""

from __future__ import annotations

from typing import Any

from tk.contracts import LoadedModel
from tk_auto.family import AutoFamily


class AcmeFamily(AutoFamily):
    """Checkpoints of the architecture `acme`. Has no options."""

    def load(self, path: str, **settings: Any) -> LoadedModel:
        """As in the contract (tk.contracts.ModelFamily)."""
        from acme_tk_model.architecture import register

        register()
        return super().load(path, **settings)
