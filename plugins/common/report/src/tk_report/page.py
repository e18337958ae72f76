"""The report as one HTML page: no script, no network, every text escaped (answers of a model are anyone's text)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from tk_report.chart import Line, chart
from tk_report.reading import Record, Run, number, series, smooth
from tk_report.words import count, duration, esc, figure, large, pairs, size, table, yaml


def page(run: Run) -> str:
    """The whole page."""
    style = (files("tk_report") / "style.css").read_text("utf-8")
    title = _title(run)
    body = "".join([_header(run, title), _tiles(run), *_sections(run)])
    version = next((p.get("version") for p in run.items("plugins") if p.get("distribution") == "tk-kernel"), "")
    foot = f"<footer>Written by tk {esc(version)} from <code>run.json</code> and <code>log.jsonl</code>.</footer>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{esc(title)}</title><style>{style}</style></head><body><main>{body}{foot}</main></body></html>\n"
    )


def _sections(run: Run) -> Iterator[str]:
    for heading, content in (
        ("Result", _result(run)),
        ("Loss", _curves(run)),
        ("Held-out rows, before and after", _samples(run)),
        ("Answers and their rewards", _rewarded(run)),
        ("Data", _data(run)),
        ("Checkpoints", _checkpoints(run)),
        ("What to do next", _next(run)),
    ):
        if content:
            yield f"<section><h2>{heading}</h2>{content}</section>"
    circumstances = _circumstances(run)
    if circumstances:
        yield f"<section><h2>How it ran</h2>{circumstances}</section>"
    for heading, content in (("Plugins and versions", _plugins(run)), ("Config", _config(run))):
        if content:
            yield f"<section><details><summary>{heading}</summary>{content}</details></section>"


def _chosen(run: Run, section: str) -> str:
    value = run.part("config").get(section)
    found = value.get("name", "") if isinstance(value, Mapping) else value
    return str(found or "")


def _title(run: Run) -> str:
    model, method = _chosen(run, "model").rstrip("/").rpartition("/")[2], _chosen(run, "method")
    tuner = _chosen(run, "tuner")
    how = " · ".join(word for word in (method.upper() if len(method) <= 4 else method, tuner) if word)
    return " — ".join(word for word in (model, how) if word) or run.folder.name


def _header(run: Run, title: str) -> str:
    result = run.part("result")
    if run.info.get("error"):
        tag = f'<span class="tag warn">failed: {esc(run.info["error"])}</span>'
    elif not result:
        tag = '<span class="tag warn">not finished</span>'
    elif result.get("stopped"):
        tag = f'<span class="tag warn">stopped: {esc(result["stopped"])}</span>'
    else:
        tag = '<span class="tag good">finished</span>'
    when = run.part("timings").get("started", run.info.get("started", ""))
    where = f"<code>{esc(run.folder)}</code>"
    return f'<header><h1>{esc(title)}</h1><p class="soft">{tag} &ensp;{esc(when)} &ensp;{where}</p></header>'


def _tiles(run: Run) -> str:
    result, plan = run.part("result"), run.part("plan")
    speeds = [value for _, value in run.series("tokens_per_second")]
    seconds, tokens = number(result.get("seconds")), number(result.get("tokens"))
    speed = sorted(speeds)[len(speeds) // 2] if speeds else tokens / seconds if tokens and seconds else None
    trainable, parameters = number(plan.get("trainable")), number(plan.get("parameters"))
    share = f" of {large(parameters)}" if trainable and parameters else ""
    last = run.train[-1].get("step") if run.train else None
    tiles = [
        ("optimizer steps", count(result.get("steps", last))),
        ("tokens", large(tokens)),
        ("time", duration(seconds)),
        ("tokens a second", count(speed)),
        (f"trained{share}", large(trainable)),
        ("peak memory", size(result.get("peak_memory"))),
    ]
    shown = "".join(
        f'<div class="tile"><b>{value}</b><span>{esc(name)}</span></div>' for name, value in tiles if value != "–"
    )
    return f'<div class="tiles">{shown}</div>' if shown else ""


def _by_set(value: Any) -> dict[str, Record]:
    """Figures by set: {"loss": …} is the one set "eval"."""
    if not isinstance(value, Mapping) or not value:
        return {}
    if all(isinstance(inner, Mapping) for inner in value.values()):
        return dict(value)
    return {str(value.get("set", "eval")): value}


NO_FIGURES = ("rows", "set", "step", "kind", "seconds")
"""What stands in an evaluation's record beside its figures."""


