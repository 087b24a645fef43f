"""llama.cpp's own cases: what a model of each template writes is read as llama.cpp expects, however it is split."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from services.replies.events import Reply
from services.replies.formats import format_of
from tests.support.llama_chat_cases import ChatCase, chat_cases
from tests.support.llama_replies import chat_format, events_of, is_thinking, pieces_of, splits
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of

# The tests of test-chat.cpp, and the cases that they come to: some run for several templates.
_RUNS, _CASES = 425, 463
# Templates that know no tools, so that the generic form is theirs.
_GENERIC = {
    "HuggingFaceTB-SmolLM3-3B": "this template has no tools",
    "google-gemma-2-2b-it": "no tools",
    "llama-cpp-rwkv-world": "no tools",
    "microsoft-Phi-3.5-mini-instruct": "no tools",
}
# Cases that are read otherwise on purpose, by their lines, and why.
_FENCE = "a constrained answer has no code fence, and the reader of an unconstrained one does not know of the schema"
_OPENED = "the sentence that begins the thought stands in the prompt, and is not given again"
_UNKNOWN_TOOL = "a call of a tool that was not offered is content as written; llama.cpp leaves it out"
DIFFERENT: dict[int, str] = {
    2390: "a second <think> in a thought that the prompt opened is no part of the thought",
    2657: _FENCE,
    6307: _FENCE,
    6216: _OPENED,
    6226: _OPENED,
    6553: _UNKNOWN_TOOL,
    6562: _UNKNOWN_TOOL,
}
# Cases whose markers are special tokens in every vocabulary: as plain text in the middle of an answer they are text.
_ONLY_AS_MARKS = {3165, 3171}


def test_every_case_of_the_file_is_extracted() -> None:
    found = chat_cases()
    assert not found.unread
    assert found.runs == {case.line for case in found.cases}
    assert (len(found.runs), len(found.cases)) == (_RUNS, _CASES)


@pytest.mark.parametrize("case", chat_cases().cases, ids=str)
def test_a_case_is_read_as_llama_cpp_reads_it(case: ChatCase) -> None:
    """As marks and as text; letter by letter, and as text also cut in two at every place of a short output."""
    reply_format = format_of(chat_format(case.template))
    thinks = is_thinking(reply_format, case)
    for marked in (True, False):
        pieces = pieces_of(case, marked)
        whole = events_of(reply_format, case, pieces, thinks)
        if case.line not in DIFFERENT and (marked or case.line not in _ONLY_AS_MARKS):
            _check(case, reply_of(whole))
        limit = 4 if marked else 120 if len(case.output) < 120 else 20
        for split in splits(pieces, limit):
            assert events_of(reply_format, case, split, thinks) == whole, split


def _check(case: ChatCase, reply: Reply) -> None:
    expected = case
    if case.continues:
        # The expected message holds the beginning, which the prompt has; the model wrote the rest.
        begun = case.messages[-1]
        expected = replace(case, content=case.content.removeprefix(begun["content"]), reasoning="")
        if case.continues == "reasoning":
            expected = replace(expected, reasoning=case.reasoning.removeprefix(begun["reasoning_content"]))
        assert (reply.content, reply.reasoning) == (expected.content, expected.reasoning)
    if expected.reasoning_format == "none" and reply.reasoning:
        # llama.cpp leaves thoughts in the content there, with their tags; here they are always taken out.
        assert _bare(reply.reasoning + reply.content, case) == _bare(expected.reasoning + expected.content, case)
    else:
        assert reply.content.strip() == expected.content.strip()
        assert reply.reasoning.strip() == expected.reasoning.strip()
    _check_calls(case, reply)


def _bare(text: str, case: ChatCase) -> str:
    """Return a text without white space and tags of thoughts."""
    thoughts = format_of(chat_format(case.template)).thoughts
    for tag in (thoughts.begins, thoughts.ends) if thoughts else ():
        text = text.replace(tag, "")
    return re.sub(r"\s", "", text)


def _check_calls(case: ChatCase, reply: Reply) -> None:
    calls = [*reply.calls, *([reply.cut_call] if reply.cut_call else [])]
    assert [call.name for call in calls] == [name for name, _, _ in case.calls]
    assert bool(reply.cut_call) == (case.is_partial and bool(case.calls))
    for call, (_, arguments, call_id) in zip(calls, case.calls, strict=True):
        if call_id:
            assert call.id == call_id
        if case.is_partial:
            assert call.arguments.strip().startswith(arguments.strip()) or arguments.startswith(call.arguments)
        else:
            assert json.loads(call.arguments) == json.loads(arguments)


def test_every_template_has_its_format() -> None:
    names = {name: format_of(chat_format(name)).name for name in chat_templates()}
    # Shown with -s, and where the test fails.
    print("\n" + "\n".join(f"{template:50} {name}" for template, name in names.items()))
    assert len(names) == 70
    generic = {template for template, name in names.items() if name == "generic"}
    assert generic == set(_GENERIC)
    assert not any("tool_calls" in chat_templates()[template] for template in generic)
