"""SmolLM2's short names; everything else is as for any checkpoint."""

from __future__ import annotations

from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_smollm import wheel

HUB_IDS = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M",
    "smollm2-360m-instruct": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B",
    "smollm2-1.7b-instruct": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
}
IN_WHEEL = "smollm2-135m-instruct"


class SmolLMFamily(AutoFamily):
    """Checkpoints of SmolLM2: short names, folders and hub ids. Has no options.

    distribution: the wheel that has the 135M chat model.
    """

    def __init__(self, distribution: str = wheel.DISTRIBUTION) -> None:
        self.distribution = distribution

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Folder of a checkpoint; the one of the wheel is converted on first use (about 20 s, 540 MB).

        A revision asks for the hub. Raises TkError at once where neither wheel, cache nor hub has the checkpoint.
        """
        if name not in HUB_IDS:
            return super().resolve(name, revision)
        if name != IN_WHEEL:
            return super().resolve(HUB_IDS[name], revision)
        gguf = wheel.find(self.distribution) if revision is None else None
        if gguf is not None:
            return str(wheel.checkpoint(gguf))
        try:
            return super().resolve(HUB_IDS[name], revision)
        except UsageError:
            raise
        except TkError as error:
            raise TkError(
                f"{error} Or install the model as a wheel: pip install --no-deps {self.distribution}"
            ) from error
