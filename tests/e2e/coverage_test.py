"""scripts/coverage counts lines of object files that no test runs, too."""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.environ["CONCLAVE_SOURCE"] + "/scripts")
import coverage


def main():
    Path("build").mkdir()
    Path("run.cpp").write_text("int main() {\n  return 0;\n}\n")
    Path("idle.cpp").write_text("int idle() {\n  return 1;\n}\n")
    for name in ("run", "idle", "gone"):
        source = "idle" if name == "gone" else name
        subprocess.run(["c++", "--coverage", "-c", f"{source}.cpp", "-o", f"build/{name}.o"], check=True)
    subprocess.run(["c++", "--coverage", "build/run.o", "-o", "program"], check=True)
    subprocess.run([Path("program").resolve()], check=True)
    Path("build/gone.o").unlink()  # its source was removed, and CMake left its .gcno
    idle, run = coverage.notes_of(Path("build").resolve())
    (lines,) = coverage.counts_of(run)[0].values()
    assert lines == {1: 1, 2: 1}, lines
    (lines,) = coverage.counts_of(idle)[0].values()
    assert lines == {1: 0, 2: 0}, lines


if __name__ == "__main__":
    main()
