"""What concrete components are: the protocols behind every kind, and the data that passes between them.

The way of the data in a training run:

    Dataset -> Row -> (format) Sample -> Method.encode (Template) -> Example -> Method.collate -> Batch
    -> Source: windows of batches, one window an optimizer step, the same number of batches on every rank
    -> Method.passes -> forward of the scored model -> Method.loss -> Step (named terms) -> backward, update

Shapes: B rows of a micro-batch as the model sees them, T tokens of the longest, N positions selected for the head,
R samples (R = B without packing). Nothing here imports torch at run time.
"""

from __future__ import annotations

from tk.config.sections import Sampling
from tk.contracts.data import (
    AnswerReader,
    Batch,
    Dataset,
    Encoding,
    Example,
    Format,
    Layout,
    Limit,
    Row,
    RowSet,
    Template,
)
from tk.contracts.dialects import Dialect
from tk.contracts.generation import (
    Asked,
    Completion,
    Delta,
    Engine,
    FinishReason,
    Moment,
    PromptLogps,
    Request,
    Reward,
    Scored,
    Top,
)
from tk.contracts.media import MediaProcessor, Medium
from tk.contracts.methods import (
    Figures,
    Loss,
    Method,
    Pass,
    Reduce,
    Role,
    Rows,
    Session,
    Settings,
    Source,
    Stat,
    Step,
    Term,
    Window,
)
from tk.contracts.models import (
    LM_HEAD,
    Adapters,
    Exporter,
    Head,
    Hub,
    LoadedModel,
    ModelFamily,
    ParamGroup,
    Pooling,
    Tuner,
)
from tk.contracts.runs import (
    Callback,
    Checkpoint,
    Control,
    Launcher,
    Memory,
    Metric,
    OptimizerFactory,
    Schedule,
    Share,
    Strategy,
    Tracker,
    Trainer,
    TrainPlan,
    TrainResult,
)
from tk.contracts.serving import Server, Serving
from tk.contracts.world import World

__all__ = [
    "LM_HEAD",
    "Adapters",
    "AnswerReader",
    "Asked",
    "Batch",
    "Callback",
    "Checkpoint",
    "Completion",
    "Control",
    "Dataset",
    "Delta",
    "Dialect",
    "Encoding",
    "Engine",
    "FinishReason",
    "Example",
    "Exporter",
    "Figures",
    "Format",
    "Head",
    "Hub",
    "Launcher",
    "Layout",
    "Limit",
    "LoadedModel",
    "Loss",
    "MediaProcessor",
    "Medium",
    "Memory",
    "Method",
    "Metric",
    "ModelFamily",
    "Moment",
    "OptimizerFactory",
    "ParamGroup",
    "Pass",
    "Pooling",
    "PromptLogps",
    "Reduce",
    "Request",
    "Reward",
    "Role",
    "Row",
    "RowSet",
    "Rows",
    "Schedule",
    "Sampling",
    "Scored",
    "Server",
    "Serving",
    "Session",
    "Settings",
    "Share",
    "Source",
    "Stat",
    "Step",
    "Strategy",
    "Template",
    "Term",
    "Top",
    "Tracker",
    "TrainPlan",
    "TrainResult",
    "Trainer",
    "Tuner",
    "Window",
    "World",
]
