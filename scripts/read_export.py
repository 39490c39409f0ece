"""Classifies texts with a model that Conclave exported to HDF5, in integers or not, using only numpy and h5py. Shows
all that a program needs to know about the file. Reads models like those of recipes/quick.toml.

    conclave quantize runs/quick --out runs/quick_int8; conclave export runs/quick_int8 model.h5
    python scripts/read_export.py model.h5 "a small domesticated animal"      (without texts: a list of the tensors)
"""

import functools
import math
import sys
import tomllib
import unicodedata

import h5py
import numpy as np

file = h5py.File(sys.argv[1])
recipe = tomllib.loads(file.attrs["recipe"].decode())
LIKE_QUICK = {"model": {"embedding": 0, "share_layers": False},
              "moe": {"every": 1, "router": "linear", "gate": "top_k", "top_p": 1, "expert": "feed_forward", "shared_experts": 0,
                      "balance_inference": False}}
# Characters that SentencePiece removes, and those that it replaces by a space.
ALSO = {**dict.fromkeys([*range(1, 9), 11, *range(14, 32), 0x7F, 0x8F, 0x9F]),
        **dict.fromkeys(map(ord, "\t\n\f\r\u1680\u200b\u200c\u200e\u200f\u2028\u2029\u2581\ufeff\ufffd"), " ")}


@functools.cache
def read(name):
    """Reads a tensor; multiplies integers by the scales of their output channels."""
    values, scale = file[name][()], file[name].attrs.get("scale")
    return values if scale is None else values * file[scale.decode()][()][..., None]


def normalized(text):
    """NFKC except for full-width tildes, and lower case where it replaces one letter by one."""
    text = "\uff5e".join(unicodedata.normalize("NFKC", part) for part in text.translate(ALSO).split("\uff5e"))
    return "".join(next(lower for lower in (c.casefold(), c.lower(), c) if len(lower) == 1) for c in text)


def tokens_of(text, pieces):
    """The most probable division into pieces (Viterbi). A run of characters that no piece has becomes one token 0."""
    text = "".join("\u2581" + word for word in normalized(text).split(" ") if word)
    best = [(0.0, [])] + [(-math.inf, [])] * len(text)
    for end in range(1, len(text) + 1):
        for begin in range(max(0, end - 16), end):
            token, score = pieces.get(text[begin:end], (0, -100.0 if end == begin + 1 else -math.inf))
            best[end] = max(best[end], (best[begin][0] + score, best[begin][1] + [token]))
    tokens = [token for token, before in zip(best[-1][1], [1, *best[-1][1]]) if token or before]
    return tokens[:recipe["data"]["max_length"]]


def linear(x, name, expert=...):
    y = x @ read(f"{name}/weight")[expert].T
    return y + read(f"{name}/bias")[expert] if f"{name}/bias" in file else y


def norm(x, name):
    x = x - x.mean(1, keepdims=True)
    return x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * read(f"{name}/weight") + read(f"{name}/bias")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(x, name):
    heads = recipe["model"]["heads"]
    q, k, v = linear(x, f"{name}/qkv").reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)
    seen = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])) @ v
    return linear(seen.transpose(1, 0, 2).reshape(x.shape), f"{name}/out")


def experts(x, name):
    p = softmax(linear(x, f"{name}/router"))
    bias, factor = f"{name}/router/selection_bias", f"{name}/router/selection_factor"
    best = np.argsort(-p * (read(factor) if factor in file else 1) - (read(bias) if bias in file else 0), 1)
    weights = np.zeros_like(p)
    np.put_along_axis(weights, best[:, :recipe["moe"]["top_k"]], 1, 1)
    weights *= p / np.maximum((weights * p).sum(1, keepdims=True), 1e-30)
    y = np.zeros_like(x)
    for expert in range(p.shape[1]):
        rows = weights[:, expert] > 0
        inner = linear(x[rows], f"{name}/experts/up", expert)
        inner = inner * 0.5 * (1 + np.array([math.erf(value) for value in inner.flat / np.sqrt(2)]).reshape(inner.shape))
        y[rows] += weights[rows, expert, None] * linear(inner, f"{name}/experts/down", expert)
    return y


def wide(tokens):
    """The linear model: the sum of the rows of the tokens, of the pairs of tokens that it knows, and of one for all texts."""
    table, known = read("wide/weight"), file["wide/bigrams"][()]
    pairs = np.array([(one << 32) | other for one, other in zip(tokens, tokens[1:])], np.int64)
    places = np.searchsorted(known, pairs[np.isin(pairs, known)])
    rows = [*tokens, *(len(table) - 1 - len(known) + places), len(table) - 1]
    return table[rows].sum(0) * 10 / math.sqrt(len(rows))


def class_of(text):
    pieces = {piece: (number, score) for number, (piece, score)
              in enumerate(zip(file["tokenizer/pieces"].asstr(), file["tokenizer/scores"], strict=True))
              if score < 0}  # other pieces do not occur in texts
    tokens = tokens_of(text, pieces) or [0]
    x = read("token_embedding/weight")[tokens] + read("position_embedding/weight")[:len(tokens)]
    for layer in (f"layers/{i}" for i in range(recipe["model"]["layers"])):
        x = x + attention(norm(x, f"{layer}/attention_norm"), f"{layer}/attention")
        x = x + experts(norm(x, f"{layer}/feed_forward_norm"), f"{layer}/moe")
    x = norm(x, "final_norm")
    scores = linear(np.concatenate([x.mean(0), x.max(0)]), "head")
    return softmax(scores + recipe["model"]["bigram_weight"] * wide(tokens) if "wide" in file else scores)


def show(name, item):
    if "axes" in item.attrs:
        print(f"{name:50} {item.dtype} {item.shape} {item.attrs['axes'].decode()}: {item.attrs['meaning'].decode()}")


def main():
    own = "head" in file and "tokenizer" in file and "image" not in file and b"<SEP>" not in file["tokenizer/pieces"][()]
    if sys.argv[2:] and not own:
        sys.exit("read_export: knows models with one text to classify, not with images, pairs of texts or other tasks")
    for part, settings in LIKE_QUICK.items():
        for key, value in settings.items():
            if sys.argv[2:] and recipe[part][key] != value:
                sys.exit(f"read_export: knows models with {part}.{key} = {value}, not {recipe[part][key]}")
    for text in sys.argv[2:]:
        shares = class_of(text)
        print(f"{file['class_names'].asstr()[shares.argmax()]}\t{shares.max():.4f}\t{text}")
    if len(sys.argv) == 2:
        file.visititems(show)


if __name__ == "__main__":
    main()
