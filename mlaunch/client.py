"""Questions of the mlaunch command to the home daemon, and its answers, in JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlaunch.errors import LaunchError
from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Answer, Query
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    import socket

    from stubs.wire.codec import Message

# How long a daemon may take to come up, and to answer beyond what it was told to wait.
START_S = 10.0
ANSWER_S = 10.0


def ask(question: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon, started if need be; LaunchError is its own or says that it is not there."""
    try:
        connection = runtime.connect(START_S)
    except OSError as error:
        raise LaunchError(_reason(error)) from error
    return _exchange(connection, question)


def ask_if_running(question: dict[str, Any], patience_s: float = ANSWER_S) -> dict[str, Any] | None:
    """Ask the daemon if there is one, else return None."""
    try:
        connection = runtime.try_connect()
    except OSError as error:
        raise LaunchError(_reason(error)) from error
    return None if connection is None else _exchange(connection, question, patience_s)


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def _exchange(
    connection: socket.socket, question: dict[str, Any], patience_s: float = ANSWER_S
) -> dict[str, Any]:
    loop = Loop()
    answers: list[Message] = []
    ends: list[str] = []

    def answered(message: Message) -> None:
        answers.append(message)
        loop.stop()

    def late() -> None:
        ends.append("the home daemon does not answer")
        loop.stop()

    daemon = Endpoint(loop, SocketStream(connection), {}, ends.append, "the home daemon")
    daemon.request(Query(VERSION, json.dumps(question).encode()), answered)
    loop.call_later(float(question.get("wait", 0.0)) + patience_s, late)
    loop.run()
    daemon.close("answered")
    loop.close()
    if not answers or not isinstance(answers[0], Answer):
        raise LaunchError(ends[0] if ends else "no answer", f"see {runtime.log_path()}")
    answer: dict[str, Any] = json.loads(answers[0].text)
    if "error" in answer:
        raise LaunchError(answer["error"], answer["hint"], answer["status"])
    return answer
