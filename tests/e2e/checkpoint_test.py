"""Other software can read Conclave's checkpoints and exports: h5py and safetensors."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
from safetensors import safe_open

trained = Path(os.environ["CONCLAVE_TRAINED"])
checkpoint = max(trained.glob("step-*.h5"))


def tensors(file):
    """All numeric datasets below `file`: {name: array}."""
    found = {}
    file.visititems(
        lambda name, item: found.update({name: item[()]})
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu"
        else None
    )
    return found


def main():
    for output in ("model.h5", "model.safetensors"):
        subprocess.run([os.environ["CONCLAVE_PROGRAM"], "export", checkpoint, output], check=True)

    with h5py.File(checkpoint) as file:
        everything = tensors(file)
        model = {name.removeprefix("model/"): v for name, v in everything.items() if name.startswith("model/")}
    assert model, f"{checkpoint} has no tensors below model/, but {sorted(everything)}"
    assert any("expert" in name for name in model), sorted(model)
    for name, values in model.items():
        assert np.isfinite(values).all(), name

    with h5py.File("model.h5") as file:
        assert file.attrs["step"] == 20
        assert b'name = "quick"' in file.attrs["recipe"]  # a fixed-length string, which h5py gives as bytes
        exported = {name: values for name, values in tensors(file).items() if not name.startswith("tokenizer/")}
    with safe_open("model.safetensors", framework="numpy") as file:
        safetensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    assert metadata["step"] == "20", metadata

    for other in (exported, safetensors):
        assert model.keys() == other.keys(), sorted(model.keys() ^ other.keys())
        for name, values in model.items():
            assert values.dtype == other[name].dtype and values.shape == other[name].shape, name
            assert values.tobytes() == other[name].tobytes(), name
    print(f"{len(model)} tensors, {sum(v.size for v in model.values())} numbers: the three files agree")


if __name__ == "__main__":
    main()
