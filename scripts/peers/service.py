"""The time to classify one text of 128 tokens, alternating between a Conclave service, over HTTP, and the same model in
PyTorch, in this process: for scripts/bench_peers.

    python service.py build/release/conclave recipe.toml --threads 2

Conclave's time is measured at the client and includes connection, JSON, tokenizer and queue; PyTorch gets tokens and
hashed bigrams. Prints the median and the 99th percentile of both, and how many times faster Conclave is.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time
import tomllib

import torch
from torch_moe import inference_model

LENGTH, TEXTS, EACH = 128, 50, 25  # tokens per text; texts; requests per turn
COMMON = "the of a in person small that with or by tree used for large from plant water his as body one".split()


class Service:
    def __init__(self, conclave, checkpoint, environment):
        command = [conclave, "serve", checkpoint, "--port=0", "--tasks=classify"]
        self.job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        line = self.job.stdout.readline()
        if not line.startswith("serving"):
            raise SystemExit("service: the service does not start")
        self.connection = http.client.HTTPConnection(line.split("://")[1].strip().strip("/"))

    def ask(self, body):
        self.connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"service: {text}")
        return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("conclave", help="the program")
    parser.add_argument("recipe", help="complete, as `conclave recipe show` prints it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    recipe = tomllib.loads(pathlib.Path(arguments.recipe).read_text())
    recipe["data"]["max_length"] = LENGTH
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    draw = random.Random(1)

    model = inference_model(recipe, 26)
    tokens = [[draw.randrange(recipe["data"]["vocabulary"]) for _ in range(LENGTH)] for _ in range(TEXTS)]
    inputs = [(torch.tensor([text]), model.wide and model.wide.features([(text, 0)])) for text in tokens]

    @torch.inference_mode()
    def peer(number):
        ids, features = inputs[number % TEXTS]
        scores, _ = model(ids, None)
        if features:
            scores = scores + recipe["model"]["bigram_weight"] * model.wide.table(*features)
        return scores.softmax(1).tolist()

    texts = [" ".join(draw.choice(COMMON) for _ in range(LENGTH)) for _ in range(TEXTS)]
    with tempfile.TemporaryDirectory() as folder:
        # The speed does not depend on the training.
        settings = [f"data.max_length={LENGTH}", f"run.directory={folder}/run", "train.steps=2"]
        subprocess.run([arguments.conclave, "train", arguments.recipe, *[f"--set={s}" for s in settings]],
                       check=True, capture_output=True, env=environment)
        service = Service(arguments.conclave, f"{folder}/run", environment)
        try:
            bodies = [json.dumps({"text": text}) for text in texts]
            seen = json.loads(service.ask(bodies[0]))["tokens"]
            if seen != LENGTH:
                raise SystemExit(f"service: a text of {seen} tokens")
            timed = {"Conclave": [], "PyTorch": []}
            for turn in range(-1, arguments.rounds):  # the first turn warms up
                for name, ask in (("Conclave", lambda n: service.ask(bodies[n % TEXTS])), ("PyTorch", peer)):
                    for number in range(EACH):
                        start = time.perf_counter()
                        ask(number)
                        if turn >= 0 and number > 4:  # the first requests refill caches after the other's turn
                            timed[name].append(1e3 * (time.perf_counter() - start))
        finally:
            service.job.terminate()
            service.job.wait()
    found = {}
    for name, times in timed.items():
        times.sort()
        found[name] = statistics.median(times), times[int(0.99 * len(times))]
        print(f"{name}: median {found[name][0]:.2f} ms, 99th percentile {found[name][1]:.2f} ms, of {len(times)}")
    ratios = [theirs / ours for ours, theirs in zip(found["Conclave"], found["PyTorch"])]
    print(f"one text of {LENGTH} tokens: {ratios[0]:.2f} times as fast as PyTorch by the median, {ratios[1]:.2f} by the "
          "99th percentile (target 1.8)")


if __name__ == "__main__":
    main()
