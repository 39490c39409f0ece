"""The program of scripts/reproduce, run after the build: trains, measures, prints tables, draws."""

import argparse
import json
from pathlib import Path

import integers
import mixture
import multimodal
import pictures
from reproduction import OUT


def main():
    parts = {"mixture": mixture.mixture, "encoder": multimodal.encoder, "sharing": multimodal.sharing, "emoji": multimodal.emoji,
             "integers": integers.integers}
    parser = argparse.ArgumentParser(prog="scripts/reproduce", description="Measures what the reference design claims.")
    parser.add_argument("--only", nargs="+", choices=[*parts, "pictures"], default=list(parts), metavar="PART",
                        help=f"of {', '.join(parts)}; or pictures, which draws README's from trained runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=mixture.TASKS, default=list(mixture.TASKS), help="of mixture")
    parser.add_argument("--variants", nargs="+", choices=mixture.VARIANTS, default=list(mixture.VARIANTS), help="of mixture")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="of every recipe, as in conclave train")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where pictures looks for trained recipes")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)

    saved = OUT / "results.json"
    for part, measure in parts.items():
        if part in arguments.only:
            results = json.loads(saved.read_text()) if saved.exists() else {}
            saved.write_text(json.dumps(results | measure(arguments), indent=1))
            print(f"\n{saved}, and plots beside it")
    if "pictures" in arguments.only:
        pictures.draw(arguments.runs)


if __name__ == "__main__":
    main()
