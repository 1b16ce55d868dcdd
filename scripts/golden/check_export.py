"""What PEFT and transformers compute from folders that polylora wrote, to be compared with polylora's own logits.

    python scripts/golden/check_export.py --model BASE --adapter ADAPTER --tokens TOKENS --output OUT.safetensors
    python scripts/golden/check_export.py --model MERGED --tokens TOKENS --output OUT.safetensors

TOKENS is a JSON file {"sequences": [[1, 2, ...], ...]}, or a safetensors file with `tokens` and `cu_seqlens`.
OUT holds `tokens` I32 [T], `cu_seqlens` I32 [n + 1] and `logits` F32 [T, vocab], computed in float32; with an adapter
also `merged_logits`, of merge_and_unload. OUT.json beside it names the versions and the SHA-256 of every file read, so
that the record stays tied to exactly those bytes. `--expect FILE --tolerance X` compares with `logits` of another
safetensors file. Exit code 1 where they differ, or where the adapter holds a tensor that PEFT did not take.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import json  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import PeftModel  # noqa: E402
from peft.utils import get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from golden_files import pack, versions, write_json, write_tensors  # noqa: E402
from models import load_float32, logits_of  # noqa: E402


def read_sequences(path: Path) -> list[list[int]]:
    if path.suffix == ".json":
        return json.loads(path.read_text())["sequences"]
    tensors = load_file(path)
    bounds = tensors["cu_seqlens"].tolist()
    return [tensors["tokens"][a:b].tolist() for a, b in zip(bounds, bounds[1:])]


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def adapter_problems(adapted, folder: Path) -> list[str]:
    """PEFT loads with strict=False, so a wrong name or a value not taken is silent: compare what it holds now."""
    stored = load_file(folder / "adapter_model.safetensors")
    # No look at the base's configuration, which would be fetched: an embedding counts only if it is stored.
    held = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    problems = [f"{key}: stored, not taken" for key in stored.keys() - held.keys()]
    problems += [f"{key}: wanted, not stored" for key in held.keys() - stored.keys()]
    for key in stored.keys() & held.keys():
        if not torch.equal(stored[key].float(), held[key].float()):
            problems.append(f"{key}: taken with other values or another shape")
    return sorted(problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--expect", type=Path, help="a safetensors file with `logits`")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference over the largest logit")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()

    sequences = read_sequences(arguments.tokens)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = [f"{kind}: {sorted(map(str, found))}" for kind, found in loading.items() if found]
    model = load_float32(arguments.model)
    record = {"versions": versions(), "model": hashes(arguments.model)}
    tensors = pack(sequences)
    if arguments.adapter:
        adapted = PeftModel.from_pretrained(model, arguments.adapter).eval()
        problems += adapter_problems(adapted, arguments.adapter)
        record["adapter"] = hashes(arguments.adapter)
        tensors["logits"] = logits_of(adapted, sequences)
        tensors["merged_logits"] = logits_of(adapted.merge_and_unload(), sequences)
    else:
        tensors["logits"] = logits_of(model, sequences)

    if arguments.expect:
        expected = load_file(arguments.expect)["logits"]
        difference = ((tensors["logits"] - expected).abs().max() / expected.abs().max()).item()
        record["relativeDifference"] = difference
        print(f"largest difference over the largest logit: {difference:.2e}")
        if not difference <= arguments.tolerance:
            problems.append(f"logits differ by {difference:.2e}, more than {arguments.tolerance}")
    write_tensors(arguments.output, tensors)
    write_json(arguments.output.with_suffix(".json"), {**record, "problems": problems})
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
