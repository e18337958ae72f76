"""What speaks to SwanLab, in a process that has it."""

import swanlab

STATES = {"finished": "success", "failed": "crashed", "stopped": "aborted"}


class Sink:
    def start(self, settings):
        whole = {"terminal": {"proxy_type": "none"}}  # what this process prints says nothing
        if settings["uri"]:
            whole["api_host"] = whole["web_host"] = settings["uri"]
        if not settings["system"]:
            whole["probe"] = dict.fromkeys(("hardware", "runtime", "requirements", "git", "monitor"), False)
        swanlab.merge_settings(swanlab.Settings(**whole))
        self._run = swanlab.init(
            project=settings["project"],
            workspace=settings["workspace"] or None,
            name=settings["name"],
            group=settings["group"] or None,
            tags=settings["tags"],
            config={**settings["config"], "output.path": settings["output"]}
            | {f"plan.{name}": value for name, value in settings["plan"].items()},
            log_dir=settings["folder"],
            mode=settings["mode"],
            id=settings["id"] or None,
            resume="allow" if settings["id"] else "never",
        )
        return {"id": self._run.id, "url": self._run.url if settings["mode"] == "online" else ""}

    def log(self, kind, step, figures):
        self._run.log({f"{kind}/{name}": value for name, value in figures.items()}, step=step)

    def finish(self, state, step, figures):
        if figures:
            self._run.log({f"result/{name}": value for name, value in figures.items()}, step=step)
        self._run.finish(state=STATES[state], error="the run failed" if state == "failed" else None)
