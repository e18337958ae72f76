"""Messages as they are written in rows -> tk's messages. Everything raises ValueError with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tk.errors import nearest
from tk.sample import ROLES, Message, Part, ToolCall

_OTHER_ROLES = {"function": "tool"}
_MEDIA = {
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "audio_url": "audio",
}
_LOSS_KEYS = ("loss", "train", "weight")


def read_messages(value: Any, what: str = "messages", *, generation: bool = False) -> tuple[Message, ...]:
    """A conversation from a list of messages, or JSON text of one. `what` names it in errors.

    generation: it is to be answered, and nothing of it is trained: turns may be empty, and stand in any order.
    """
    turns = as_list(value, what)
    if not turns:
        raise ValueError(f"{what} is empty")
    read = tuple(read_message(turn, f"{what}[{i}]", empty=generation) for i, turn in enumerate(turns))
    if not generation:
        check_order(read, what)
    return read


def read_message(turn: Any, what: str, *, empty: bool = False) -> Message:
    """A message from an object with role, content and what else OpenAI's API knows. empty: whether its text may be."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"{what} must be an object with role and content, not {type_of(turn)}")
    role = read_role(turn.get("role"), what)
    where = f"{what} ({role})"
    calls = tuple(read_calls(turn.get("tool_calls"), where))
    if calls and role != "assistant":
        raise ValueError(f"{where} has tool_calls, which only the assistant may have")
    content = read_content(turn.get("content"), where)
    check_content(role, content, calls, turn, where, empty=empty)
    return Message(
        role=role,
        content="" if content is None else content,
        tool_calls=calls,
        reasoning=_text(turn, ("reasoning_content", "reasoning"), where),
        loss=read_loss(turn, where),
        name=_text(turn, ("name",), where),
        tool_call_id=_text(turn, ("tool_call_id",), where),
    )


def read_role(role: Any, what: str, others: Mapping[str, str] = _OTHER_ROLES) -> str:
    """The role, with the names that other formats give it translated."""
    if role is None:
        raise ValueError(f"{what} has no role")
    if not isinstance(role, str):
        raise ValueError(f"{what}: role must be text, not {type_of(role)}")
    if role in ROLES:
        return role
    if role in others:
        return others[role]
    raise ValueError(f"{what}: unknown role {role!r}.{nearest(role, ROLES)} Known: {', '.join((*ROLES, *others))}")


def read_content(content: Any, where: str) -> str | tuple[Part, ...] | None:
    """Text, a list of parts, or None where there is none."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return tuple(_part(part, f"{where} content[{i}]") for i, part in enumerate(content))
    raise ValueError(f"{where}: content must be text or a list of parts, not {type_of(content)}")


def check_content(
    role: str,
    content: str | tuple[Part, ...] | None,
    calls: tuple[ToolCall, ...],
    turn: Mapping[str, Any],
    where: str,
    *,
    empty: bool = False,
) -> None:
    """The user and the assistant must say something, if only empty text (`empty`); a system prompt or a tool's result may be."""
    if calls:
        return
    if content is None:
        missing = "no content" if "content" not in turn and "value" not in turn else "null content"
        raise ValueError(f"{where} has {missing}")
    if role in ("user", "assistant") and not empty and not (content.strip() if isinstance(content, str) else content):
        raise ValueError(f"{where} has empty content")


def check_order(messages: Sequence[Message], what: str) -> None:
    """System and developer messages stand at the start, one of each at most."""
    seen: set[str] = set()
    talking = False
    for i, message in enumerate(messages):
        if message.role not in ("system", "developer"):
            talking = True
        elif talking:
            raise ValueError(f"{what}[{i}]: a {message.role} message may only stand at the start")
        elif message.role in seen:
            raise ValueError(f"{what}[{i}]: a second {message.role} message")
        seen.add(message.role)


def read_calls(value: Any, where: str) -> Iterator[ToolCall]:
    """OpenAI's tool_calls, or the bare {name, arguments}."""
    for i, call in enumerate(as_list(value, f"{where} tool_calls") if value not in (None, "") else ()):
        yield read_call(call, f"{where} tool_calls[{i}]")


