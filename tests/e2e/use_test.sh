#!/usr/bin/env bash
# Uses of a trained model: evaluate, predict, inspect, export.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"

# Prints one JSON object, equal on one rank and on two.
conclave 0 eval "$CONCLAVE_TRAINED"
says '"step":20' '"split":"test"' '"accuracy":'
says '"utilization":' '"batch_utilization":' '"experts_per_token":2.0'
alone=$(grep -o '"accuracy":[0-9.]*' <<<"$output")
on_ranks 2 0 eval "$CONCLAVE_TRAINED"
says "$alone"
conclave 0 eval "$CONCLAVE_TRAINED" --split validation
says '"split":"validation"'

# Texts of the user, of some of the model's classes and in another order.
printf 'text,label\n"the act of running",noun.act\n"a large domesticated animal",noun.animal\n' >own.csv
conclave 0 eval "$CONCLAVE_TRAINED" --data own.csv --classes --set data.parts=4
says '"data":"own.csv"' '"examples":2' '{"class":"noun.act","examples":1,' '{"class":"noun.animal","examples":1,'
(($(wc -l <<<"$output") == 27))
reversed=$(sed -n '1p;3p;2p' own.csv) one=$(grep -o '"loss":[0-9.]*' <<<"$output")
printf '%s\n' "$reversed" >own.csv
on_ranks 2 0 eval "$CONCLAVE_TRAINED" --data own.csv
says "$one"
printf 'text,label\n"the act of running",nothing\n' >other.csv
conclave 1 eval "$CONCLAVE_TRAINED" --data other.csv
says 'a class "nothing"' noun.act
conclave 2 eval "$CONCLAVE_TRAINED" --data own.csv --split test
says "excludes"

on_ranks 2 1 predict "$CONCLAVE_TRAINED" <own.csv
says "predict runs in one process, not in 2"
on_ranks 2 1 export "$CONCLAVE_TRAINED" two.h5
says "export runs in one process, not in 2"
[[ ! -e two.h5 ]]

conclave 0 predict "$CONCLAVE_TRAINED" "a large domesticated animal" "the act of running" --top 2
says '"text":"a large domesticated animal"' '"class":"noun.' '"probability":'
(($(wc -l <<<"$output") == 2))
argument=$output
printf '%s\n' "a large domesticated animal" "the act of running" >texts
conclave 0 predict "$CONCLAVE_TRAINED" --top 2 <texts
[[ $output == "$argument" ]]

# The prediction for a text does not depend on other texts, to the last digit.
alone=$output
sed 's/.*| //' /usr/share/wordnet/data.noun | tail -n 500 >>texts
conclave 0 predict "$CONCLAVE_TRAINED" --top 2 <texts
[[ $(head -n 2 <<<"$output") == "$alone" ]]
(($(wc -l <<<"$output") == 502))

conclave 1 predict "$CONCLAVE_TRAINED" --image "$CONCLAVE_FIXTURES/images/colour.png"
says colour.png "classifies texts alone"

conclave 0 inspect "$CONCLAVE_TRAINED" --verify
says "step 20" "written by 2 ranks" "every tensor matches its checksum"
conclave 0 inspect "$CONCLAVE_TRAINED" --tensors
says model/
conclave 0 inspect "$CONCLAVE_TRAINED" --recipe
printf '%s\n' "$output" >recipe.toml
conclave 0 recipe check recipe.toml

# The costs of a model's parts are the same for a trained and an untrained model.
conclave 0 inspect "$CONCLAVE_TRAINED" --cost --length 20
says ": parameters, and FLOPs of the forward pass of a text of 20 tokens" layers.1.moe
trained=$(tail -n +2 <<<"$output")
conclave 0 inspect --cost --length 20 recipe.toml
[[ $(tail -n +2 <<<"$output") == "$trained" ]]
on_ranks 2 0 inspect --cost --length 20 recipe.toml
[[ $(tail -n +2 <<<"$output") == "$trained" ]]
conclave 0 inspect --cost recipe.toml --set model.share_layers=true
says "a text of 64 tokens" layers.0.moe
[[ $output != *layers.1.* ]]
conclave 1 inspect --cost recipe.toml --length 65
says "at most data.max_length = 64 tokens"
conclave 2 inspect "$CONCLAVE_TRAINED" --set model.share_layers=true
says "--set requires --experts or --cost"

conclave 0 export "$CONCLAVE_TRAINED" model.h5
conclave 0 export "$CONCLAVE_TRAINED" model.safetensors
[[ -s model.h5 && -s model.safetensors ]]
conclave 1 export "$CONCLAVE_TRAINED" model.xyz
says .safetensors
# An export replaces only an earlier export.
conclave 0 export "$CONCLAVE_TRAINED" model.h5
conclave 0 export "$CONCLAVE_TRAINED" model.safetensors
echo "text,label" >texts.csv
cp "$CONCLAVE_TRAINED"/step-*20.h5 own.h5
head -c 30000 own.h5 >torn.h5
for file in texts.csv own.h5 torn.h5 model.safetensors; do
  conclave 1 export "$CONCLAVE_TRAINED" "$file" --format hdf5
  says "export: $file is there already, and no earlier export"
done
cmp own.h5 "$CONCLAVE_TRAINED"/step-*20.h5
on_ranks 2 1 export "$CONCLAVE_TRAINED" model.onnx
says "export runs in one process, not in 2"
