"""GGUF files of models that say the same tokens whatever they are asked, special tokens among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from tests.support.tiny import GUIDE


def write_scripted_model(path: Path, said: Sequence[str], controls: Sequence[str] = (), marks: Sequence[str] = ()) -> Path:
    """A llama that says the tokens `said`, each once and none of the guide's, and then ends its answer, at temperature 0.

    `controls` are further special tokens, and those in `said` that are control tokens; `marks` likewise of added tokens
    that are no control tokens. Nothing is computed in the one layer: a token's embedding alone chooses the next one.
    """
    fields = gguf.GGUFReader(GUIDE).fields
    known = list(fields["tokenizer.ggml.tokens"].contents())
    added = list(dict.fromkeys([*map(_written, said), *controls, *marks]))
    assert not set(added) & set(known), set(added) & set(known)
    tokens = [*known, *added]
    kinds = [*fields["tokenizer.ggml.token_type"].contents()]
    for each in added:
        is_control, is_mark = each in controls, each in marks
        kinds.append(
            gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED if is_mark else gguf.TokenType.NORMAL
        )
    ids = [tokens.index(_written(each)) for each in said]
    dim, ffn = -(-(len(ids) + 2) // 64) * 64, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Made for a test")
    for name, value in (("context_length", 4096), ("embedding_length", dim), ("block_count", 1)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(dim // 64)
    writer.add_head_count_kv(dim // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_token_types(kinds)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    # At right angles: direction 0 belongs to all other tokens, n to the n-th that is said.
    embeddings = np.zeros((len(tokens), dim), np.float16)
    embeddings[:, 0] = 1
    outputs = np.zeros_like(embeddings)
    for n, token in enumerate(ids):
        embeddings[token] = 0
        embeddings[token, n + 1] = 1
        outputs[token, n] = 1
    outputs[0, len(ids)] = 1
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output.weight", outputs)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(dim, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((dim, dim), np.float16))
    for name, shape in (("ffn_gate", (ffn, dim)), ("ffn_up", (ffn, dim)), ("ffn_down", (dim, ffn))):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _written(text: str) -> str:
    """A text as a token of GPT-2's vocabulary has it: a byte that is no printable sign is one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in text.encode())
