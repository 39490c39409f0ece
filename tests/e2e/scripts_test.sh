#!/usr/bin/env bash
# The scripts' common parts.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"

# ---- source_files: in a git repository, also another user's, and in a copy without one
names() { bash -c "cd '$1' && source '$CONCLAVE_SOURCE/scripts/common.sh' && source_files '*.h' '*.cu' | sort -z | tr '\\0' ' '"; }
mkdir -p copy/core copy/build copy/.cache
touch copy/core/{a.h,b.cu,c.cpp} copy/{build,.cache}/d.h copy/untracked.h
expect 0 names copy
[[ $output == "./core/a.h ./core/b.cu ./untracked.h " ]]
git init -q copy
git -C copy add core
expect 0 names copy
[[ $output == "core/a.h core/b.cu " ]]
if ((EUID == 0)); then
  chown -R nobody copy
  expect 128 git -C copy ls-files
  expect 0 names copy
  [[ $output == "core/a.h core/b.cu " ]]
fi
