#!/usr/bin/env bash
# The scripts that start ranks on several machines, here with this machine alone and with a fake Slurm that prints its
# arguments.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
launch=$CONCLAVE_SOURCE/scripts/launch
export CONCLAVE=$CONCLAVE_PROGRAM

for script in "$launch"/hostfile.sh "$launch"/slurm.sbatch; do
  expect 0 bash -n "$script"
  expect 0 bash "$script" --help
  says usage: RECIPE "OPTIONS OF conclave train"
  expect 2 bash "$script"
  says usage:
done

# ---- Containerfile
expect 0 grep -oP '^add_subdirectory\(\K(?!tests\))[^)]+' "$CONCLAVE_SOURCE/CMakeLists.txt"
says core federated
for part in $output; do expect 0 grep -Fx "COPY $part $part" "$launch/Containerfile"; done
# These files are enough for CMake, and no target needs another one.
mkdir container
while read -r part; do cp -r "$CONCLAVE_SOURCE/$part" container; done < <(
  sed -n -e '/^COPY scripts\//d' -e 's/^COPY \(.*\) [^ ]*$/\1/p' "$launch/Containerfile" | tr ' ' '\n')
# shellcheck disable=SC2016  # the build substitutes it
expect 0 grep -Fe '-DCONCLAVE_CUDA=${CUDA}' "$launch/Containerfile"
expect 0 cmake -S container -B container/build -DCONCLAVE_TESTS=OFF -DCONCLAVE_CUDA_DRIVER=OFF -DCONCLAVE_NVCC=/bin/true
says "no CUDA backend: this machine has nvcc, but no driver" "set CONCLAVE_CUDA to ON" "Generating done"

for i in {1..200}; do
  echo "{\"text\": \"word$((i % 3)) other$((i % 7)) thing$((i % 3))\", \"label\": \"class $((i % 3))\"}"
done >texts.jsonl
cat >tiny.toml <<'END'
[run]
directory = "run"
[data]
source = "table"
path = "texts.jsonl"
vocabulary = 60
max_length = 16
[model]
hidden = 16
layers = 1
heads = 2
ffn = 32
[moe]
experts = 4
[train]
steps = 4
batch_tokens = 128
END

# ---- hostfile.sh
printf '# machines\nlocalhost slots=2  # this one\n' >hosts
export NCCL_SOCKET_IFNAME=lo THREADS=1
expect 0 "$launch/hostfile.sh" hosts tiny.toml --set run.log_every=2
says "-x NCCL_SOCKET_IFNAME" "ranks: 2 = 2 expert-parallel" "1 threads each" "step 4/4" "checkpoints in run"
expect 0 "$launch/hostfile.sh" hosts tiny.toml --set train.steps=6 --resume auto
says "resumed from" "step 6/6"
RANKS=1 expect 0 "$launch/hostfile.sh" hosts tiny.toml --set run.directory=alone
says "ranks: 1 ="

RANKS=3 expect 1 "$launch/hostfile.sh" hosts tiny.toml
says "RANKS is 3, and hosts has 2 slots"
RANKS=two expect 1 "$launch/hostfile.sh" hosts tiny.toml
says "RANKS is two; a number from 1"
expect 1 "$launch/hostfile.sh" nowhere tiny.toml
says "there is no hostfile nowhere"
expect 1 "$launch/hostfile.sh" hosts nothing.toml
says "there is no recipe nothing.toml"
CONCLAVE=./nothing expect 1 "$launch/hostfile.sh" hosts tiny.toml
says "there is no program ./nothing" "set CONCLAVE"
printf 'localhost\n' >without
expect 1 "$launch/hostfile.sh" without tiny.toml
says "without: no slots= in: localhost"
sed 's/steps = 4/steps = -4/' tiny.toml >wrong.toml
expect 2 "$launch/hostfile.sh" hosts wrong.toml
says "train.steps = -4"

# ---- slurm.sbatch
expect 1 bash "$launch/slurm.sbatch" tiny.toml
says "submit it: sbatch"
mkdir fake
cat >fake/srun <<'END'
#!/usr/bin/env bash
[[ $1 == --mpi=list ]] && { echo "MPI plugin types are... ${FAKE_PMI:-pmix}"; exit; }
echo "srun $*; $OMP_NUM_THREADS threads"
END
chmod +x fake/srun
export PATH=$PWD/fake:$PATH SLURM_JOB_ID=1 SLURM_SUBMIT_DIR=$PWD SLURM_CPUS_PER_TASK=8 SLURM_JOB_NUM_NODES=2 \
  SLURM_NTASKS=8 SLURM_JOB_NODELIST='node[1-2]'
expect 0 bash "$launch/slurm.sbatch" tiny.toml --set train.steps=6
says "2 nodes, 8 ranks of 8 threads: node[1-2]" "$CONCLAVE train tiny.toml --resume auto --set train.steps=6; 8 threads" --mpi=pmix
expect 0 bash "$launch/slurm.sbatch" tiny.toml --resume run
says "train tiny.toml --resume run;"
FAKE_PMI=pmi2 expect 1 bash "$launch/slurm.sbatch" tiny.toml
says "built without PMIx"
expect 2 bash "$launch/slurm.sbatch" wrong.toml
says "train.steps = -4"
CONCLAVE='' expect 1 bash "$launch/slurm.sbatch" tiny.toml
says "there is no program $PWD/build/release/conclave"
