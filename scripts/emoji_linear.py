"""Linear models of emoji's groups, which recipes/emoji_group.toml is held to: logistic regression on TF-IDF of the
texts, on pixels, and on both, of the emoji and the split that data/emoji.h describes. Prints them as JSON."""

import io
import json
import re
import xml.etree.ElementTree
import zlib

import numpy
import scipy.sparse
from fontTools.ttLib import TTFont
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/emoji/emoji-test.txt"
ANNOTATIONS = "/usr/share/unicode/cldr/common/annotations/en.xml"
SIDE = 32
STRENGTHS = [10.0**k for k in range(-4, 5)]  # C, of which validation takes the best


def read(side=SIDE):
    """(split, group, name, text, glyph) of every emoji of one code point that has a picture, and what draws a glyph."""
    root = xml.etree.ElementTree.parse(ANNOTATIONS).getroot()
    keywords = {a.get("cp"): [k.strip() for k in a.text.split("|")] for a in root.iter("annotation") if not a.get("type")}
    font = TTFont(FONT)
    glyphs, pictures = font.getBestCmap(), font["CBDT"].strikeData[0]
    emoji, group = [], None
    for line in open(NAMES, encoding="utf-8"):
        if line.startswith("# group:"):
            group = line[len("# group:"):].strip()
        found = re.match(r"([0-9A-F ]+?) *; fully-qualified *# \S+ E\S+ (.*)", line)
        codes = [int(code, 16) for code in found[1].split() if code != "FE0F"] if found else []
        if len(codes) == 1 and codes[0] in glyphs:
            bucket = zlib.crc32(f"{codes[0]:X}".encode()) % 10
            text = ", ".join([found[2], *keywords.get(chr(codes[0]), [])])
            emoji.append(({8: "validation", 9: "test"}.get(bucket, "train"), group, found[2], text, glyphs[codes[0]]))
    return emoji, lambda glyph: picture(pictures[glyph].imageData, side)


def picture(png, side):
    """The middle square, on white, as Conclave's models see it: [side, side, 3], from 0 to 1."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    left = (image.width - image.height) // 2
    square = image.crop((left, 0, left + image.height, image.height))
    return numpy.asarray(square.resize((side, side), Image.Resampling.BOX), dtype=float) / 255


def fit(features, labels, split):
    """Test accuracy in percent of the model that validates best; of equals, the more regular."""
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
    lines = numpy.array([text for *_, text, _ in emoji])
    vectorizer.fit(lines[split == "train"])
    return vectorizer.transform(lines)


def measure():
    """Accuracies by features; of the texts with and without the words of the groups' names, which give some away."""
    emoji, draw = read()
    split = numpy.array([e[0] for e in emoji])
    labels = numpy.array([e[1] for e in emoji])
    group_words = sorted({word for group in labels for word in re.findall(r"\w+", group.lower())})
    pixels = numpy.array([draw(glyph).ravel() for *_, glyph in emoji])
    pixels = (pixels - pixels[split == "train"].mean(0)) / (pixels[split == "train"].std(0) + 1e-6)
    results = {"examples": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
               "image": fit(pixels, labels, split)}

    for name, left_out in ("text", None), ("text_without_group_words", group_words):
        tried = [fit(texts(emoji, split, left_out, pairs), labels, split) | {"pairs": bool(pairs)} for pairs in (0, 1)]
        results[name] = max(tried, key=lambda result: result["validation"])
    scaled = scipy.sparse.csr_matrix(pixels / numpy.sqrt(pixels.shape[1]))  # of the length that a text has
    both = scipy.sparse.hstack([texts(emoji, split, None, results["text"]["pairs"]), scaled]).tocsr()
    results["both"] = fit(both, labels, split)
    return results


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
