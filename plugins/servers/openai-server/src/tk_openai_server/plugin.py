"""Registers the server `openai`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import ServerSpec


@hookimpl
def tk_servers() -> Iterable[ServerSpec]:
    yield ServerSpec(
        name="openai",
        target="tk_openai_server.server:OpenaiServer",
        config="tk_openai_server.options:ServerOptions",
        summary="The OpenAI protocol over HTTP.",
    )
