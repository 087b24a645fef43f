"""What went wrong in servers like this one, by its identifier, and does not here. docs/reliability.md lists them all."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from services.models.local_caches import ollama_blob
from services.models.sources import OllamaModel
from tests.support.serving import ROOT, Server
from tests.support.tiny import GUIDE, write_parrot_model

Serve = Callable[..., Server]


def with_template(path: Path, template: str) -> Path:
    """A model whose file brings a chat template."""
    write_parrot_model(path, "Here I am, as always, and I say what I said.")
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub)
    writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_suffix(".new").rename(path)


def test_a_model_files_template_runs_no_code(serve: Serve, models: Path, tmp_path: Path) -> None:
    """CVE-2024-34359 (llama-cpp-python): a chat template in a GGUF file was run by Jinja outside of a sandbox."""
    trace = tmp_path / "pwned"
    with_template(models / "evil.gguf", f"{{{{ cycler.__init__.__globals__.os.popen('touch {trace}').read() }}}}")
    server = serve(models=models)
    body = {"model": "evil.gguf", "messages": [{"role": "user", "content": "Hi"}]}
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code in (200, 400, 422)
    assert not trace.exists()
    assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."


def test_the_time_of_an_answer_tells_nothing_of_others_prompts(server: Server) -> None:
    """CVE-2025-46570 (vLLM): a prompt that another had sent was answered sooner, since its beginning was computed."""
    ana, bob = server.mint("Ana")[0], server.mint("Bob")[0]
    secret = "The safe opens with the number four one seven nine, and the key is under the third stone. "
    chat = {"model": "Guide", "messages": [{"role": "user", "content": secret * 4}], "max_tokens": 1}

    def cached(key: str) -> int:
        usage = server.post("/v1/chat/completions", chat, key=key).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    before = cached(bob)
    for _ in range(3):
        cached(ana)
    mallory = server.mint("Mallory")[0]
    assert cached(mallory) == before
    assert cached(ana) > 50


def test_headers_are_bounded_in_size_and_number(server: Server) -> None:
    """CVE-2025-48956 (vLLM): one request with huge headers took all memory."""
    for headers in ({"X-Big": "a" * 100_000}, {f"X-{n}": "a" * 100 for n in range(1000)}):
        reply = server.http.get(f"{server.url}/auth", headers={"X-Api-Key": server.key, **headers})
        assert reply.status_code == 431


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
        {"type": "something"},
        {"$ref": "#/nowhere"},
        {"properties": 5},
        {"type": "array", "items": {"type": "string", "pattern": "(a+)+$"}},
    ],
)
def test_a_schema_that_is_none_ends_nothing(server: Server, schema: Any) -> None:
    """CVE-2025-48942, CVE-2025-48943, CVE-2025-48944 (vLLM): a wrong schema, pattern or tool ended the engine."""
    messages = [{"role": "user", "content": "Hi"}]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for extra in ({"response_format": wanted}, {"tools": [tool], "tool_choice": "required"}):
        body = {"model": "Guide", "messages": messages, "max_tokens": 8, **extra}
        assert server.post("/v1/chat/completions", body).status_code in (200, 400)
    assert server.get("/readyz").status_code == 200


def test_what_llama_cpp_would_believe_is_not_passed_on(server: Server) -> None:
    """CVE-2026-21869 (llama.cpp): a negative n_discard of a request wrote beside its memory."""
    odd = {"n_discard": -1, "n_keep": -(2**31), "id_slot": 10**9, "n_predict": -2}
    for name, value in odd.items():
        assert server.post("/answer", {"prompt": "Hi", name: value}).status_code == 400
    # /v1 refuses by name what it cannot honour, and passes over what changes nothing.
    body = {"model": "Guide", "prompt": "Count to 3.", "temperature": 0, "max_tokens": 8}
    plain = server.post("/v1/completions", body).json()["choices"][0]["text"]
    for name, value in odd.items():
        reply = server.post("/v1/completions", {**body, name: value})
        if reply.status_code == 200:
            assert reply.json()["choices"][0]["text"] == plain
        else:
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
    for name in ("max_tokens", "top_k", "seed", "memory_k", "keep"):
        assert server.post("/answer", {"prompt": "Hi", "session_id": 1, name: -(2**31)}).status_code == 400


def test_manifests_of_another_program_are_read_with_care(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2024-37032 and CVE-2025-1975 (Ollama): a manifest whose digest is a path, or that has no layers."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "evil" / "latest"
    manifest.parent.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "secret").write_bytes(GUIDE.read_bytes())
    image = "application/vnd.ollama.image.model"
    for layers in (
        [{"mediaType": image, "digest": "sha256:../../secret"}],
        [{"mediaType": image, "digest": "../secret"}],
        [{"mediaType": image}],
        [],
        None,
        [5],
    ):
        manifest.write_text(json.dumps({"layers": layers}))
        with pytest.raises(Exception, match="evil") as caught:
            ollama_blob(OllamaModel("evil"))
        assert type(caught.value).__module__ == "services.errors"


def test_nothing_that_is_read_can_be_code() -> None:
    """CVE-2025-32444 (vLLM) and many more: what came from elsewhere was unpickled. Nothing here knows how to."""
    files = [path for folder in ("auth", "services", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    for path in [*files, *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", ())] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"pickle", "marshal", "shelve", "dill", "joblib"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
