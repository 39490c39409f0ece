"""Emoji as in data/emoji.h, from Debian's packages, for the models that Conclave is compared with."""

import io
import re
import xml.etree.ElementTree
import zlib
from typing import NamedTuple

import numpy
from fontTools.ttLib import TTFont
from PIL import Image

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/emoji/emoji-test.txt"
ANNOTATIONS = "/usr/share/unicode/cldr/common/annotations/en.xml"


class Emoji(NamedTuple):
    split: str  # train, validation or test
    group: str
    name: str
    text: str  # name and keywords
    png: bytes


def read():
    """All emoji of one code point with a picture, in Unicode's order."""
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
        if len(codes) == 1 and glyphs.get(codes[0]) in pictures:
            bucket = zlib.crc32(f"{codes[0]:X}".encode()) % 10
            text = ", ".join([found[2], *keywords.get(chr(codes[0]), [])])
            split = {8: "validation", 9: "test"}.get(bucket, "train")
            emoji.append(Emoji(split, group, found[2], text, pictures[glyphs[codes[0]]].imageData))
    return emoji


def picture(png, side, resampling):
    """The middle square, on white: [side, side, 3] bytes. Image.BILINEAR is within a level of Conclave's."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    return numpy.asarray(image.crop((left, top, left + shorter, top + shorter)).resize((side, side), resampling))
