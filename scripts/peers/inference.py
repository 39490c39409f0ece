"""Image generation and captioning by Conclave and by PyTorch, alternating on the same cores, with the same weights:
for scripts/bench_peers.

    python inference.py build/release/conclave --threads 2

Prints seconds per image, of one image by itself and of many in batches, and captions per second of both, as medians over
the rounds, and how many times faster Conclave is; for images also in INT8, by `conclave quantize`. Starting and reading a
model are not timed. In each round, Conclave computes images in batches and captions once; PyTorch computes once more
before it is timed. torch_generate.py and torch_caption.py check that the results are the same.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
RECIPES = HERE.parent.parent / "recipes"
IMAGES = 192  # so many that Conclave's resolution of a tenth of a second is small
DRAWING = ["--text", "ankle boot", "--count", IMAGES, "--steps", 12, "--guidance", 3]
ALONE = 25  # images that are drawn one by one
FIGURE = re.compile(r"one image of 12 steps, (\w+) \.+ median ([\d.]+) ms")
WRITING = ["--split", "train"]  # over a thousand images, so that the first use of memory takes a small part
# Training does not change the speed of generation, but it changes the length of captions.
STEPS = {"fashion_generate": ["--set", "train.steps=4"], "emoji_caption": []}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("conclave", help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=pathlib.Path,
                        help="folder of trained fashion_generate and emoji_caption; left out, they are trained now")
    arguments = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}

    def run(*command):
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"inference: {command[0]} {command[1]} failed: {done.stderr[-2000:]}")
        return done.stdout

    def conclave(*command):
        return run(arguments.conclave, *command)

    def torch(program, recipe, *options):
        return json.loads(run(sys.executable, HERE / program, runs / recipe, work / f"{recipe}.safetensors",
                              "--threads", arguments.threads, *options))

    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        runs = arguments.runs or work
        for recipe, steps in STEPS.items():
            if arguments.runs is None:
                conclave("train", RECIPES / f"{recipe}.toml", "--set", f"run.directory={work / recipe}", *steps)
            conclave("export", runs / recipe, work / f"{recipe}.safetensors")
        conclave("quantize", runs / "fashion_generate", "--out", work / "integers")
        found = []
        print(f"{'':8} {'s/image, Conclave':>20} {'INT8':>10} {'PyTorch':>10} {'one by one, Conclave':>22} {'INT8':>10} "
              f"{'PyTorch':>10} {'captions/s, Conclave':>22} {'PyTorch':>10}")
        for number in range(1, arguments.rounds + 1):
            grid, captions = work / "grid.png", work / "captions.jsonl"
            in_integers = conclave("generate", work / "integers", *DRAWING, "--scale", 1, "--out", work / "integers.png")
            said = conclave("generate", runs / "fashion_generate", *DRAWING, "--scale", 1, "--out", grid)
            drawn = torch("torch_generate.py", "fashion_generate", *DRAWING, "--passes", 1,
                          "--compare", grid)
            alone = dict(FIGURE.findall(conclave("bench", "latency", "--checkpoint", runs / "fashion_generate",
                                                 "--repetitions", ALONE // 5)))
            drawn_alone = torch("torch_generate.py", "fashion_generate", *DRAWING, "--count", 1, "--passes", ALONE)
            captions.write_text(conclave("caption", runs / "emoji_caption", *WRITING))
            summary = json.loads(captions.read_text().splitlines()[-1])
            written = torch("torch_caption.py", "emoji_caption", *WRITING, "--compare", captions)
            seconds = [float(re.search(r" in ([\d.]+) s", text)[1]) / IMAGES for text in (said, in_integers)]
            found.append([*seconds, drawn["seconds_per_image"], float(alone["f32"]) / 1e3, float(alone["INT8"]) / 1e3,
                          drawn_alone["seconds_per_image"], summary["captions_per_second"],
                          written["captions_per_second"]])
            row(number, found[-1])
    medians = [statistics.median(values) for values in zip(*found)]
    row("median", medians)
    image, integers, image_peer, one, one_integers, one_peer, caption, caption_peer = medians
    print(f"Conclave is {image_peer / image:.2f} times as fast as PyTorch at images in batches (target 2.4), "
          f"{image_peer / integers:.2f} in INT8; {one_peer / one:.2f} at one image by itself, {one_peer / one_integers:.2f} in "
          f"INT8; and {caption / caption_peer:.2f} at captions (target 2)")
    print(f"PyTorch's last: {json.dumps(drawn)} {json.dumps(written)}; {arguments.threads} threads")


def row(name, values):
    print("{:8} {:20.4f} {:10.4f} {:10.4f} {:22.4f} {:10.4f} {:10.4f} {:22.0f} {:10.0f}".format(str(name), *values), flush=True)


if __name__ == "__main__":
    main()
