"""GGUF files made for tests: random weights, and the guide's vocabulary."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.serving import ROOT

GUIDE = ROOT / "models" / "guide.gguf"


def write_random_model(
    path: Path, *, dim: int = 512, layers: int = 8, ffn: int = 1408, n_ctx: int = 4096, pre: str = "gpt-2"
) -> Path:
    """A llama of random weights in F16, which goes on talking until it is stopped."""
    rng = np.random.default_rng(0)
    fields = gguf.GGUFReader(GUIDE).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Random")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(dim // 64)
    writer.add_head_count_kv(dim // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_token_types(fields["tokenizer.ggml.token_type"].contents())
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)

    def matrix(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (rng.standard_normal(shape, np.float32) * 0.05).astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(dim, np.float32))

    matrix("token_embd", len(tokens), dim)
    norm("output_norm")
    for i in range(layers):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{i}.{name}", dim, dim)
        matrix(f"blk.{i}.ffn_gate", ffn, dim)
        matrix(f"blk.{i}.ffn_up", ffn, dim)
        matrix(f"blk.{i}.ffn_down", dim, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_embedding_model(path: Path, dim: int = 64) -> Path:
    """A small BERT, which makes embeddings and cannot go on writing a text."""
    rng = np.random.default_rng(0)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581w{n}" for n in range(95))]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(dim)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(2)
    writer.add_token_types([gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * 95)
    for name, token in (("unk", 1), ("sep", 3), ("pad", 0), ("mask", 4)):
        getattr(writer, f"add_{name}_token_id")(token)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape, np.float32))

    add("token_embd.weight", len(tokens), dim)
    add("token_types.weight", 2, dim)
    add("position_embd.weight", 64, dim)
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        add(f"{name}.weight", dim)
        add(f"{name}.bias", dim)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
        add(f"blk.0.{name}.weight", dim, dim)
        add(f"blk.0.{name}.bias", dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(
    path: Path, *, extra: int = 0, kind: str = "lora", alpha: float | str = 8.0, dtype: type[np.generic] = np.float32
) -> Path:
    """A LoRA adapter of random weights for the guide; where `extra` is not 0, for a model that much wider."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    if isinstance(alpha, str):
        writer.add_string("adapter.lora.alpha", alpha)
    else:
        writer.add_float32("adapter.lora.alpha", alpha)
    shapes = {tensor.name: tensor.shape for tensor in gguf.GGUFReader(GUIDE).tensors}
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight"):
        n_in, n_out = (int(n) for n in shapes[name])
        writer.add_tensor(f"{name}.lora_a", (rng.standard_normal((8, n_in + extra)) * 0.1).astype(dtype))
        writer.add_tensor(f"{name}.lora_b", (rng.standard_normal((n_out, 8)) * 0.1).astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
