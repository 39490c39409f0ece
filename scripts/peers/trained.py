"""A model that Conclave trained, in PyTorch: shared by torch_generate.py and torch_caption.py.

The weights come from `conclave export RUN weights.safetensors`, the tokenizer from the run's newest checkpoint.
"""

import argparse
import math
import pathlib
import statistics
import time
import tomllib

import h5py
import torch
from safetensors import safe_open
from torch.nn import functional as F


def argument_parser(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", help="folder with the checkpoints")
    parser.add_argument("weights", help="exported from it, *.safetensors")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=3, help="after one that is not timed")
    return parser


def opened(parser):
    """Parses the command line; returns the arguments, and the model's recipe, tensors by name and tokenizer."""
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with safe_open(arguments.weights, "pt") as file:
        recipe, tensors = tomllib.loads(file.metadata()["recipe"]), {name: file.get_tensor(name) for name in file.keys()}
    return arguments, recipe, tensors, Tokenizer(arguments.run)


def timed(passes, work):
    """Returns the result of work() and its time in seconds, the median of the passes after the first."""
    seconds = []
    for _ in range(1 + passes):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds[1:])


class Linear:
    def __init__(self, tensors, name):
        self.weight, self.bias = tensors[f"{name}/weight"], tensors[f"{name}/bias"]

    def __call__(self, x):
        return F.linear(x, self.weight, self.bias)


