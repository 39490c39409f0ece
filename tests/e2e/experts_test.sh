#!/usr/bin/env bash
# `conclave inspect --experts` gives the same figures and pictures on one rank and on two.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"

conclave 0 inspect "$CONCLAVE_TRAINED" --experts --out new/folder
says "on the validation split" "I(class; expert)" "of H(expert)" "of H(class)" "by chance" "expert  7  load" \
  "serves above average: noun." "%  noun." experts-layers.0.moe.svg experts-layers.0.moe.png
alone=$output
on_ranks 2 0 inspect "$CONCLAVE_TRAINED" --experts --out new/folder2
[[ ${output//folder2/folder} == "$alone" ]]
# Three texts for every expert of every MoE layer, each within 80 columns.
(($(grep -c "utilization" <<<"$alone") == 2 && $(grep -c "^  expert" <<<"$alone") == 16))
texts=$(grep "^ *[0-9]*%  noun\." <<<"$alone")
(($(wc -l <<<"$texts") == 48))
expect 1 grep -E '^.{81}' <<<"$texts"

for layer in 0 1; do
  cmp new/folder{,2}/experts-layers.$layer.moe.svg
  [[ $(head -c 4 new/folder/experts-layers.$layer.moe.png) == $'\x89PNG' ]]
done
(($(find new -type f | wc -l) == 8)) # no temporary file stays behind
expect 0 "$CONCLAVE_PYTHON" - new/folder/experts-layers.0.moe.svg <<'PYTHON'
import sys
from xml.etree import ElementTree

texts = [element.text for element in ElementTree.parse(sys.argv[1]).iter("{http://www.w3.org/2000/svg}text")]
classes = [text for text in texts if text.startswith("noun.")]
assert len(classes) == len(set(classes)) == 26, classes
values = [text for text in texts if text.replace(".", "", 1).isdigit() and "." in text]
assert len(values) == 26 * 8, len(values)
PYTHON

# A domain can also be chosen after training.
conclave 0 inspect "$CONCLAVE_TRAINED" --experts --out new/folder2 --set data.domain="medicine, anatomy, noun.body"
says "  domain medicine, anatomy, noun.body: expert " " more often than others ("
(($(grep -c "^  domain" <<<"$output") == 2))
conclave 0 eval "$CONCLAVE_TRAINED" --set data.domain="medicine, anatomy, noun.body"
says '"domain":{"name":"medicine, anatomy, noun.body","tokens":' '"ratio":' '"layers.1.moe":{"expert":'
alone=$(grep -o '"domain":.*' <<<"$output")
on_ranks 2 0 eval "$CONCLAVE_TRAINED" --set data.domain="medicine, anatomy, noun.body"
says "$alone"
on_ranks 2 0 train "$CONCLAVE_SOURCE/recipes/medical.toml" --set train.steps=3
says "test: layers.0.moe: domain medicine, anatomy, noun.body: expert 0 receives it x" "test: layers.1.moe: domain"
grep -q '"test/domain_ratio":.*"test/layers.1.moe/domain_ratio":' runs/medical/metrics.jsonl
# With a table of the user, there is no domain, nor anything else that only WordNet has.
printf 'text,label\n"the act of running",noun.act\n"a large domesticated animal",noun.animal\n' >own.csv
conclave 0 eval runs/medical --data own.csv
says '"data":"own.csv"' '"examples":2'
conclave 1 train "$CONCLAVE_SOURCE/recipes/medical.toml" --set data.domain="medicine, noun.bodi"
says "data.domain: \`noun.bodi\`" "near it are: noun.body, "

# Without --out, files are written beside the checkpoint.
mkdir run
cp "$CONCLAVE_TRAINED"/step-*20.h5 run
conclave 0 inspect run --experts --split test
says "on the test split" run/experts-layers.1.moe.png
[[ -s run/experts-layers.1.moe.svg ]]

# Refusals and their messages.
conclave 2 inspect run --experts --split nonsense
says nonsense validation
conclave 2 inspect run --split test
says --experts
conclave 1 inspect run --experts --set data.path=/nonexistent
says /nonexistent
touch file
conclave 1 inspect run --experts --out file/pictures
says file/pictures
conclave 1 inspect run --experts --out /proc
says /proc/experts-layers.0.moe.svg "cannot be opened"
on_ranks 2 1 inspect run --experts --out file/pictures
says file/pictures
