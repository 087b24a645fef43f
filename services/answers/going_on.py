"""Going on with a session's last answer, which was cut: it becomes the beginning of the new one."""

from __future__ import annotations

from dataclasses import replace

from services.answers.request import AnswerRequest
from services.errors import InvalidRequest
from services.sessions.history import SessionHistory


def gone_on(asked: AnswerRequest, history: SessionHistory) -> AnswerRequest:
    """Return a request that continues the session's last answer, given one with `goes_on`.

    The caller holds the session's lock. Raises InvalidRequest where the session does not end with an answer that has words.
    """
    messages = history.messages
    last = messages[-2:]
    if [message["type"] for message in last] != ["human", "ai"] or not last[1]["content"]:
        what = "continue: the session does not end with an answer that could be continued"
        raise InvalidRequest(what, param="continue", code="nothing_to_continue")
    words, begun = last[0]["content"], last[1]["content"]
    system = tuple(message for message in asked.messages if message["role"] == "system")
    return replace(
        asked,
        prompt=words,
        keep=len(messages) - 2,
        messages=(*system, {"role": "user", "content": words}, {"role": "assistant", "content": begun}),
        continues=True,
        generation_prompt=False,
        begun=begun,
        begun_reasoning=last[1].get("reasoning", ""),
    )
