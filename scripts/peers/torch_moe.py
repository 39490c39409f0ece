"""Trains the model of a Conclave recipe in PyTorch on the CPU: the comparison of scripts/bench_peers.

Batches have texts of similar length, padded in advance; torch_training.py lists the other optimizations. Words are
hashed into pieces instead of taken from a learned vocabulary, with about the same number of tokens per text.

    conclave recipe show recipes/quick.toml --set moe.balancer=bias > all.toml; python torch_moe.py all.toml

prints one JSON object. tokens_per_second is the median over the steps after the warm-up, without padding.
"""

import itertools
import random
import zlib

import torch
from torch import nn
from torch.nn import functional as F

from torch_training import layers_of, read_arguments, tell, train

WINDOW = 256  # batches of texts that are sorted together, as in data/dynamic_batcher.h
PIECE = 5  # characters per token: gives 18 tokens per text; 4,000 to 16,000 learned subwords give 19 to 15.5


class Classifier(nn.Module):
    def __init__(self, recipe, classes):
        super().__init__()
        model, data = recipe["model"], recipe["data"]
        hidden = model["hidden"]
        self.tokens = nn.Embedding(data["vocabulary"], hidden)
        self.positions = nn.Embedding(data["max_length"], hidden)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.embedding_dropout = nn.Dropout(model["embedding_dropout"])
        self.layers = layers_of(recipe)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(model["dropout"])
        self.head = nn.Linear(2 * hidden, classes)
        self.wide = Wide(recipe, classes) if model["bigrams"] > 0 else None  # with a loss of its own
        self.masked_bias = nn.Parameter(torch.zeros(data["vocabulary"]))
        self.token_dropout, self.guess = model["token_dropout"], recipe["train"]["masked_weight"] > 0

    def forward(self, tokens, present):
        """tokens [texts, length]; present [texts, length], or None if all texts have the same length.
        Returns the classes' scores, and the loss of predicting hidden tokens (None in evaluation)."""
        seen, hidden = tokens, None
        if self.training and self.token_dropout > 0:
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


def inference_model(recipe, classes):
    """A Classifier for evaluation: it computes scores alone, and always the same ones."""
    model = Classifier(recipe, classes).eval()
    tokens = torch.arange(recipe["data"]["max_length"])[None] % recipe["data"]["vocabulary"]
    with torch.inference_mode():
        (scores, guessed), (again, _) = model(tokens, None), model(tokens, None)
    if guessed is not None or not torch.equal(scores, again):
        raise SystemExit("torch_moe: the model trains where it is to be evaluated")
    return model


class Wide(nn.Module):
    """The linear model of tokens and bigrams. Bigrams are hashed in advance instead of looked up."""

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
    arguments, recipe = read_arguments(__doc__)
    data, settings = recipe["data"], recipe["train"]
    if data["source"] != "wordnet" or data["classes"] != "noun":
        raise SystemExit("torch_moe: only recipes on WordNet's nouns")
    texts = read_nouns(data["path"] or "/usr/share/wordnet", data["vocabulary"], data["max_length"])
    tokens_per_text = sum(len(tokens) for tokens, _ in texts) / len(texts)
    chosen = batches_of(texts, settings["batch_tokens"], random.Random(recipe["run"]["seed"]))
    chosen = chosen[:arguments.warmup + arguments.steps]

    model = Classifier(recipe, 26)
    batches = []
    for batch in chosen:
        *inputs, count = padded(batch)
        batches.append(((*inputs, model.wide.features(batch) if model.wide else None), count))

    def loss_of(run, tokens, present, labels, features):
        scores, guessed = run(tokens, present)
        loss = F.cross_entropy(scores, labels, label_smoothing=settings["label_smoothing"])
        if guessed is not None:
            loss = loss + settings["masked_weight"] * guessed
        if model.wide:
            loss = loss + model.wide(features, labels)
        return loss

    speed, loss = train(model, recipe, arguments, batches, loss_of)
    rectangle, held = sum(inputs[0].numel() for inputs, _ in batches), sum(count for _, count in batches)
    tell(model, tokens_per_second=speed, tokens_per_text=round(tokens_per_text, 2),
         padding=round(1 - held / rectangle, 4), last_loss=loss)


if __name__ == "__main__":
    main()
