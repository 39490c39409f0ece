#!/usr/bin/env bash
# A resumed run gives the same bits as one that never stopped.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
mkdir runs
cp -r "$CONCLAVE_TRAINED" runs/
rm runs/quick/step-*20.h5
on_ranks 2 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" --resume auto \
  --set train.steps=20 --set run.log_every=2 --set checkpoint.every=10 --set run.trace_step=7
says "resumed from" "at step 10"
for folder in "$CONCLAVE_TRAINED" runs/quick; do
  conclave 0 export "$folder" model.safetensors
  sha256sum <model.safetensors >>sums
done
[[ $(sort -u sums | wc -l) == 1 ]] || {
  echo "FAILED: the resumed run's model differs"
  exit 1
}

# Resuming an earlier checkpoint of the folder sets later metrics aside together with their checkpoints. A folder stands
# for its newest complete checkpoint. Differences in the recipe are reported.
cp -r runs/quick runs/branch
conclave 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" --resume runs/branch/step-00000010.h5 \
  --set run.directory=runs/branch --set train.steps=12 --set moe.top_k=1 --set run.seed=9 --set run.log_every=3
says "at step 10" "moe.top_k = 1 (2 there)" "train.steps = 12 (20 there)" "runs/branch/earlier"
says "run.seed = 9 (1 there)," "warning: run.seed = 9 (1 there) gives this epoch another order"
[[ $output != *log_every* ]]
[[ $(tail -n 1 runs/branch/earlier/metrics.jsonl) == '{"step":20,'* ]]
[[ $(tail -n 1 runs/branch/metrics.jsonl) == '{"step":12,'* ]]
conclave 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" --resume runs/branch --set run.directory=runs/other \
  --set train.steps=12 --set moe.top_k=1 --set run.seed=9
says "resumed from runs/branch/step-00000012.h5" "no steps are left"
[[ $output != *"recipe is not"* ]]
# A finished run that is resumed is tested again, and its metrics have the test once.
for _ in 1 2; do
  conclave 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" --resume auto --set run.directory=runs/branch \
    --set train.steps=12 --set moe.top_k=1
  says "no steps are left" "test: accuracy"
  [[ $(grep -c '"test/' runs/branch/metrics.jsonl) == 1 && $(tail -n 1 runs/branch/metrics.jsonl) == '{"step":12,'*'"test/'* ]]
  [[ $(grep -c '"validation/' runs/branch/metrics.jsonl) == 1 ]]
done
conclave 1 train "$CONCLAVE_SOURCE/recipes/quick.toml" --resume runs/branch --set train.steps=11 --set run.directory=runs/other
says "it is at step 12, but train.steps gives 11 steps in all"

# Only one run at a time may work in a folder.
exec 9>runs/other/lock
flock 9
conclave 1 train "$CONCLAVE_SOURCE/recipes/quick.toml" --set run.directory=runs/other --set train.steps=1
says "runs/other: another process is at work in this folder"
exec 9>&-

# A new run sets the files of an older one aside instead of using them.
on_ranks 2 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" --set train.steps=2
says "2 checkpoints that this run does not go on from are now in runs/quick/earlier"
[[ $(compgen -G 'runs/quick/step-*') == *00002.h5 && $(compgen -G 'runs/quick/earlier/step-*' | wc -l) == 2 ]]
[[ $(tail -n 1 runs/quick/earlier/metrics.jsonl) == '{"step":20,'* ]]
[[ -f runs/quick/earlier/trace-00000007.json && ! -e runs/quick/trace-00000007.json ]]
[[ $(compgen -G 'runs/quick/events.*' | wc -l) == 1 && $(compgen -G 'runs/quick/earlier/events.*' | wc -l) == 2 ]]

# With nothing to resume, --resume auto starts from the beginning, so a job can be restarted with the same command.
on_ranks 2 0 train "$CONCLAVE_SOURCE/recipes/quick.toml" --resume auto --set train.steps=2 \
  --set run.directory=runs/new
[[ $output != *"resumed from"* ]]
