#!/usr/bin/env bash
# Trains the quick recipe for a while; later tests use the result.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
on_ranks 2 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" \
  --set train.steps=20 --set run.log_every=2 --set checkpoint.every=10 --set run.trace_step=7
says "model:" "memory per rank:" "step 7 took" "linear (backward)" "ui.perfetto.dev opens runs/quick/trace-00000007.json" "trained 20 steps" "runs/quick" "2 checkpoints held training up for"
[[ -f runs/quick/metrics.jsonl ]]
compgen -G 'runs/quick/step-*10.h5' && compgen -G 'runs/quick/step-*20.h5'
