"""The model that both servers run: a llama of 0.4 B parameters with seeded random weights, in Q4_0.

It writes words of benchmarks/harness/words.py for ever: only their rows of the output matrix are not zero, so that no end
of text, no byte and no half word is ever the most likely token, and an answer is as long as the request allows. Each of its
tokens is a space and a word, which reads back as that very token.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt

from benchmarks.harness.servers import SYNTHETIC
from benchmarks.harness.words import SYLLABLES

DIM = 1024
LAYERS = 24
FFN = 4096
HEADS = 16
KV_HEADS = 2
N_CTX_TRAIN = 8192
SEED = 0
# Small enough that activations stay near 1 through all layers, large enough that the text moves them.
SPREAD = 0.03

END = "<|end|>"
Array = npt.NDArray[np.float16 | np.float32]


def make_model(folder: Path) -> Path:
    """Return the model's file in `folder`, made if missing (0.25 GB; making it takes 1 GB and a minute)."""
    path = folder / SYNTHETIC
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        whole, part = folder / "synthetic-f16.gguf", path.with_suffix(".part")
        write_f16(whole)
        quantize(whole, part)
        whole.unlink()
        part.rename(path)
    return path


def write_f16(path: Path) -> None:
    """Write the model in F16."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Synthetic 0.4 B")
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tokens, merges = vocabulary()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    for name, array in tensors(len(tokens)):
        writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(whole: Path, path: Path) -> None:
    """Write the model `whole` to `path` in Q4_0, with llama.cpp's quantizer. Raises RuntimeError if it fails."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    if llama_cpp.llama_model_quantize(bytes(whole), bytes(path), params):
        raise RuntimeError(f"llama.cpp could not quantize {whole.name}")


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Return the tokens, and the merges that make them from bytes, in order.

    The speakers' names come first. Letters merge to syllables, a space and a syllable to a word's beginning, and that and
    a syllable to a word.
    """
    space = "Ġ"
    names = [("H", "u"), ("Hu", "m"), ("Hum", "a"), ("Huma", "n"), ("A", "I")]
    letters = [(syllable[0], syllable[1]) for syllable in SYLLABLES]
    beginnings = [(space, syllable) for syllable in SYLLABLES]
    words = [(space + first, second) for first, second in product(SYLLABLES, SYLLABLES)]
    merges = names + letters + beginnings + words
    return [END, *byte_tokens(), *(left + right for left, right in merges)], merges


def byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2's vocabulary writes them: printable ones as they are, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def tensors(n_tokens: int) -> Iterator[tuple[str, Array]]:
    """Yield the weights by name."""
    rng = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int, spread: float = SPREAD) -> Array:
        return (rng.standard_normal((rows, columns), np.float32) * spread).astype(np.float16)

    ones = np.ones(DIM, np.float32)
    n_words = len(SYLLABLES) ** 2
    yield "token_embd", matrix(n_tokens, DIM, 1.0)
    yield "output_norm", ones
    yield "output", np.concatenate([np.zeros((n_tokens - n_words, DIM), np.float16), matrix(n_words, DIM)])
    kv_dim = DIM // HEADS * KV_HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm", ones
        yield block + "ffn_norm", ones
        yield block + "attn_q", matrix(DIM, DIM)
        yield block + "attn_k", matrix(kv_dim, DIM)
        yield block + "attn_v", matrix(kv_dim, DIM)
        yield block + "attn_output", matrix(DIM, DIM)
        yield block + "ffn_gate", matrix(FFN, DIM)
        yield block + "ffn_up", matrix(FFN, DIM)
        yield block + "ffn_down", matrix(DIM, FFN)
