"""The model of a Conclave recipe, trained by PyTorch on the CPU: what scripts/bench_peers compares with.

It is written for speed, as a practised PyTorch user would: batches of texts of like length, padded
beforehand; fused attention; rows sorted by expert once per layer, so that each expert is two dense products;
fused AdamW. Words are hashed into pieces rather than taken from a learned vocabulary, with about as many
tokens per text.

    conclave recipe show recipes/quick.toml > all.toml; python torch_moe.py all.toml

prints one JSON object; tokens_per_second is the median over the steps after the warm-up, padding not counted.
"""

import argparse
import itertools
import json
import random
import statistics
import time
import tomllib
import zlib

import torch
from torch import nn
from torch.nn import functional as F

WINDOW = 256  # batches whose texts are sorted together, as in data/dynamic_batcher.h
PIECE = 5  # characters of a word that make a token: 18 a text; 4,000 to 16,000 learned subwords give 19 to 15.5


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)

    def forward(self, x, mask):
        batch, length, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(batch, length, hidden))


class Experts(nn.Module):
    def __init__(self, hidden, ffn, experts, top_k, bias_rate):
        super().__init__()
        self.top_k, self.bias_rate = top_k, bias_rate
        self.router = nn.Linear(hidden, experts, bias=False)
        self.up = nn.ModuleList(nn.Linear(hidden, ffn) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(ffn, hidden) for _ in range(experts))
        self.register_buffer("selection_bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts, dtype=torch.long))

    def forward(self, x):
        rows = x.flatten(0, 1)
        probabilities = self.router(rows).softmax(-1)
        chosen = (probabilities + self.selection_bias).topk(self.top_k, sorted=False).indices
        weights = probabilities.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.flatten()
        order = flat.argsort()
        self.load = flat.bincount(minlength=len(self.up))
        tokens = order // self.top_k
        parts = rows.index_select(0, tokens).split(self.load.tolist())
        results = [down(F.gelu(up(part))) for up, down, part in zip(self.up, self.down, parts)]
        results = torch.cat(results) * weights.flatten().index_select(0, order).unsqueeze(1)
        return torch.zeros_like(rows).index_add(0, tokens, results).view_as(x)

    @torch.no_grad()
    def balance(self):
        load = self.load.float()
        self.selection_bias += self.bias_rate * (load.mean() - load).sign()


class Layer(nn.Module):
    def __init__(self, model, moe, with_experts):
        super().__init__()
        hidden, ffn = model["hidden"], model["ffn"]
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention = Attention(hidden, model["heads"])
        if with_experts:
            self.feed_forward = Experts(hidden, ffn, moe["experts"], moe["top_k"], moe["bias_rate"])
        else:
            self.feed_forward = nn.Sequential(nn.Linear(hidden, ffn), nn.GELU(), nn.Linear(ffn, hidden))
        self.dropout = nn.Dropout(model["dropout"])

    def forward(self, x, mask):
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Classifier(nn.Module):
    def __init__(self, recipe, classes):
        super().__init__()
        model, moe, data = recipe["model"], recipe["moe"], recipe["data"]
        if moe["shared_experts"] > 0 or moe["balancer"] not in ("bias", "none") or moe["top_p"] < 1:
            raise SystemExit("torch_moe: only recipes without shared experts, auxiliary loss, and top_p below 1")
        if moe["balancer"] == "none":
            moe["bias_rate"] = 0.0
        hidden = model["hidden"]
        self.tokens = nn.Embedding(data["vocabulary"], hidden)
        self.positions = nn.Embedding(data["max_length"], hidden)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.embedding_dropout = nn.Dropout(model["embedding_dropout"])
        self.layers = nn.ModuleList(
            Layer(model, moe, (i + 1) % moe["every"] == 0) for i in range(model["layers"]))
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(model["dropout"])
        self.head = nn.Linear(2 * hidden, classes)
        self.wide = Wide(recipe, classes) if model["bigrams"] > 0 else None  # with a loss of its own
        self.masked_bias = nn.Parameter(torch.zeros(data["vocabulary"]))
        self.token_dropout, self.guess = model["token_dropout"], recipe["train"]["masked_weight"] > 0

    def forward(self, tokens, present):
        """tokens [texts, length]; present [texts, length], or None where no text is shorter than another.
        Returns the classes' scores, and the loss of guessing the tokens that were hidden (or None)."""
        seen, hidden = tokens, None
        if self.token_dropout > 0:
            hidden = torch.rand(tokens.shape) < self.token_dropout
            if present is not None:
                hidden &= present
            seen = tokens.masked_fill(hidden, 0)
        x = self.embedding_dropout(self.tokens(seen) + self.positions.weight[:tokens.shape[1]])
        mask = None if present is None else present[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        if present is None:
            mean, largest = x.mean(1), x.amax(1)
        else:
            there = present.unsqueeze(-1)
            mean = (x * there).sum(1) / there.sum(1)
            largest = x.masked_fill(~there, -torch.inf).amax(1)
        guessed = None
        if hidden is not None and self.guess:
            scores = F.linear(x[hidden], self.tokens.weight, self.masked_bias)
            guessed = F.cross_entropy(scores, tokens[hidden])
        return self.head(self.dropout(torch.cat([mean, largest], 1))), guessed


class Wide(nn.Module):
    """The linear model of tokens and bigrams, which are hashed beforehand, not looked up."""

    def __init__(self, recipe, classes):
        super().__init__()
        self.vocabulary, self.bigrams = recipe["data"]["vocabulary"], recipe["model"]["bigrams"]
        self.table = nn.EmbeddingBag(self.vocabulary + self.bigrams + 1, classes, mode="sum")
        nn.init.zeros_(self.table.weight)

    def features(self, texts):
        bags = [tokens + [self.vocabulary + (first * 1000003 + second) % self.bigrams
                          for first, second in itertools.pairwise(tokens)] + [self.vocabulary + self.bigrams]
                for tokens, _ in texts]
        sizes = torch.tensor([len(bag) for bag in bags])
        return (torch.tensor(list(itertools.chain(*bags))), sizes.cumsum(0) - sizes,
                (10 / sizes.sqrt()).repeat_interleave(sizes))

    def forward(self, features, labels):
        """The squared hinge loss, one class against the rest."""
        scores = self.table(*features)
        targets = 2 * F.one_hot(labels, scores.shape[1]) - 1
        return (1 - targets * scores).clamp(min=0).square().mean()


def pieces(text, vocabulary, longest):
    words = (word[i:i + PIECE] for word in text.split() for i in range(0, len(word), PIECE))
    return [zlib.crc32(word.encode()) % vocabulary for word in itertools.islice(words, longest)]


def read_nouns(directory, vocabulary, longest):
    """(tokens, class) of every noun's gloss."""
    texts = []
    with open(f"{directory}/data.noun", encoding="utf-8") as file:
        for line in file:
            if not line.startswith("  "):
                head, gloss = line.split("| ", 1)
                texts.append((pieces(gloss, vocabulary, longest), int(head.split()[1]) - 3))
    return texts


def padded(texts):
    length = max(len(tokens) for tokens, _ in texts)
    tokens = torch.tensor([tokens + [0] * (length - len(tokens)) for tokens, _ in texts])
    lengths = torch.tensor([len(tokens) for tokens, _ in texts])
    present = None if int(lengths.min()) == length else torch.arange(length) < lengths[:, None]
    return tokens, present, torch.tensor([label for _, label in texts]), int(lengths.sum())


def batches_of(texts, budget, randomness):
    randomness.shuffle(texts)
    per_window = WINDOW * budget * len(texts) // sum(len(tokens) for tokens, _ in texts)
    batches, batch, size = [], [], 0
    for number, start in enumerate(range(0, len(texts), per_window)):
        window = sorted(texts[start:start + per_window], key=lambda text: len(text[0]), reverse=number % 2)
        for text in window:
            if size + len(text[0]) > budget:
                batches.append(batch)
                batch, size = [], 0
            batch.append(text)
            size += len(text[0])
    randomness.shuffle(batches)
    return batches


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", help="complete, as `conclave recipe show` prints it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="measured")
    parser.add_argument("--warmup", type=int, default=10, help="steps before")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model, with dynamic shapes")
    arguments = parser.parse_args()
    with open(arguments.recipe, "rb") as file:
        recipe = tomllib.load(file)
    data, train = recipe["data"], recipe["train"]
    if data["source"] != "wordnet" or data["classes"] != "noun":
        raise SystemExit("torch_moe: only recipes on WordNet's nouns")

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(recipe["run"]["seed"])
    texts = read_nouns(data["path"] or "/usr/share/wordnet", data["vocabulary"], data["max_length"])
    tokens_per_text = sum(len(tokens) for tokens, _ in texts) / len(texts)
    batches = batches_of(texts, train["batch_tokens"], random.Random(recipe["run"]["seed"]))
    batches = batches[:arguments.warmup + arguments.steps]

    model = Classifier(recipe, 26)
    plain = model
    features = [plain.wide.features(batch) if plain.wide else None for batch in batches]
    batches = [padded(batch) for batch in batches]
    if arguments.compile:
        model = torch.compile(model, dynamic=True)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=train["learning_rate"],
                                  betas=(train["beta1"], train["beta2"]), eps=train["epsilon"],
                                  weight_decay=train["weight_decay"], fused=True)
    parameters = [parameter.detach() for parameter in plain.parameters()]
    averages = [parameter.clone() for parameter in parameters] if train["ema"] > 0 else []
    speeds, loss = [], None
    for step, (tokens, present, labels, count) in enumerate(batches):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        scores, guessed = model(tokens, present)
        loss = F.cross_entropy(scores, labels, label_smoothing=train["label_smoothing"])
        if guessed is not None:
            loss = loss + train["masked_weight"] * guessed
        if plain.wide:
            loss = loss + plain.wide(features[step], labels)
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), train["clip_norm"], foreach=True)
        optimizer.step()
        if averages:
            torch._foreach_lerp_(averages, parameters, 1 - train["ema"])
        for layer in plain.layers:
            if isinstance(layer.feed_forward, Experts):
                layer.feed_forward.balance()
        if step >= arguments.warmup:
            speeds.append(count / (time.perf_counter() - start))
    rectangle, held = sum(batch[0].numel() for batch in batches), sum(batch[3] for batch in batches)
    print(json.dumps({
        "tokens_per_second": statistics.median(speeds),
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "tokens_per_text": round(tokens_per_text, 2),
        "padding": round(1 - held / rectangle, 4),
        "last_loss": round(loss.item(), 4),
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