def _result(run: Run) -> str:
    evals = run.part("evals")
    first, last = _by_set(evals.get("first")), _by_set(evals.get("last"))
    names = list(dict.fromkeys([*first, *last]))
    if not names:
        return ""
    lead = _lead(first.get(names[0], {}), last.get(names[0], {}))
    rows = []
    for name in names:
        before, after = first.get(name, {}), last.get(name, {})
        keys = dict.fromkeys([*before, *after])
        for key in (key for key in keys if key not in NO_FIGURES and not key.endswith(("_low", "_high"))):
            rows.append(
                (
                    esc(name),
                    esc(key),
                    figure(before.get(key)) + _interval(before, key),
                    figure(after.get(key)) + _interval(after, key),
                    _change(before.get(key), after.get(key)),
                    count(after.get("rows", before.get("rows"))),
                )
            )
    head = ("set", "figure", "before (95 % interval)", "after (95 % interval)", "change", "rows")
    return lead + table(head, rows, (2, 3, 4, 5))


def _lead(before: Record, after: Record) -> str:
    was, now, low = number(before.get("loss")), number(after.get("loss")), number(before.get("loss_low"))
    if now is None:
        return ""
    if was is None:
        return f'<p class="lead"><b>{now:.3f}</b><span class="soft">held-out loss</span></p>'
    verdict = ""
    if low is not None and now < low:
        verdict = '<span class="tag good">below the 95 % interval of the untrained model</span>'
    elif low is not None:
        verdict = '<span class="tag warn">within the uncertainty of the untrained model, or worse</span>'
    numbers = f'<span class="from">{was:.3f} →</span> {now:.3f}'
    return f'<p class="lead"><b>{numbers}</b><span class="soft">held-out loss</span>{verdict}</p>'


def _interval(record: Record, key: str) -> str:
    low, high = number(record.get(f"{key}_low")), number(record.get(f"{key}_high"))
    if low is None or high is None:
        return ""
    return f' <span class="soft">({low:.3f} – {high:.3f})</span>'


def _change(before: Any, after: Any) -> str:
    was, now = number(before), number(after)
    return "–" if not was or now is None else f"{(now - was) / abs(was) * 100:+.1f} %"


def _curves(run: Run) -> str:
    losses = run.series("loss")
    lines, legend = [], []
    if losses:
        lines += [Line(losses, "raw"), Line(smooth(losses), "train")]
        legend += ['<span class="k1"><i></i>train, each step</span>', "<span><i></i>train, smoothed</span>"]
    for index, (name, records) in enumerate(run.eval_sets().items()):
        css = f"e{index % 3}"
        bars = [_bar(record) for record in sorted(records, key=lambda r: number(r.get("step")) or 0) if _drawn(record)]
        lines.append(Line(series(records, "loss"), css, bars, dots=True))
        legend.append(f'<span class="{css}"><i></i>{esc(name)}, with 95 % interval</span>')
    rates, norms = run.series("lr"), run.series("grad_norm")
    drawn = chart(lines, name="loss by step")
    small = [
        (f"<h3>{name}</h3>" + chart([Line(points, css)], name=name, width=440, height=112, zero=True))
        for name, points, css in (
            ("reward", run.series("reward"), "rate"),
            ("accuracy", run.series("accuracy"), "rate"),
            ("learning rate", rates, "rate"),
            ("gradient norm", norms, "rate"),
        )
        if len(points) > 1
    ]
    return (
        f'<p class="legend">{"".join(legend)}</p>{drawn}<div class="pair">{"".join(f"<div>{s}</div>" for s in small)}</div>'
        if drawn
        else ""
    )


def _drawn(record: Record) -> bool:
    return number(record.get("step")) is not None and number(record.get("loss")) is not None


def _bar(record: Record) -> tuple[float, float] | None:
    low, high = number(record.get("loss_low")), number(record.get("loss_high"))
    return None if low is None or high is None else (low, high)


def _samples(run: Run) -> str:
    talks = []
    for sample in run.items("samples"):
        answers = "".join(
            f'<div class="answer {css}"><h3>{name}</h3><div>{esc(_text(sample[key])) or "<i>nothing</i>"}</div></div>'
            for key, name, css in (
                ("reference", "reference", ""),
                ("before", "before training", ""),
                ("after", "after training", "after"),
            )
            if sample.get(key) is not None
        )
        talks.append(
            f'<div class="talk">{_pictures(sample)}<div class="ask">{esc(_text(sample.get("prompt")))}</div>'
            f'<div class="answers">{answers}</div></div>'
        )
    if not talks and run.info.get("no_samples"):
        return f'<p class="soft">{esc(run.info["no_samples"])}</p>'
    return "".join(talks)


def _pictures(sample: Record) -> str:
    """The pictures of a prompt, which stand in the page itself."""
    found = [url for url in sample.get("pictures") or () if str(url).startswith("data:image/png;base64,")]
    return "".join(
        f'<img class="seen" alt="a picture of the prompt, as the model sees it" src="{esc(url)}">' for url in found
    )


LAST_PROMPTS = 4
"""Prompts of the last rollout that are shown."""


