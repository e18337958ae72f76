"""What speaks to Trackio, in a process that has it."""

import trackio
from trackio import AlertLevel

LEVELS = {"finished": AlertLevel.INFO, "failed": AlertLevel.ERROR, "stopped": AlertLevel.WARN}
"""Trackio keeps no state of a run: how it ended is an alert."""


class Sink:
    def start(self, settings):
        self._run = trackio.init(
            project=settings["project"],
            name=settings["name"],
            group=settings["group"] or None,
            space_id=settings["space"] or None,
            server_url=settings["uri"] or None,
            config={**settings["config"], "output.path": settings["output"], "tags": settings["tags"]}
            | {f"plan.{name}": value for name, value in settings["plan"].items()},
            resume="must" if settings["id"] else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        if settings["id"] not in ("", self._run.id):  # Trackio goes on with the newest run of a name
            raise ValueError(
                f"another run of {settings['project']} is named {settings['name']!r} too: give each a name (name)"
            )
        return {"id": self._run.id, "url": self._run.url or ""}

    def log(self, kind, step, figures):
        self._run.log({f"{kind}/{name}": value for name, value in figures.items()}, step=step)

    def finish(self, state, step, figures):
        if figures:
            self._run.log({f"result/{name}": value for name, value in figures.items()}, step=step)
        self._run.alert(title=state, level=LEVELS[state], step=step)
        self._run.finish()
