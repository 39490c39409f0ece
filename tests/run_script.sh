#!/usr/bin/env bash
# run_script.sh FOLDER SCRIPT: runs a test script in a new, empty FOLDER; ctest calls it.
set -euo pipefail
folder=$1 script=$2
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
if [[ $script == *.py ]]; then
  [[ -x $CONCLAVE_PYTHON ]] || {
    echo "$CONCLAVE_PYTHON is missing; scripts/setup --test makes it" >&2
    exit 1
  }
  exec "$CONCLAVE_PYTHON" "$script"
fi
exec bash "$script"
