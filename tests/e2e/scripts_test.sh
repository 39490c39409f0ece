#!/usr/bin/env bash
# The scripts' common parts, and what shellcheck says of all scripts.
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

# ---- setup: what it says on another system
printf 'ID=elsewhere\nVERSION_ID=7\n' >os-release
elsewhere() {
  # shellcheck disable=SC2016  # the inner shell expands it
  unshare -rm bash -c 'mount --bind os-release "$(realpath /etc/os-release)" && "$@"' bash "$@"
}
skipped=0  # 1: something cannot be tested on this machine
if elsewhere true; then
  CONCLAVE_SETUP='' expect 1 elsewhere "$CONCLAVE_SOURCE/scripts/setup"
  says "this is not Debian 12 but elsewhere 7; install what these packages of Debian 12 contain: g++ cmake" CONCLAVE_SETUP=any
  CONCLAVE_SETUP=any expect 0 elsewhere "$CONCLAVE_SOURCE/scripts/setup"
else
  skipped=1
fi

# ---- setup: Python packages, after an interrupted creation of the venv and in a checkout that was moved
mkdir -p checkout/scripts checkout/build/venv/bin
cp "$CONCLAVE_SOURCE"/scripts/{setup,common.sh} checkout/scripts
touch checkout/scripts/requirements-test.txt
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >checkout/build/venv/pyvenv.cfg
ln -s /usr/bin/python3 checkout/build/venv/bin/python
export CONCLAVE_SETUP=any
expect 0 checkout/scripts/setup --test
says "-m venv" "install"
expect 0 checkout/scripts/setup --test
[[ -z $output ]]
mv checkout moved
echo "# other versions" >moved/scripts/requirements-test.txt
expect 0 moved/scripts/setup --test
says "-m venv" "install"

# ---- shellcheck
cd "$CONCLAVE_SOURCE"
# shellcheck source=scripts/common.sh
source scripts/common.sh
mapfile -d '' -t scripts < <(source_files '*' | xargs -0 grep -lZIE '^#!.*bash|^# shellcheck shell=bash')
((${#scripts[@]} >= 25))
expect 0 shellcheck -x "${scripts[@]}"
if ((skipped)); then exit 77; fi
