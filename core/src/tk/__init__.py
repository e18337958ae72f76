"""tk: a plugin framework for fine-tuning, aligning, evaluating, exporting and serving models.

Plugin authors import specs and `hookimpl` from here; users call `train`, `infer` and `export`. Importing it is light:
what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tk.api import chat as chat
    from tk.api import embed as embed
    from tk.api import engine as engine
    from tk.api import export as export
    from tk.api import infer as infer
    from tk.api import load_config as load_config
    from tk.api import plan as plan
    from tk.api import score as score
    from tk.api import serve as serve
    from tk.api import train as train

_HOMES = {
    "tk.api": ("train", "infer", "score", "embed", "export", "chat", "serve", "engine", "plan", "load_config"),
    "tk.errors": ("TkError", "UsageError", "ConfigError", "DataError"),
    "tk.hookspecs": ("hookimpl",),
    "tk.local": ("component",),
    "tk.config.options": ("doc",),
    "tk.sample": ("Sample", "Message", "Part", "ToolCall"),
    "tk.specs": (
        "TK_API",
        "CallbackSpec",
        "CommandSpec",
        "DatasetSpec",
        "DialectSpec",
        "EngineSpec",
        "EvaluatorSpec",
        "ExporterSpec",
        "FormatSpec",
        "HubSpec",
        "KindSpec",
        "LauncherSpec",
        "LossSpec",
        "Matches",
        "MethodSpec",
        "MetricSpec",
        "ModelSpec",
        "OptimizerSpec",
        "RewardSpec",
        "SchedulerSpec",
        "ServerSpec",
        "Spec",
        "StrategySpec",
        "TemplateSpec",
        "TrackerSpec",
        "TrainerSpec",
        "TunerSpec",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'tk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
