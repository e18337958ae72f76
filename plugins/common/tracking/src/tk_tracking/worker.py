"""The process that has the library: `python worker.py SINK`, told what to do in lines of JSON on standard input.

It is run by whatever interpreter has the library, which need not have tk: only the standard library is imported here.
What the library prints goes to standard error. When standard input ends without a word, who trained is gone, and the
run is closed as failed.
"""

import importlib.util
import json
import os
import sys
import traceback


def sink(path):
    """The class `Sink` of a file."""
    spec = importlib.util.spec_from_file_location("sink", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Sink()


def main(path):
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**values):
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    target, step = None, 0
    for line in sys.stdin:
        message = json.loads(line)
        what = message.pop("do")
        try:
            if what == "start":
                target = sink(path)
                answer(started=target.start(message))
            elif what == "log":
                step = message["step"]
                target.log(**message)
            else:
                target.finish(**message)
                answer(finished=True)
                return
        except Exception as error:  # noqa: BLE001 - a library may raise anything; who trains is told
            traceback.print_exc()
            text = " ".join(str(error).split())
            answer(**{"failed" if what != "log" else "lost": f"{type(error).__name__}: {text}"})
            if what != "log":
                return
    if target is not None:
        target.finish(state="failed", step=step, figures={})


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the folder of this file, whose modules are none of the library's
    main(sys.argv[1])
