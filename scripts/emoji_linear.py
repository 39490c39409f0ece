"""Linear models that classify emoji into groups, as a baseline for recipes/emoji_group.toml: logistic regression on
TF-IDF of the texts, on pixels, and on both. data/emoji.h describes the emoji and the split. Prints JSON. Needs scikit-learn,
which scripts/setup --bench installs.
    build/bench_venv/bin/python scripts/emoji_linear.py"""

import json
import re

import numpy
import scipy.sparse
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from peers.emoji import picture, read

SIDE = 32
STRENGTHS = [10.0**k for k in range(-4, 5)]  # values of C; validation chooses the best


def fit(features, labels, split):
    """Test accuracy in percent of the model with the best validation; among equals, the most regularized."""
    train, validation, test = (split == name for name in ("train", "validation", "test"))
    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(features[train], labels[train])
        score = model.score(features[validation], labels[validation])
        if best is None or score > best["validation"]:
            best = {"validation": score, "C": strength, "test": model.score(features[test], labels[test])}
    return {"accuracy": 100 * best["test"], "validation": 100 * best["validation"], "C": best["C"]}


def texts(emoji, split, left_out, pairs):
    vectorizer = TfidfVectorizer(token_pattern=r"\w+", stop_words=left_out, ngram_range=(1, 1 + pairs), sublinear_tf=True)
    lines = numpy.array([e.text for e in emoji])
    vectorizer.fit(lines[split == "train"])
    return vectorizer.transform(lines)


def measure():
    """Accuracies by features. For texts also without the words of the groups' names, which give some answers away."""
    emoji = read()
    split = numpy.array([e.split for e in emoji])
    labels = numpy.array([e.group for e in emoji])
    group_words = sorted({word for group in labels for word in re.findall(r"\w+", group.lower())})
    pixels = numpy.array([picture(e.png, SIDE, Image.BOX).ravel() / 255 for e in emoji])
    pixels = (pixels - pixels[split == "train"].mean(0)) / (pixels[split == "train"].std(0) + 1e-6)
    results = {"examples": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
               "image": fit(pixels, labels, split)}

    for name, left_out in ("text", None), ("text_without_group_words", group_words):
        tried = [fit(texts(emoji, split, left_out, pairs), labels, split) | {"pairs": bool(pairs)} for pairs in (0, 1)]
        results[name] = max(tried, key=lambda result: result["validation"])
    scaled = scipy.sparse.csr_matrix(pixels / numpy.sqrt(pixels.shape[1]))  # vectors as long as those of texts
    both = scipy.sparse.hstack([texts(emoji, split, None, results["text"]["pairs"]), scaled]).tocsr()
    results["both"] = fit(both, labels, split)
    return results


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
