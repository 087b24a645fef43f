"""The requests of coding agents, one after the other: how much of each prompt is read anew.

They are written down here as Claude Code sends them (a long system prompt behind a line for billing that changes each time,
many tools, a growing conversation with results of tools, small requests of another kind in between, and a compaction), and
as Codex does by the Responses API. `python -m tests.server.test_recorded_agents` prints the share of each request.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typing_extensions import override

from benchmarks.harness.words import make_text
from services.api.openai.responses.items import sealed
from tests.support.real_models import chat_templates
from tests.support.serving import Server
from tests.support.tiny import write_hybrid_model, write_random_model

# Words of the system prompt, which are more than 10,000 tokens, and the calls of tools.
RULES, CALLS = 3800, 12
# The share of a prompt that a request which only goes on may read anew.
MOST = 0.03
KINDS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda path: write_random_model(path, dim=128, layers=2, ffn=256, n_ctx=32768),
    "hybrid": lambda path: write_hybrid_model(path, n_ctx=32768),
}
PATCH_GRAMMAR = """start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: "*** Update File: " /(.+)/ LF (/[-+ ](.*)/ LF)+
%import common.LF
"""
TOOLS = ["Bash", "Read", "Edit", "Write", "Glob", "Grep", "Task", "TodoWrite", "WebFetch", "NotebookEdit"]


class _Running:
    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> Server:
        return self._server.start()

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def agents_server(folder: Path, kind: str) -> _Running:
    """A server whose model of this kind has room for the conversation."""
    models = folder / "models"
    models.mkdir()
    KINDS[kind](models / "agent.gguf")
    server = Server(folder / "data", models=models)
    profile = {"model": "agent.gguf", "n_ctx": 32768, "n_parallel": 2, "n_threads": 1, "temperature": 0}
    server.edit_config("Agent", **profile, chat_template=chat_templates()["Qwen-Qwen3-0.6B"])
    server.select("Agent")
    return _Running(server)


class Recording:
    """Sends one session's requests, and notes of each how many tokens its prompt has, and how many were read."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rng = Random(1)
        self.rules = self.text(RULES)
        self.read: list[tuple[str, int, int]] = []

    def text(self, words: int) -> str:
        return make_text(words, self._rng, english=True)

    def play(self) -> None:
        """Send the whole session: a task in twelve calls, a compaction, and the work after it."""
        raise NotImplementedError


