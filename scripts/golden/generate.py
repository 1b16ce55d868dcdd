"""Makes test/golden with transformers and PEFT.

    python scripts/golden/generate.py            writes test/golden
    python scripts/golden/generate.py --check    makes it again elsewhere and compares it byte for byte
"""

import argparse
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

# Nothing is fetched, and one thread adds in one order.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import adapters  # noqa: E402
import compositions  # noqa: E402
import evaluation  # noqa: E402
import harness  # noqa: E402
import kinds  # noqa: E402
import merging  # noqa: E402
import models  # noqa: E402
import sampling  # noqa: E402
import text  # noqa: E402
import training  # noqa: E402
from golden_files import versions, write_json  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[2] / "test" / "golden"
FOLDERS = [
    "models", "text", "evaluation", "adapters", "training", "sampling", "merging", "kinds", "harness", "arrow",
]


def generate(output: Path) -> None:
    for name in FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for part in (models, text, evaluation, adapters, training, sampling, merging, kinds, harness, compositions):
        part.generate(output)
    write_json(output / "versions.json", versions())


def files_of(folder: Path) -> set[str]:
    found = (p for name in FOLDERS for p in (folder / name).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)) for p in found} | {"versions.json"}


def describe(one: Path, other: Path) -> str:
    if one.suffix != ".safetensors":
        return "differs"
    a, b = load_file(one), load_file(other)
    if a.keys() != b.keys():
        return "holds other tensors"
    return f"differs by up to {max((a[k].double() - b[k].double()).abs().max().item() for k in a):.1e}"


def check() -> int:
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder)
        generate(again)
        names = files_of(GOLDEN) | files_of(again)
        differences = 0
        for name in sorted(names):
            one, other = GOLDEN / name, again / name
            if not (one.exists() and other.exists()):
                print(f"{name}: only {'committed' if one.exists() else 'made now'}")
            elif one.read_bytes() != other.read_bytes():
                print(f"{name}: {describe(one, other)}")
            else:
                continue
            differences += 1
    print(f"{len(names)} files, {differences} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    sys.exit(check() if arguments.check else generate(GOLDEN))
