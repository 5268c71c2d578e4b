"""tinsmith: train small models on one machine, never lose a run, and use what you trained."""

from tinsmith._lazy import lazy_names
from tinsmith._registering import watch as _watch
from tinsmith._version import __version__ as __version__

_ENGINE = "tinsmith.engine."
_NAMES = {
    "Trainer": "trainer",
    "train_model": "train_model",
    "Context": "contract",
    "Data": "contract",
    "Family": "contract",
    "Predictor": "contract",
    "StepOutput": "contract",
    "Task": "contract",
    "SupervisedTask": "supervised",
    "Loader": "data",
    "get_optimizer": "optim",
    "clip_grad_norm": "optim",
    "Muon": "muon",
    "get_scheduler": "schedules",
    "Schedule": "schedules",
    "get_loss_fn": "losses",
    "CrossEntropyLoss": "losses",
    "MeanSquaredError": "losses",
    "LabelSmoothing": "losses",
    "get_metrics": "metrics",
    "EarlyStopping": "stopping",
    "CurriculumStage": "curriculum",
    "CurriculumScheduler": "curriculum",
    "Guard": "guard",
    "ResourceMonitor": "resources",
    "GradientAccumulator": "accumulate",
    "EMA": "ema",
    "set_seed": "seed",
    "ReproducibilityContext": "seed",
    "get_device": "device",
    "log_model_info": "device",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: _ENGINE + module for name, module in _NAMES.items()}
)

_watch()
