"""Hooks for other trackers, against stand-ins for their modules."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tinsmith.engine import trackers
from tinsmith.errors import MissingExtraError

HOOKS = {"wandb": trackers.wandb_hook, "trackio": trackers.trackio_hook, "mlflow": trackers.mlflow_hook}
CONFIG = {"seed": 42, "optimizer": {"name": "adamw", "lr": 1e-3}}


class Recorder:
    """Keeps every call as (name, args, options)."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            return self

        return call

    def of(self, name) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def stand_in(monkeypatch):
    """Put a stand-in for a tracker's module in place, with the environment of a bare machine."""
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "TRACKIO_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def make(name: str, **members) -> None:
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.mark.parametrize("name", HOOKS)
def test_a_missing_tracker_says_what_to_install(stand_in, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=f"logger.{name}=true .* Run: pip install {name}"):
        HOOKS[name](tmp_path)


def test_wandb_is_offline_in_the_run_folder(stand_in, tmp_path):
    run = Recorder()
    stand_in("wandb", init=run.init)
    hook = trackers.wandb_hook(tmp_path / "codec" / "0007", CONFIG)
    hook({"loss": 0.5, "note": "text"}, 3, "train")
    hook.close()
    ((_, options),) = run.of("init")
    assert options["mode"] == "offline"
    assert options["dir"] == str(tmp_path / "codec" / "0007")
    assert (options["id"], options["resume"], options["config"]) == ("codec-0007", "allow", CONFIG)
    assert run.calls[1:] == [("log", ({"train/loss": 0.5},), {"step": 3}), ("finish", (), {})]


def test_wandb_follows_its_own_variable(stand_in, monkeypatch, tmp_path):
    run = Recorder()
    stand_in("wandb", init=run.init)
    monkeypatch.setenv("WANDB_MODE", "online")
    trackers.wandb_hook(tmp_path)
    assert run.of("init")[0][1]["mode"] == "online"


def test_trackio_keeps_its_file_in_the_run_folder(stand_in, tmp_path):
    module = Recorder()
    stand_in("trackio", init=module.init, log=module.log, finish=module.finish)
    hook = trackers.trackio_hook(tmp_path / "lm" / "0001", CONFIG)
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "lm" / "0001" / "trackio")
    hook({"loss": 0.5}, 3, "val")
    hook.close()
    assert module.of("init")[0][1]["name"] == "lm-0001"
    assert module.calls[1:] == [("log", ({"val/loss": 0.5},), {"step": 3}), ("finish", (), {})]


class MlflowClient(Recorder):
    """A store that knows the experiment and, once made, the run."""

    def __init__(self, tracking_uri) -> None:
        super().__init__()
        self.uri = tracking_uri
        self.runs: list = []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, experiments, query, max_results):
        return self.runs

    def create_run(self, experiment, run_name):
        self.runs.append(SimpleNamespace(info=SimpleNamespace(run_id=f"id of {run_name}")))
        return self.runs[0]


@pytest.fixture
def mlflow(stand_in):
    """MLflow with one client, as if every client saw the same store."""
    clients: list[MlflowClient] = []

    def client(tracking_uri):
        clients.append(clients[0] if clients else MlflowClient(tracking_uri))
        return clients[0]

    def metric(key, value, timestamp, step):
        return (key, value, step)

    stand_in("mlflow", MlflowClient=client, entities=SimpleNamespace(Metric=metric))
    return clients


def test_mlflow_writes_batches_to_sqlite(mlflow, tmp_path):
    hook = trackers.mlflow_hook(tmp_path / "graph" / "0002", CONFIG)
    (client,) = mlflow
    assert client.uri == f"sqlite:///{tmp_path}/graph/0002/mlflow.db"
    for step in range(150):  # 300 numbers: a batch of 200, and the rest on closing
        hook({"loss": float(step), "precision@5": 0.5}, step, "val")
    assert len(client.of("log_batch")) == 1
    hook.close()
    batches = [options["metrics"] for _, options in client.of("log_batch")]
    assert [len(batch) for batch in batches] == [200, 100]
    assert batches[1][-2:] == [("val/loss", 149.0, 149), ("val/precision_5", 0.5, 149)]
    assert client.of("set_terminated") == [(("id of graph-0002",), {})]
    logged = {args[1]: args[2] for args, _ in client.of("log_param")}
    assert logged == {"seed": 42, "optimizer.name": "adamw", "optimizer.lr": 1e-3}


def test_mlflow_goes_on_in_the_same_run_after_a_resume(mlflow, tmp_path):
    trackers.mlflow_hook(tmp_path / "graph" / "0002", CONFIG).close()
    trackers.mlflow_hook(tmp_path / "graph" / "0002", {"seed": 43}).close()
    client = mlflow[0]
    assert len(client.runs) == 1
    assert len(client.of("log_param")) == 3
