"""A linear model that classifies WordNet's glosses, as a baseline for recipes/quick.toml: a linear SVM on TF-IDF of words
and pairs of words. data/wordnet.h describes the glosses, the classes and the split. Also counts the test glosses that are
training glosses, too. Prints JSON. Needs scikit-learn, which scripts/setup --bench installs.
    build/bench_venv/bin/python scripts/wordnet_linear.py [noun|all]"""

import argparse
import json
import sys
import zlib
from pathlib import Path

try:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.svm import LinearSVC
except ImportError as error:
    sys.exit(f"wordnet_linear: {error}; scripts/setup --bench installs it in build/bench_venv")

FOLDER = Path("/usr/share/wordnet")  # of Debian's package wordnet-base
STRENGTHS = [0.5, 1.0, 2.0, 4.0, 8.0]  # values of C; validation chooses the best


def read(parts):
    """{split: ([gloss], [class])}"""
    result = {split: ([], []) for split in ("train", "validation", "test")}
    for part in parts:
        for line in (FOLDER / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition(" | ")
            offset, label = fields.split(" ", 2)[:2]
            split = {18: "validation", 19: "test"}.get(zlib.crc32(f"{part}{offset}".encode()) % 20, "train")
            result[split][0].append(gloss.strip())
            result[split][1].append(int(label))
    return result


def measure(parts):
    """Test accuracy in percent, and macro F1, of the C with the best validation accuracy."""
    splits = read(parts)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features = {"train": vectorizer.fit_transform(splits["train"][0])}
    features |= {split: vectorizer.transform(splits[split][0]) for split in ("validation", "test")}
    best = None
    for strength in STRENGTHS:
        model = LinearSVC(C=strength, random_state=0).fit(features["train"], splits["train"][1])
        score = model.score(features["validation"], splits["validation"][1])
        if best is None or score > best[0]:
            best = score, strength, model
    validation, strength, model = best
    labels, answers = splits["test"][1], model.predict(features["test"])
    seen = set(zip(*splits["train"]))
    return {
        "examples": {split: len(glosses) for split, (glosses, _) in splits.items()},
        "accuracy": 100 * sum(answers == labels) / len(labels),
        "macro F1": f1_score(labels, answers, average="macro"),
        "validation": 100 * validation,
        "C": strength,
        "test glosses that are training glosses of the same class": sum(example in seen for example in zip(*splits["test"])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n    ")[0])
    parser.add_argument("classes", nargs="?", choices=["noun", "all"], default="noun", help="26 classes, or 45")
    classes = parser.parse_args().classes
    print(json.dumps(measure(["noun"] if classes == "noun" else ["noun", "verb", "adj", "adv"]), indent=1))


if __name__ == "__main__":
    main()
