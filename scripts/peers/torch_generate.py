"""Generates images with a model that Conclave trained, in PyTorch on the CPU: for scripts/bench_peers.

It is optimized for speed: batches as large as those of recipes/inference/image_sampler.cpp, with each image and its unconditional
guide in the same pass; fused attention; rows sorted by expert; values that are equal in all steps are computed once.

    conclave export RUN weights.safetensors
    conclave generate RUN --text "ankle boot" --count 16 --scale 1 --out grid.png
    python torch_generate.py RUN weights.safetensors --text "ankle boot" --count 16 --compare grid.png

prints one JSON object. seconds_per_image is the median of the passes after the first. The noise is the same as
Conclave's, so the images should equal those of grid.png. levels_apart is their difference, in levels of 255; a mean
above 0.5 is an error.
"""

import json
import math

import numpy
import torch
from PIL import Image
from torch.nn import functional as F

from trained import Linear, Trunk, argument_parser, opened, timed

BATCH = 64  # images per forward pass
TIME_FEATURES = 64


def normal_noise(seed, count):
    """The same numbers as kernels::normal_noise: Box-Muller of Philox4x32-10, with one block for each number."""
    index = numpy.arange(count, dtype=numpy.uint64)
    low = numpy.uint64(0xFFFFFFFF)
    c = [index & low, index >> numpy.uint64(32), numpy.zeros_like(index), numpy.zeros_like(index)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = numpy.uint64(0xD2511F53) * c[0], numpy.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> numpy.uint64(32)) ^ c[1] ^ numpy.uint64(k0), p1 & low,
             (p0 >> numpy.uint64(32)) ^ c[3] ^ numpy.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    first, second = (((c[i] << numpy.uint64(32) | c[i + 1]) >> numpy.uint64(11)) * 2.0**-53 for i in (0, 2))
    return torch.from_numpy(numpy.sqrt(-2 * numpy.log(1 - first)) * numpy.cos(2 * math.pi * second)).float()


class Generator:
    def __init__(self, recipe, tensors):
        self.trunk = Trunk(recipe, tensors)
        self.patch_in, self.time_in, self.time_out, self.patch_out = (
            Linear(tensors, f"generate/{name}") for name in ("patch_in", "time_in", "time_out", "patch_out"))
        self.positions = tensors["generate/position_embedding/weight"]
        self.frequencies = 1000.0 ** (torch.arange(TIME_FEATURES // 2) / (TIME_FEATURES // 2 - 1))

    def texts(self, *texts):
        """A list of tensors [rows, hidden], one for each text; all have the same number of rows."""
        return [self.trunk.tokens[tokens] + self.trunk.positions[:len(tokens)] for tokens in texts]

    def velocities(self, x, time, texts):
        """x [images, patches, size] -> velocities [texts, images, patches, size], one for each text"""
        angles = self.frequencies * time
        told = self.time_out(F.gelu(self.time_in(torch.cat([angles.cos(), angles.sin()]))))
        patches = self.patch_in(x) + self.positions
        rows = torch.cat([
            torch.cat([patches + (told + text.mean(0)), text.expand(len(x), -1, -1)], 1) for text in texts])
        y = self.trunk(rows)[:, :patches.shape[1]]
        return self.patch_out(y).view(len(texts), *x.shape)

    @torch.inference_mode()
    def sample(self, noise, text, hidden, steps, guidance):
        """Samples by the midpoint method, with two velocities per step."""
        texts = self.texts(text, hidden) if guidance != 1 else self.texts(text)
        images = []
        for x in noise.split(BATCH):
            def follow(at, time, step):
                told, *untold = self.velocities(at, time, texts)
                return x + step * (torch.lerp(untold[0], told, guidance) if untold else told)

            for step in range(steps):
                middle = follow(x, step / steps, 0.5 / steps)
                x = follow(middle, (step + 0.5) / steps, 1 / steps)
            images.append(x)
        return torch.cat(images)


def pixels(patches, side, height, width):
    """[images, patches, size] in -1 .. 1 -> [images, height, width, channels] bytes"""
    levels = ((patches + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    grid = levels.view(len(patches), height // side, width // side, side, side, -1)
    return grid.transpose(2, 3).reshape(len(patches), height, width, -1).numpy()


def shown(path, count, height, width):
    """Cuts a grid of `conclave generate --scale 1` into its images: ceil(sqrt(count)) per row, gaps of 2 pixels."""
    grid = numpy.asarray(Image.open(path))
    grid = grid.reshape(*grid.shape[:2], -1)
    columns = math.ceil(math.sqrt(count))
    corners = [(i // columns * (height + 2), i % columns * (width + 2)) for i in range(count)]
    return numpy.stack([grid[top:top + height, left:left + width] for top, left in corners])


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--side", type=int, default=28, help="pixels along an image's sides")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compare", metavar="GRID", help="the same images by Conclave, *.png")
    arguments, recipe, tensors, tokenizer = opened(parser)
    generator = Generator(recipe, tensors)
    text = tokenizer.encode(arguments.text)[:recipe["data"]["max_length"]]
    patches, size = len(generator.positions), generator.patch_in.weight.shape[1]
    noise = normal_noise(arguments.seed, arguments.count * patches * size).view(-1, patches, size)
    hidden = [tokenizer.unknown] * len(text)
    drawn, seconds = timed(
        arguments.passes, lambda: generator.sample(noise, text, hidden, arguments.steps, arguments.guidance))
    said = {"seconds_per_image": seconds / arguments.count, "images": arguments.count}
    if arguments.compare:
        side = arguments.side
        apart = numpy.abs(pixels(drawn, recipe["generate"]["patch"], side, side).astype(int)
                          - shown(arguments.compare, arguments.count, side, side))
        if apart.mean() > 0.5:
            raise SystemExit(f"torch_generate: images {apart.mean():.2f} of 255 from those of {arguments.compare}; "
                             "are they of the same run, text, seed, steps, guidance and number?")
        said |= {"levels_apart": {"mean": round(float(apart.mean()), 5), "most": int(apart.max())}}
    print(json.dumps(said | {"torch": torch.__version__}))


if __name__ == "__main__":
    main()
