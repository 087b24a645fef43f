"""GGUF files made for tests: random weights, and the guide's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.support.serving import ROOT

GUIDE = ROOT / "models" / "guide.gguf"


# In the guide's vocabulary: what stands before it are special tokens and bytes.
_FIRST_WORD = 300


def write_random_model(
    path: Path,
    *,
    dim: int = 512,
    layers: int = 8,
    ffn: int = 1408,
    n_ctx: int = 4096,
    pre: str = "gpt-2",
    certain: bool = False,
    fills_gaps: bool = False,
    bos: str = "",
) -> Path:
    """A llama of random weights in F16, which goes on talking until it is stopped.

    `certain`: one that takes as long, and of which each token alone chooses the next, far before all others. `fills_gaps`:
    its last tokens are those around a gap. `bos`: the token with which its prompts begin; "": none.
    """
    rng = np.random.default_rng(0)
    tokens = guide_tokens()
    writer = _llama(path, tokens, dim=dim, layers=layers, ffn=ffn, n_ctx=n_ctx, pre=pre, bos=bos)
    for n, name in enumerate(("fim_pre", "fim_suf", "fim_mid") if fills_gaps else ()):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", len(tokens) - 1 - n)

    def matrix(name: str, *shape: int) -> None:
        weights = rng.standard_normal(shape, np.float32) * 0.05
        if certain and name.endswith(("attn_output", "ffn_down")):
            weights *= 0
        writer.add_tensor(f"{name}.weight", weights.astype(np.float16))
        if certain and name == "token_embd":
            # Words only, in a circle, into which every other token leads.
            follows = np.roll(np.arange(len(tokens)), 1)
            follows[[_FIRST_WORD]] = len(tokens) - 1
            outputs = weights[follows] * (np.arange(len(tokens)) >= _FIRST_WORD)[:, None]
            outputs[_FIRST_WORD] += 0.3 * weights[:_FIRST_WORD].sum(0)
            writer.add_tensor("output.weight", outputs.astype(np.float16))

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
    return write_file(writer, path)


def write_parrot_model(path: Path, text: str) -> Path:
    """A llama that answers whatever it is asked with `text`, in pieces of a few characters, at temperature 0.

    Each piece is a token of its own. Nothing is computed in its one layer, so that a token's embedding alone chooses the
    next one: the first piece after any other token, and after the last one the end.
    """
    known = guide_tokens()
    pieces = _unique_pieces(text, set(known))
    return write_chain(path, [*known, *pieces], pieces)


def write_chain(
    path: Path,
    tokens: list[str],
    said: Sequence[str],
    special: Mapping[str, gguf.TokenType] | None = None,
    suppressed: Sequence[str] = (),
) -> Path:
    """A llama with these tokens that says those of `said`, each of which is there once, and then ends its answer.

    Those of `suppressed` are named in the file as never to be written.
    """
    ids = [tokens.index(each) for each in said]
    dim, ffn = -(-(len(ids) + 2) // 64) * 64, 64
    writer = _llama(path, tokens, dim=dim, layers=1, ffn=ffn, n_ctx=4096, pre="gpt-2", special=special)
    if suppressed:
        writer.add_array("tokenizer.ggml.suppress_tokens", [tokens.index(each) for each in suppressed])
    # The directions are at right angles: 0 is any other token's, n that of the n-th that is said.
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
    return write_file(writer, path)


class _Weights:
    """Adds random weights to a model that is written, and the header's numbers under its architecture's name."""

    def __init__(self, path: Path, architecture: str, *, dim: int, layers: int, n_ctx: int) -> None:
        self._rng = np.random.default_rng(0)
        self._architecture = architecture
        self.path, self.tokens = path, guide_tokens()
        self.writer = write_header(path, architecture, self.tokens, dim=dim, layers=layers, n_ctx=n_ctx)
        self.writer.add_layer_norm_rms_eps(1e-5)
        self.matrix("token_embd", len(self.tokens), dim)

    def numbers(self, **named: int | list[int] | list[bool]) -> None:
        """Add metadata of the architecture; of two underscores one is a dot."""
        for name, value in named.items():
            key = f"{self._architecture}.{name.replace('__', '.')}"
            if isinstance(value, list):
                self.writer.add_array(key, value)
            else:
                self.writer.add_uint32(key, value)

    def matrix(self, name: str, *shape: int, kind: type[np.generic] = np.float16, scale: float = 0.05) -> None:
        self.writer.add_tensor(f"{name}.weight", (self._rng.standard_normal(shape, np.float32) * scale).astype(kind))

    def ones(self, **sizes: int) -> None:
        for name, size in sizes.items():
            self.writer.add_tensor(f"{name.replace('__', '.')}.weight", np.ones(size, np.float32))

    def feed(self, layer: int, dim: int, ffn: int) -> None:
        for name, shape in (("ffn_gate", (ffn, dim)), ("ffn_up", (ffn, dim)), ("ffn_down", (dim, ffn))):
            self.matrix(f"blk.{layer}.{name}", *shape)

    def attend(self, layer: int, dim: int, n_head: int, n_head_kv: int, head: int, norms: bool = True) -> None:
        for name, rows in (("attn_q", n_head), ("attn_k", n_head_kv), ("attn_v", n_head_kv)):
            self.matrix(f"blk.{layer}.{name}", rows * head, dim)
        self.matrix(f"blk.{layer}.attn_output", dim, n_head * head)
        if norms:
            self.ones(**{f"blk__{layer}__attn_q_norm": head, f"blk__{layer}__attn_k_norm": head})

    def scan(self, layer: int, dim: int, state: int, norms: bool = False) -> None:
        """A Mamba's layer, which forgets what it read over some hundred tokens; `norms`: a Jamba's."""
        inner, kernel, rank = 2 * dim, 4, 16
        self.matrix(f"blk.{layer}.ssm_in", 2 * inner, dim)
        self.matrix(f"blk.{layer}.ssm_conv1d", inner, kernel, kind=np.float32)
        self.matrix(f"blk.{layer}.ssm_x", rank + 2 * state, inner)
        self.matrix(f"blk.{layer}.ssm_dt", inner, rank)
        self.matrix(f"blk.{layer}.ssm_out", dim, inner)
        for name, shape in (("ssm_conv1d.bias", (inner,)), ("ssm_dt.bias", (inner,)), ("ssm_d", (inner,))):
            self.writer.add_tensor(f"blk.{layer}.{name}", np.ones(shape, np.float32))
        self.writer.add_tensor(f"blk.{layer}.ssm_a", np.full((inner, state), -0.01, np.float32))
        if norms:
            for name, size in (("ssm_dt_norm", rank), ("ssm_b_norm", state), ("ssm_c_norm", state)):
                self.ones(**{f"blk__{layer}__{name}": size})

    def write(self) -> Path:
        return write_file(self.writer, self.path)


def write_window_model(path: Path, *, window: int = 64, layers: int = 6, n_ctx: int = 2048) -> Path:
    """A Gemma 3 of random weights: of six layers, all but the last see `window` tokens."""
    dim, ffn, head = 128, 256, 64
    made = _Weights(path, "gemma3", dim=dim, layers=layers, n_ctx=n_ctx)
    made.numbers(feed_forward_length=ffn, attention__head_count=4, attention__head_count_kv=2)
    made.numbers(attention__key_length=head, attention__value_length=head, attention__sliding_window=window)
    made.ones(output_norm=dim)
    for n in range(layers):
        made.attend(n, dim, 4, 2, head)
        made.feed(n, dim, ffn)
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            made.ones(**{f"blk__{n}__{name}": dim})
    return made.write()


def write_sharing_model(path: Path) -> Path:
    """A Gemma 4 of random weights: the file says which layers have a window; the last two have no KV cache of their own."""
    dim, ffn, head, window_head, heads_kv = 128, 256, 128, 64, [2, 1, 2, 1, 2, 1]
    windowed = [True, False, True, False, True, False]
    made = _Weights(path, "gemma4", dim=dim, layers=6, n_ctx=2048)
    made.numbers(feed_forward_length=ffn, attention__head_count=4, attention__head_count_kv=heads_kv)
    made.numbers(attention__key_length=head, attention__value_length=head, attention__shared_kv_layers=2)
    made.numbers(attention__key_length_swa=window_head, attention__value_length_swa=window_head)
    made.numbers(attention__sliding_window=64, attention__sliding_window_pattern=windowed)
    made.numbers(embedding_length_per_layer_input=0)
    made.ones(output_norm=dim, rope_freqs=head // 2)
    for n in range(6):
        made.attend(n, dim, 4, heads_kv[n], window_head if windowed[n] else head)
        made.feed(n, dim, ffn)
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            made.ones(**{f"blk__{n}__{name}": dim})
    return made.write()


def write_recurrent_model(path: Path, *, dim: int = 256, state: int = 64, layers: int = 4) -> Path:
    """A Mamba of random weights, which has no KV cache."""
    made = _Weights(path, "mamba", dim=dim, layers=layers, n_ctx=2048)
    made.numbers(ssm__conv_kernel=4, ssm__inner_size=2 * dim, ssm__state_size=state, ssm__time_step_rank=16)
    made.ones(output_norm=dim)
    for n in range(layers):
        made.ones(**{f"blk__{n}__attn_norm": dim})
        made.scan(n, dim, state)
    return made.write()


def write_long_hybrid_model(path: Path) -> Path:
    """A Jamba of random weights: layers with a KV cache, and others with a state of a fixed size and a long memory."""
    dim, ffn, state, heads_kv = 128, 256, 16, [0, 2, 0, 2]
    made = _Weights(path, "jamba", dim=dim, layers=4, n_ctx=2048)
    made.numbers(feed_forward_length=ffn, attention__head_count=4, attention__head_count_kv=heads_kv)
    made.numbers(ssm__conv_kernel=4, ssm__inner_size=2 * dim, ssm__state_size=state, ssm__time_step_rank=16)
    made.ones(output_norm=dim)
    for n in range(4):
        made.ones(**{f"blk__{n}__attn_norm": dim, f"blk__{n}__ffn_norm": dim})
        made.feed(n, dim, ffn)
        if heads_kv[n]:
            made.attend(n, dim, 4, 2, dim // 4, norms=False)
        else:
            made.scan(n, dim, state, norms=True)
    return made.write()


def write_hybrid_model(path: Path, *, n_ctx: int = 2048) -> Path:
    """An LFM2 of random weights: layers with a KV cache, and others whose state, of a fixed size, is of two tokens."""
    dim, ffn, kernel, heads_kv = 256, 256, 3, [0, 2, 0, 2]
    made = _Weights(path, "lfm2", dim=dim, layers=4, n_ctx=n_ctx)
    made.numbers(feed_forward_length=ffn, attention__head_count=4, attention__head_count_kv=heads_kv)
    made.numbers(shortconv__l_cache=kernel)
    made.ones(token_embd_norm=dim)
    for n in range(4):
        made.ones(**{f"blk__{n}__attn_norm": dim, f"blk__{n}__ffn_norm": dim})
        made.feed(n, dim, ffn)
        if heads_kv[n]:
            made.attend(n, dim, 4, 2, dim // 4)
        else:
            made.matrix(f"blk.{n}.shortconv.conv", dim, kernel, kind=np.float32, scale=1)
            made.matrix(f"blk.{n}.shortconv.in_proj", 3 * dim, dim)
            made.matrix(f"blk.{n}.shortconv.out_proj", dim, dim)
    return made.write()


def write_twin_token_model(path: Path) -> Path:
    """A llama whose vocabulary has a token twice, for which llama.cpp ends the process."""
    tokens, dim = [*guide_tokens(), "again", "again"], 64
    writer = _llama(path, tokens, dim=dim, layers=1, ffn=64, n_ctx=256, pre="gpt-2")
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", np.zeros((len(tokens), dim), np.float16))
    return write_file(writer, path)


@cache
def _guide(name: str) -> tuple[Any, ...]:
    """An array of the guide's metadata: the reader takes a fifth of a second for the file."""
    return tuple(_guide_reader().fields[f"tokenizer.ggml.{name}"].contents())