def read_call(call: Any, what: str) -> ToolCall:
    """One call; arguments may be an object or JSON text of one."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ValueError(f"{what} must have a function with a name")
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        arguments = parse(arguments, f"{what} arguments") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{what} arguments must be an object, not {type_of(arguments)}")
    name = call.get("id")
    return ToolCall(inner["name"], arguments, name if isinstance(name, str) else "")


def read_tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The `tools` column: a list of function descriptions, or JSON text of one."""
    if value is None or value == "":
        return ()
    tools = as_list(value, "tools")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise ValueError(f"tools[{i}] must be an object, not {type_of(tool)}")
    return tuple(tools)


def read_loss(turn: Mapping[str, Any], where: str) -> float | None:
    """Whether, or with which weight, a message is trained."""
    given = {key: turn[key] for key in _LOSS_KEYS if turn.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, (bool, int, float)) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{where}: {key} must be true, false or a number from 0, not {value!r}")
    if len({float(value) for value in given.values()}) > 1:
        raise ValueError(f"{where}: {' and '.join(given)} contradict each other")
    return float(next(iter(given.values()))) if given else None


def with_system(messages: tuple[Message, ...], system: Any) -> tuple[Message, ...]:
    """The conversation with a `system` column put in front."""
    if system is None or system == "":
        return messages
    if not isinstance(system, str):
        raise ValueError(f"system must be text, not {type_of(system)}")
    if any(message.role == "system" for message in messages):
        raise ValueError("there is a system column and a system message: keep one")
    return (Message("system", system), *messages)


def as_list(value: Any, what: str) -> Sequence[Any]:
    """A list, or JSON text of one (as CSV cells hold it)."""
    if isinstance(value, str):
        value = parse(value, what)
    if value is None or not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"{what} must be a list, not {type_of(value)}")
    return value


def parse(text: str, what: str) -> Any:
    """A value from JSON text, which templates can write again."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a character (a lone surrogate)") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{what} is text, and not JSON: {error}") from None
    return value


def type_of(value: Any) -> str:
    """A value's type in the words of JSON."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def _text(turn: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    for key in keys:
        value = turn.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where}: {key} must be text, not {type_of(value)}")
        if value:
            return value
    return ""


def _part(part: Any, what: str) -> Part:
    if isinstance(part, str):
        return Part("text", part)
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise ValueError(f"{what} must be an object with a type")
    kind = part["type"]
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{what}: text must be text, not {type_of(part.get('text'))}")
        return Part("text", part["text"])
    if kind == "input_audio":
        return Part("audio", source=_inline_audio(part.get("input_audio"), what))
    if kind in _MEDIA:
        return Part(_MEDIA[kind], source=_source(part, kind, what))  # type: ignore[arg-type]
    known = ("text", *_MEDIA, "input_audio")
    raise ValueError(f"{what}: unknown type {kind!r}.{nearest(kind, known)} Known: {', '.join(known)}")


def source_of(value: Any) -> str | bytes | None:
    """A path, URL, data URL or bytes, or an object with one (as data sets keep pictures); None for anything else."""
    if isinstance(value, Mapping):
        inside = value.get("bytes")
        if isinstance(inside, str) and inside:  # as JSON holds bytes
            return f"data:;base64,{inside}"
        value = next((v for v in (inside, value.get("url"), value.get("path")) if v is not None), None)
    return value if isinstance(value, (str, bytes)) and value else None


def _source(part: Mapping[str, Any], kind: str, what: str) -> str | bytes | None:
    """What stands under the part's own type or one of the usual keys; None where it is left to a column of the row."""
    keys = [key for key in (kind, _MEDIA[kind], "url", "path") if part.get(key) is not None]
    if not keys:
        return None
    found = source_of(part[keys[0]])
    if found is None:
        raise ValueError(f"{what}: {kind} must be a path, a URL or bytes, not {type_of(part[keys[0]])}")
    return found


def _inline_audio(audio: Any, what: str) -> str:
    if not isinstance(audio, Mapping) or not isinstance(audio.get("data"), str):
        raise ValueError(f"{what}: input_audio must have data (base64) and format")
    return f"data:audio/{audio.get('format') or 'wav'};base64,{audio['data']}"