def _rewarded(run: Run) -> str:
    """The answers of the last rollout with what each reward gave them."""
    last = max((number(group.get("step")) or 0.0 for group in run.generated), default=0.0)
    groups = [group for group in run.generated if number(group.get("step")) == last][:LAST_PROMPTS]
    if not groups:
        return ""
    shown = [f'<p class="soft">The rollout of step {last:.0f}; all of them are in <code>samples.jsonl</code>.</p>']
    for group in groups:
        answers = [answer for answer in group.get("answers") or () if isinstance(answer, Mapping)]
        names = list(dict.fromkeys(name for answer in answers for name in answer.get("rewards") or {}))
        rows = [
            (
                esc(answer.get("answer")) or "<i>nothing</i>",
                *(figure((answer.get("rewards") or {}).get(name)) for name in names),
                figure(answer.get("total")),
                figure(answer.get("advantage")),
            )
            for answer in sorted(answers, key=lambda answer: -(number(answer.get("total")) or 0.0))
        ]
        head = ("answer", *map(esc, names), "reward", "advantage")
        ask = f'<div class="ask">{esc(_text(group.get("prompt")))}</div>'
        shown.append(f'<div class="talk">{ask}{table(head, rows, range(1, len(head)))}</div>')
    return "".join(shown)


def _text(value: Any) -> str:
    """A prompt is a text or a list of messages."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content", "")
    if isinstance(value, list):
        return "\n".join(
            f"{m.get('role', '')}: {m.get('content', '')}" if isinstance(m, Mapping) else str(m) for m in value
        )
    return "" if value is None else str(value)


def _data(run: Run) -> str:
    rows, reasons = [], []
    for source in run.items("data"):
        skipped = source.get("skipped")
        skipped = skipped if isinstance(skipped, Mapping) else {}
        total = sum(value for value in skipped.values() if isinstance(value, int))
        split = f' <span class="soft">{esc(source["split"])}</span>' if source.get("split") else ""
        name = esc(source.get("name", source.get("path", ""))) + split
        where = f'<br><code class="soft">{esc(source.get("path"))}</code>' if source.get("path") else ""
        keys = ("rows", "used", "examples", "tokens", "supervised")
        values = [count(source.get(key)) for key in keys]
        print_ = esc(str(source.get("fingerprint", ""))[:12])
        rows.append((name + where, esc(source.get("format")), *values, count(total), f"<code>{print_}</code>"))
        reasons += [(name, esc(reason), count(number_)) for reason, number_ in skipped.items()]
    notes = [f'<p class="soft">{esc(note)}</p>' for source in run.items("data") for note in source.get("notes") or ()]
    head = ("source", "format", "rows", "used", "examples", "tokens", "supervised", "skipped", "fingerprint")
    listed = table(("source", "reason", "rows skipped"), reasons, (2,))
    rejects = run.info.get("rejects")
    aside = f'<p class="soft">They are kept in <code>{esc(rejects)}</code>.</p>' if rejects else ""
    return (
        table(head, rows, (2, 3, 4, 5, 6, 7))
        + "".join(notes)
        + (f"<h3>Skipped rows</h3>{listed}{aside}" if listed else "")
    )


def _checkpoints(run: Run) -> str:
    found = run.part("result").get("checkpoints")
    rows = []
    for item in found if isinstance(found, list) else []:
        record = item if isinstance(item, Mapping) else {"path": item}
        metrics = record.get("metrics")
        shown = ", ".join(f"{esc(k)} {figure(v)}" for k, v in metrics.items()) if isinstance(metrics, Mapping) else ""
        rows.append((f"<code>{esc(record.get('path'))}</code>", count(record.get("step")), shown))
    return table(("folder", "step", "evaluation"), rows, (1,))


def _next(run: Run) -> str:
    result = run.part("result")
    if not result:
        return ""
    folder = shlex.quote(str(run.folder))
    again = f"tk train --config {folder}/config.yaml --output {folder}-again"
    commands = {**(result.get("next") or {}), "run it again": again}
    final = run.folder / "final"
    where = f"<p>The trained weights are in <code>{esc(final)}</code>.</p>" if final.is_dir() else ""
    return where + "".join(
        f"<h3>{esc(what).capitalize()}</h3><pre>{esc(command)}</pre>" for what, command in commands.items()
    )


def _circumstances(run: Run) -> str:
    timings = {
        name: duration(value) if number(value) is not None else value for name, value in run.part("timings").items()
    }
    parts = [
        ("Time", timings),
        ("Hardware", run.part("hardware")),
        ("Seeds", run.part("seeds")),
        ("Git", run.part("git")),
    ]
    shown = "".join(f"<div><h3>{name}</h3>{pairs(values)}</div>" for name, values in parts if values)
    return f'<div class="pair">{shown}</div>' if shown else ""


def _plugins(run: Run) -> str:
    rows = [
        (f"<code>{esc(p.get('distribution'))}</code>", esc(p.get("version")), esc(p.get("components")))
        for p in run.items("plugins")
    ]
    return table(("distribution", "version", ""), rows)


def _config(run: Run) -> str:
    config = run.part("config")
    return f"<pre>{esc(yaml(config))}</pre>" if config else ""