@cache
def _guide_reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(GUIDE)


def guide_tokens() -> list[str]:
    """The guide's vocabulary, spelled as GPT-2 spells it: special tokens, bytes, and what its merges make of them."""
    return list(_guide("tokens"))


def guide_pieces(word: str) -> list[str]:
    """A word as the guide's merges cut it."""
    merges = {merge: n for n, merge in enumerate(_guide("merges"))}
    pieces = list(gpt2_spelling(word))
    while pairs := [(merges[pair], n) for n, pair in enumerate(map(" ".join, pairwise(pieces))) if pair in merges]:
        _, n = min(pairs)
        pieces[n : n + 2] = [pieces[n] + pieces[n + 1]]
    return pieces


def gpt2_spelling(text: str) -> str:
    """`text` as GPT-2's vocabularies spell it: a character for each byte, from 256 on for those that are not printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in text.encode())


def _unique_pieces(text: str, taken: set[str]) -> list[str]:
    """`text` cut into tokens as GPT-2 spells them, none of which is among `taken` or comes twice."""
    written = gpt2_spelling(text)
    pieces: list[str] = []
    while written:
        n = next((n for n in range(5, len(written)) if written[:n] not in taken), len(written))
        # What would be left is too short to be the only one of its kind.
        n = len(written) if len(written) - n < 5 else n
        pieces.append(written[:n])
        taken.add(written[:n])
        written = written[n:]
    return pieces


def _llama(
    path: Path,
    tokens: list[str],
    *,
    dim: int,
    layers: int,
    ffn: int,
    n_ctx: int,
    pre: str,
    special: Mapping[str, gguf.TokenType] | None = None,
    bos: str = "",
) -> gguf.GGUFWriter:
    """The header of a llama in F16 with the guide's vocabulary; the tokens beyond that and `bos` as in `write_header`."""
    writer = write_header(path, "llama", tokens, dim=dim, layers=layers, n_ctx=n_ctx, pre=pre, special=special, bos=bos)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(dim // 64)
    writer.add_head_count_kv(dim // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    return writer


def write_header(
    path: Path,
    architecture: str,
    tokens: list[str],
    *,
    dim: int,
    layers: int,
    n_ctx: int,
    pre: str = "gpt-2",
    special: Mapping[str, gguf.TokenType] | None = None,
    bos: str = "",
    eos: str = "",
) -> gguf.GGUFWriter:
    """Begin a model in F16 with the guide's vocabulary and what `tokens` has beyond that: plain tokens, but for `special`.

    `bos` and `eos` are texts of tokens; "": the guide's.
    """
    types = list(_guide("token_type"))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Made for a test")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(_guide("merges"))
    types = [*types, *[gguf.TokenType.NORMAL] * (len(tokens) - len(types))]
    for token, kind in (special or {}).items():
        types[tokens.index(token)] = kind
    writer.add_token_types(types)
    writer.add_bos_token_id(tokens.index(bos) if bos else 0)
    writer.add_eos_token_id(tokens.index(eos) if eos else 0)
    writer.add_add_bos_token(bool(bos))
    return writer


def write_file(writer: gguf.GGUFWriter, path: Path) -> Path:
    """Write the whole model to `path`, and return that."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_embedding_model(path: Path, dim: int = 64, ranks: bool = False, n_ctx: int = 64) -> Path:
    """A small BERT, which makes embeddings, or ranks texts, and cannot go on writing one."""
    rng = np.random.default_rng(0)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581w{n}" for n in range(95))]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(dim)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
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
    add("position_embd.weight", n_ctx, dim)
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        add(f"{name}.weight", dim)
        add(f"{name}.bias", dim)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
        # Where attention is spread, the first token, which is ranked, knows of all others.
        scale = np.float32(0.05 if ranks and name in ("attn_q", "attn_k") else 1)
        writer.add_tensor(f"blk.0.{name}.weight", scale * rng.standard_normal((dim, dim), np.float32))
        add(f"blk.0.{name}.bias", dim)
    if ranks:
        # Small, since a score is from 0 to 1.
        for name, rows in (("cls", dim), ("cls.output", 1)):
            writer.add_tensor(f"{name}.weight", 0.1 * rng.standard_normal((rows, dim), np.float32))
            writer.add_tensor(f"{name}.bias", 0.1 * rng.standard_normal(rows, np.float32))
    return write_file(writer, path)


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
    shapes = {tensor.name: tensor.shape for tensor in _guide_reader().tensors}
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight"):
        n_in, n_out = (int(n) for n in shapes[name])
        writer.add_tensor(f"{name}.lora_a", (rng.standard_normal((8, n_in + extra)) * 0.1).astype(dtype))
        writer.add_tensor(f"{name}.lora_b", (rng.standard_normal((n_out, 8)) * 0.1).astype(dtype))
    return write_file(writer, path)
