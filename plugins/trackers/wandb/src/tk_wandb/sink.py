"""What speaks to wandb, in a process that has it."""

import wandb

EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 255}
"""W&B shows a run as finished at 0, else as failed; 255 is what it gives to one that was interrupted."""


class Sink:
    def start(self, settings):
        # Its console, code and packages are those of this process, and say nothing of the training.
        wanted = {"console": "off", "save_code": False, "x_save_requirements": False, "silent": True}
        if not settings["system"]:
            hidden = ("x_disable_stats", "x_disable_meta", "x_disable_machine_info", "disable_git")
            wanted |= dict.fromkeys(hidden, True)
        if settings["uri"]:
            wanted["base_url"] = settings["uri"]
        self._run = wandb.init(
            project=settings["project"],
            entity=settings["entity"] or None,
            group=settings["group"] or None,
            name=settings["name"],
            tags=settings["tags"],
            config={**settings["config"], "output.path": settings["output"]}
            | {f"plan.{name}": value for name, value in settings["plan"].items()},
            dir=settings["folder"],
            mode=settings["mode"],
            id=settings["id"] or None,
            resume="allow" if settings["id"] else None,
            settings=wandb.Settings(**wanted),
        )
        # Steps come again after a run was resumed, which W&B's own counter takes for a mistake and drops.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return {"id": self._run.id, "url": self._run.url or "" if settings["mode"] == "online" else ""}

    def log(self, kind, step, figures):
        self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in figures.items()}})

    def finish(self, state, step, figures):
        self._run.summary.update({"state": state, **{f"result/{name}": value for name, value in figures.items()}})
        self._run.finish(exit_code=EXIT_CODES[state])
