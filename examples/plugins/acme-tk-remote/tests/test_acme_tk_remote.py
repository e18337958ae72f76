"""The reward `remote` against a server on this machine: what is sent, how much at once, and what goes wrong."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from acme_tk_remote.options import RemoteOptions
from acme_tk_remote.reward import Remote

from tk.contracts import Scored
from tk.errors import TkError, UsageError
from tk.sample import Message
from tk.testing import check_reward


class Server(ThreadingHTTPServer):
    """Scores 1.0 where the completion is the column `answer`, null where there is none; waits until `crowd` ask at once."""

    def __init__(self, crowd=1):
        self.asked, self.together = [], threading.Barrier(crowd)
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self.server.together.wait(timeout=20)
        gold = asked["columns"].get("answer")
        broken = asked["completion"] == "break"
        body = b"nothing" if broken else json.dumps({"score": gold and float(asked["completion"] == gold)}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(**options):
        servers.append(Server(**options))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def batch(*completions, answers=()):
    prompts = [(Message("user", "2 + 2?"),)] * len(completions)
    columns = {"answer": list(answers), "source": ["book"] * len(answers)} if answers else {}
    return Scored(prompts, [Message("assistant", text) for text in completions], columns=columns)


def scores(reward, given):
    return list(asyncio.run(reward(given)))


def test_the_row_of_each_answer_decides(serve):
    server = serve()
    reward = Remote(RemoteOptions(server.url, columns=["answer"]))
    assert scores(reward, batch("4", "5", "4", answers=["4", "4", None])) == [1.0, 0.0, None]
    sent = {"prompt": [{"role": "user", "content": "2 + 2?"}], "completion": "5", "columns": {"answer": "4"}}
    assert sent in server.asked


def test_answers_are_asked_about_at_the_same_time(serve):
    server = serve(crowd=3)  # answers nobody before three ask
    reward = Remote(RemoteOptions(server.url, columns=["answer"], at_once=3))
    assert scores(reward, batch(*"444555", answers="4" * 6)) == [1.0] * 3 + [0.0] * 3


def test_it_bears_every_completion(serve):
    found = check_reward(Remote(RemoteOptions(serve().url, columns=["answer"])), columns={"answer": "4"})
    assert {score for group in found for score in group} == {0.0}


def test_what_is_wrong_is_told(serve):
    url = serve().url
    with pytest.raises(UsageError, match=r"rewards\.remote\.url: 'here'"):
        Remote(RemoteOptions("here"))
    with pytest.raises(UsageError, match=r"no row has gold; there are: answer, source"):
        scores(Remote(RemoteOptions(url, columns=["gold"])), batch("4", answers="4"))
    with pytest.raises(TkError, match="gave no score"):
        scores(Remote(RemoteOptions(url)), batch("break"))
    with pytest.raises(TkError, match=r"127\.0\.0\.1:1/ gave no score"):
        scores(Remote(RemoteOptions("http://127.0.0.1:1/")), batch("4"))
