"""Writes captions for test emoji with a model that Conclave trained, in PyTorch on the CPU: for scripts/bench_peers.

It is optimized for speed: batches as large as those of recipes/inference/caption_writer.cpp; greedy search with cached keys and
values; images with channels last; fused attention; rows sorted by expert; finished texts leave the batch.

    conclave export RUN weights.safetensors
    conclave caption RUN --split test > captions.jsonl
    python torch_caption.py RUN weights.safetensors --compare captions.jsonl

prints one JSON object. captions_per_second is the median of the passes after the first. same_captions is the number of
captions equal to those of captions.jsonl; less than nine in ten is an error. log_probabilities_apart is the largest
difference of their log probabilities.
"""

import json

import numpy
import torch
from PIL import Image
from torch.nn import functional as F

from emoji import picture, read as read_emoji
from trained import Linear, Trunk, argument_parser, opened, timed

BATCH = 32  # images per forward pass: recipes/inference/caption_writer.cpp's kTexts


def images_of(split, side):
    """[images, 3, side, side] bytes"""
    images = [picture(emoji.png, side, Image.BILINEAR) for emoji in read_emoji() if emoji.split == split]
    return torch.from_numpy(numpy.stack(images).transpose(0, 3, 1, 2))


class ImageEncoder:
    """MobileNetV3 with group normalization; weights are [out, height, width, in], or [height, width, channels]."""

    GROUP_CHANNELS = 8

    def __init__(self, recipe, tensors):
        if recipe["image"]["norm"] != "group" or not recipe["image"]["depthwise"]:
            raise SystemExit("torch_caption: only group normalization and depthwise convolutions")
        self.tensors = dict(tensors)
        for name, tensor in tensors.items():
            if name.startswith("image/") and tensor.dim() == 4:
                tensor = tensor.permute(0, 3, 1, 2)
            elif name.startswith("image/") and tensor.dim() == 3:
                tensor = tensor.permute(2, 0, 1).unsqueeze(1)
            self.tensors[name] = tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        self.blocks = [self.block(text.split()) for text in recipe["image"]["blocks"]]

    @staticmethod
    def block(words):
        stride = next((int(word[1:]) for word in words if word[0] == "s" and word[1:].isdigit()), 1)
        return stride, F.hardswish if "hs" in words else F.relu, "se" in words

    def convolve(self, x, name, stride=1, groups=1):
        weight = self.tensors[f"image/{name}/weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)

    def normalize(self, x, name):
        return F.group_norm(x, x.shape[1] // self.GROUP_CHANNELS, self.tensors[f"image/{name}/weight"],
                            self.tensors[f"image/{name}/bias"])

    def squeeze_excite(self, x, name):
        squeeze, excite = (Linear(self.tensors, f"image/{name}/{part}") for part in ("squeeze", "excite"))
        return x * F.hardsigmoid(excite(F.relu(squeeze(x.mean((2, 3))))))[:, :, None, None]

    def __call__(self, pixels):
        """[images, 3, side, side] bytes -> [images, rows, hidden]"""
        x = (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        x = F.hardswish(self.normalize(self.convolve(x, "stem"), "stem_norm"))
        for i, (stride, activation, excited) in enumerate(self.blocks):
            name, y = f"blocks/{i}", x
            if f"image/{name}/expand/weight" in self.tensors:
                y = activation(self.normalize(self.convolve(y, f"{name}/expand"), f"{name}/expand_norm"))
            y = self.convolve(y, f"{name}/depthwise", stride, y.shape[1])
            y = activation(self.normalize(y, f"{name}/window_norm"))
            if excited:
                y = self.squeeze_excite(y, f"{name}/squeeze_excite")
            y = self.normalize(self.convolve(y, f"{name}/project"), f"{name}/project_norm")
            x = x + y if x.shape == y.shape else y
        x = F.hardswish(self.normalize(self.convolve(x, "last"), "last_norm"))
        return x.flatten(2).transpose(1, 2)


class Captioner:
    def __init__(self, recipe, tensors, tokenizer):
        if recipe["image"]["tokens"] != "grid":
            raise SystemExit('torch_caption: only image.tokens = "grid"')
        self.encoder, self.trunk = ImageEncoder(recipe, tensors), Trunk(recipe, tensors)
        self.places, self.bias = tensors["image/position_embedding/weight"], tensors["caption/bias"]
        self.most, self.end = recipe["data"]["max_length"], tokenizer.end
        spelled = torch.tensor([tokenizer.spells(token) for token in range(len(self.bias))])
        self.within = torch.zeros(len(spelled)).masked_fill(~spelled, -torch.inf)
        self.within[self.end] = 0
        self.first = self.within.clone()
        self.first[self.end] = -torch.inf

    def guess(self, x, allowed):
        scores = F.linear(x, self.trunk.tokens, self.bias) + allowed
        best, tokens = scores.max(-1)
        return tokens, best - scores.logsumexp(-1)

    @torch.inference_mode()
    def write(self, pixels):
        """Writes captions; returns a list of tokens and a log probability for each image."""
        written = []
        for part in pixels.split(BATCH):
            captions, probabilities = [[] for _ in part], torch.zeros(len(part))
            x = self.encoder(part) + self.places
            place = x.shape[1]
            cache = self.trunk.cache(len(part), place + self.most)
            tokens, scores = self.guess(self.trunk(x, cache)[:, -1], self.first)
            active = torch.arange(len(part))
            for position in range(self.most):
                probabilities[active] += scores
                going = tokens != self.end
                if not going.all():
                    kept = going.nonzero().squeeze(1)
                    active, tokens = active[kept], tokens[kept]
                    cache = cache.index_select(2, kept)
                for image, token in zip(active.tolist(), tokens.tolist()):
                    captions[image].append(token)
                if len(active) == 0 or position + 1 == self.most:
                    break
                x = self.trunk.tokens[tokens] + self.trunk.positions[position]
                x = self.trunk(x.unsqueeze(1), cache, place + position)
                tokens, scores = self.guess(x[:, 0], self.within)
            written += zip(captions, probabilities.tolist())
        return written


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.add_argument("--compare", metavar="CAPTIONS", help="what `conclave caption RUN` printed of the same split")
    arguments, recipe, tensors, tokenizer = opened(parser)
    if recipe["data"]["source"] != "emoji":
        raise SystemExit("torch_caption: only recipes on emoji")
    captioner, images = Captioner(recipe, tensors, tokenizer), images_of(arguments.split, recipe["image"]["size"])
    written, seconds = timed(arguments.passes, lambda: captioner.write(images))
    said = {"captions_per_second": len(images) / seconds, "images": len(images),
            "tokens": sum(len(tokens) for tokens, _ in written)}
    if arguments.compare:
        with open(arguments.compare, encoding="utf-8") as file:
            theirs = [line for line in map(json.loads, file) if "caption" in line]
        if len(theirs) != len(written):
            raise SystemExit(f"torch_caption: {len(written)} images here, {len(theirs)} captions there")
        apart = [abs(probability - line["log_probability"]) for (tokens, probability), line in zip(written, theirs)
                 if tokenizer.decode(tokens) == line["caption"]]
        if len(apart) < 0.9 * len(theirs):
            raise SystemExit(f"torch_caption: of {len(theirs)} captions in {arguments.compare} only {len(apart)} are "
                             "those written here; are they of the same run?")
        said |= {"same_captions": len(apart), "log_probabilities_apart": round(max(apart, default=0.0), 5)}
    print(json.dumps(said | {"torch": torch.__version__}))


if __name__ == "__main__":
    main()
