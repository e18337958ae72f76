"""What speaks to MLflow, in a process that has it."""

import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

STATES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
PARAMS, LENGTH = 100, 6000
"""What MLflow takes: parameters at once, and characters of a value."""


class Sink:
    def start(self, settings):
        self._client = MlflowClient(settings["uri"] or None)
        if settings["id"]:
            self._id = settings["id"]
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._begin(settings)
        return {"id": self._id, "url": ""}

    def _begin(self, settings):
        found = self._client.get_experiment_by_name(settings["project"])
        experiment = found.experiment_id if found else self._client.create_experiment(settings["project"])
        run = self._client.create_run(experiment, run_name=settings["name"]).info.run_id
        tags = {"output": settings["output"], **dict.fromkeys(settings["tags"], "true")}
        self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])
        values = settings["config"] | {f"plan.{name}": value for name, value in settings["plan"].items()}
        params = [Param(name, str(value)[:LENGTH]) for name, value in values.items()]
        for begin in range(0, len(params), PARAMS):
            self._client.log_batch(run, params=params[begin : begin + PARAMS])
        return run

    def log(self, kind, step, figures):
        self._send(step, {f"{kind}/{name}": value for name, value in figures.items()})

    def _send(self, step, figures):
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def finish(self, state, step, figures):
        self._send(step, {f"result/{name}": value for name, value in figures.items()})
        self._client.set_terminated(self._id, STATES[state])