class ClaudeCode(Recording):
    """Claude Code by the Messages API, with requests for titles in between."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._n_sent = 0
        self.tools = [
            {
                "name": name,
                "description": self.text(60),
                "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
            }
            for name in TOOLS
        ]

    def send(self, name: str, messages: list[dict[str, Any]], *, system: str | None = None, tools: bool = True) -> None:
        self._n_sent += 1
        billing = f"x-anthropic-billing-header: cc_version=2.1.{self._n_sent}; cc_entrypoint=cli; cch={self._n_sent:05x};"
        body = {
            "model": "Agent",
            "max_tokens": 4,
            "system": [
                {"type": "text", "text": billing},
                {"type": "text", "text": system or self.rules, "cache_control": {"type": "ephemeral"}},
            ],
            "messages": messages,
            "metadata": {"user_id": "user_1_account__session_2"},
            "thinking": {"type": "disabled"},
            **({"tools": self.tools} if tools else {}),
        }
        reply = self._server.post("/v1/messages", body)
        assert reply.status_code == 200, reply.text
        usage = reply.json()["usage"]
        self.read.append((name, usage["input_tokens"], usage["input_tokens"] + usage["cache_read_input_tokens"]))

    @override
    def play(self) -> None:
        talk: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": self.text(40)}]}]
        self.send("first", talk)
        for step in range(CALLS):
            talk = [*talk, *self._call(step)]
            self.send(f"call {step}", talk)
            if step % 4 == 1:
                title = [{"role": "user", "content": self.text(30)}]
                self.send("title", title, system="Give this talk a title of five words.", tools=False)
        summary = "Summarize the conversation so far, with all that is needed to go on."
        self.send("compaction", [*talk, {"role": "assistant", "content": "Done."}, {"role": "user", "content": summary}])
        talk = [{"role": "user", "content": f"This session goes on from another, in short: {self.text(100)}"}]
        self.send("after it", talk)
        self.send("call 12", [*talk, *self._call(12)])

    def _call(self, step: int) -> list[dict[str, Any]]:
        use = {"type": "tool_use", "id": f"toolu_{step:04}", "name": "Read", "input": {"path": f"notes/{step}.txt"}}
        # The mark of what may be cached moves to the last message each time.
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": self.text(40)}
        return [
            {"role": "assistant", "content": [{"type": "text", "text": self.text(10)}, use]},
            {"role": "user", "content": [{**result, "cache_control": {"type": "ephemeral"}}]},
        ]


class Codex(Recording):
    """Codex by the Responses API: it stores nothing here, and sends everything again, thoughts as it got them included."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        parameters = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
        grammar = {"type": "grammar", "syntax": "lark", "definition": PATCH_GRAMMAR}
        self.tools: list[dict[str, Any]] = [
            {"type": "function", "name": name, "description": self.text(60), "strict": False, "parameters": parameters}
            for name in ("exec_command", "write_stdin", "update_plan", "view_image")
        ]
        self.tools += [
            {"type": "custom", "name": "apply_patch", "description": self.text(60), "format": grammar},
            {"type": "web_search", "external_web_access": False},
            {"type": "local_shell"},
        ]

    def send(self, name: str, items: list[dict[str, Any]]) -> None:
        body = {
            "model": "Agent",
            "instructions": self.rules,
            "input": items,
            "tools": self.tools,
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "store": False,
            "stream": True,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
            "text": {"verbosity": "low"},
            "client_metadata": {"x-codex-installation-id": "0199a213"},
            # Codex leaves it out, but this model never ends by itself.
            "max_output_tokens": 4,
        }
        reply = self._server.post("/v1/responses", body, headers={"session_id": "0199a213", "originator": "codex_cli_rs"})
        assert reply.status_code == 200, reply.text
        ignored = set(reply.headers["X-Hearth-Ignored"].split(", "))
        assert ignored == {"tools.4.format.lark", "tools.5.web_search", "tools.6.local_shell"}
        last = json.loads(reply.text.rpartition("\ndata: ")[2])
        assert (last["type"], last["response"]["store"]) == ("response.incomplete", False)
        usage = last["response"]["usage"]
        n_prompt = usage["input_tokens"]
        self.read.append((name, n_prompt - usage["input_tokens_details"]["cached_tokens"], n_prompt))

    @override
    def play(self) -> None:
        beginning = [self._message("developer", 60), self._message("user", 30)]
        items = [*beginning, self._message("user", 40)]
        self.send("first", items)
        for step in range(CALLS):
            items = [*items, *self._call(step)]
            self.send(f"call {step}", items)
        done, summarize = self._message("assistant", 10), self._message("user", 60)
        self.send("compaction", [*items, done, summarize])
        items = [*beginning, self._message("user", 100)]
        self.send("after it", items)
        self.send("call 12", [*items, *self._call(12)])

    def _message(self, role: str, words: int) -> dict[str, Any]:
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": self.text(words)}]}

    def _call(self, step: int) -> list[dict[str, Any]]:
        thoughts, call_id = self.text(15), f"call_{step:04}"
        summary = [{"type": "summary_text", "text": thoughts}]
        reasoning = {"type": "reasoning", "summary": summary, "content": None, "encrypted_content": sealed(thoughts)}
        if step % 4 == 3:
            patch = f"*** Begin Patch\n*** Update File: {step}.txt\n+{self.text(10)}\n*** End Patch"
            call = {"type": "custom_tool_call", "call_id": call_id, "name": "apply_patch", "input": patch}
            return [reasoning, call, {"type": "custom_tool_call_output", "call_id": call_id, "output": self.text(20)}]
        arguments = json.dumps({"cmd": f"cat notes/{step}.txt"})
        call = {"type": "function_call", "call_id": call_id, "name": "exec_command", "arguments": arguments}
        return [reasoning, call, {"type": "function_call_output", "call_id": call_id, "output": self.text(40)}]


AGENTS: dict[str, type[Recording]] = {"Claude Code": ClaudeCode, "Codex": Codex}


# Codex with the hybrid model takes 24 seconds: that pair is the command's alone.
@pytest.mark.parametrize(("agent", "kind"), [("Claude Code", "plain"), ("Claude Code", "hybrid"), ("Codex", "plain")])
def test_a_session_reads_what_is_new(tmp_path: Path, agent: str, kind: str) -> None:
    with agents_server(tmp_path, kind) as server:
        recording = AGENTS[agent](server)
        recording.play()
    shares = {name: read / n_prompt for name, read, n_prompt in recording.read}
    assert recording.read[0][2] > 10_000
    assert {name: share for name, share in shares.items() if name.startswith("call") and share > MOST} == {}
    # Qwen's template leaves out the thoughts before a user's new message: everything behind the first of them is read.
    assert shares["compaction"] < (0.25 if agent == "Codex" else MOST)
    # The system prompt and the tools are the same as before.
    assert shares["after it"] < 0.05


def _main() -> None:
    for agent, recorded in AGENTS.items():
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder, agents_server(Path(folder), kind) as running:
                recording = recorded(running)
                recording.play()
                print(f"{agent}, {kind}")
                for name, read, n_prompt in recording.read:
                    print(f"  {name:12} {read:6} of {n_prompt:6} tokens: {100 * read / n_prompt:5.1f} %")


if __name__ == "__main__":
    _main()