class LayerNorm:
    def __init__(self, tensors, name):
        self.weight, self.bias = tensors[f"{name}/weight"], tensors[f"{name}/bias"]

    def __call__(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class FeedForward:
    def __init__(self, tensors, name):
        self.up, self.down = Linear(tensors, f"{name}/up"), Linear(tensors, f"{name}/down")

    def __call__(self, x):
        return self.down(F.gelu(self.up(x)))


class Experts:
    """A mixture of experts. Rows are sorted by expert, so each expert is two dense products and no row is dropped."""

    def __init__(self, tensors, name, top_k):
        self.top_k = top_k
        self.router = tensors[f"{name}/router/weight"]
        self.selection_bias = tensors.get(f"{name}/router/selection_bias")
        parts = [tensors[f"{name}/experts/{part}"].unbind()
                 for part in ("up/weight", "up/bias", "down/weight", "down/bias")]
        self.experts = list(zip(*parts))

    def __call__(self, x):
        rows = x.flatten(0, -2)
        probabilities = F.linear(rows, self.router).softmax(-1)
        scores = probabilities if self.selection_bias is None else probabilities + self.selection_bias
        chosen = scores.topk(self.top_k, sorted=False).indices
        flat = chosen.flatten()
        order = flat.argsort()
        tokens = order if self.top_k == 1 else order // self.top_k
        parts = rows.index_select(0, tokens).split(flat.bincount(minlength=len(self.experts)).tolist())
        results = torch.cat([F.linear(F.gelu(F.linear(part, up, up_bias)), down, down_bias)
                             for part, (up, up_bias, down, down_bias) in zip(parts, self.experts)])
        if self.top_k == 1:  # its weight is 1
            return torch.empty_like(rows).index_copy_(0, order, results).view_as(x)
        weights = probabilities.gather(1, chosen)
        weights = (weights / weights.sum(-1, keepdim=True)).flatten().index_select(0, order)
        return torch.zeros_like(rows).index_add_(0, tokens, results.mul_(weights.unsqueeze(1))).view_as(x)


class Layer:
    def __init__(self, tensors, name, recipe, with_experts):
        self.heads = recipe["model"]["heads"]
        self.attention_norm = LayerNorm(tensors, f"{name}/attention_norm")
        self.qkv, self.out = (Linear(tensors, f"{name}/attention/{part}") for part in ("qkv", "out"))
        self.feed_forward_norm = LayerNorm(tensors, f"{name}/feed_forward_norm")
        self.feed_forward = (Experts(tensors, f"{name}/moe", recipe["moe"]["top_k"]) if with_experts
                             else FeedForward(tensors, f"{name}/feed_forward"))

    def __call__(self, x, cache, place):
        """cache: None, or [2, sequences, heads, rows, width]; the rows of this pass are written from `place` on."""
        batch, length, hidden = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        causal = False
        if cache is not None:
            end = place + length
            cache[0, :, :, place:end], cache[1, :, :, place:end] = k, v
            k, v = cache[:, :, :, :end]
            causal = length > 1
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, hidden))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Trunk:
    def __init__(self, recipe, tensors):
        model, moe = recipe["model"], recipe["moe"]
        others = {"embedding": model["embedding"] > 0, "share_layers": model["share_layers"],
                  "router": moe["router"] != "linear", "gate": moe["gate"] != "top_k",
                  "top_p": moe["top_p"] < 1, "shared_experts": moe["shared_experts"] > 0,
                  "expert": moe["expert"] != "feed_forward", "balance_inference": moe["balance_inference"],
                  "modality_experts": moe["modality_experts"] != "shared"}
        if any(others.values()):
            raise SystemExit("trained: not written for the recipe's " + ", ".join(k for k in others if others[k]))
        self.heads, self.hidden = model["heads"], model["hidden"]
        self.tokens, self.positions = tensors["token_embedding/weight"], tensors["position_embedding/weight"]
        self.layers = [Layer(tensors, f"layers/{i}", recipe, (i + 1) % moe["every"] == 0)
                       for i in range(model["layers"])]
        self.norm = LayerNorm(tensors, "final_norm")

    def cache(self, sequences, rows):
        return torch.empty(len(self.layers), 2, sequences, self.heads, rows, self.hidden // self.heads)

    def __call__(self, x, cache=None, place=0):
        """x [sequences, rows, hidden]. With a cache, attention is causal, and x follows its first `place` rows."""
        for i, layer in enumerate(self.layers):
            x = layer(x, None if cache is None else cache[i], place)
        return self.norm(x)


class Tokenizer:
    """SentencePiece's unigram model of a run, for words in lower case."""

    UNKNOWN, CONTROL, UNUSED = 2, 3, 5

    def __init__(self, run):
        checkpoint = max(pathlib.Path(run).glob("step-*.h5"))
        with h5py.File(checkpoint) as file:
            model = file["state/tokenizer"][()].tobytes()
        self.pieces, self.scores, self.types = [], [], []
        for field, message in fields(model):
            if field == 1:
                piece = dict(fields(message))
                self.pieces.append(piece[1].decode())
                self.scores.append(piece.get(2, 0.0))
                self.types.append(piece.get(3, 1))
        self.unknown, self.end = self.types.index(self.UNKNOWN), self.pieces.index("</s>")
        self.number = {piece: i for i, piece in enumerate(self.pieces) if self.spells(i)}

    def spells(self, token):
        return self.types[token] not in (self.UNKNOWN, self.CONTROL, self.UNUSED)

    def encode(self, text):
        """The most probable pieces (Viterbi)."""
        text = "".join("\u2581" + word for word in text.lower().split())
        best = [(0.0, [])]  # for each prefix of the text
        for end in range(1, len(text) + 1):
            found = [(best[start][0] + self.scores[self.number[piece]], best[start][1] + [self.number[piece]])
                     for start in range(end) if (piece := text[start:end]) in self.number]
            best.append(max(found, default=(-math.inf, [])))
        if not best[-1][1]:
            raise SystemExit(f"trained: the tokenizer has not all letters of '{text}'")
        return best[-1][1]

    def decode(self, tokens):
        text = "".join(self.pieces[token] for token in tokens)
        return text.replace("\u2581", " ").lstrip()


def fields(message):
    """(number, value) of a protobuf message's fields: varints, floats and bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        value, at = message[at:at + size], at + size
        yield number, torch.frombuffer(bytearray(value), dtype=torch.float32).item() if kind == 5 else value
