"""Logits of HydraLoRA's and MTL-LoRA's published layers, with the values of test/golden/kinds/NAME/start.

    python scripts/golden/published.py --hydra-lora .../peft/tuners/lora.py --mtl-lora .../src/adapter

Writes test/golden/published. The code is no package, so it is given as it lies in github.com/Clin0212/HydraLoRA
(commit 5c08a78) and github.com/pUmpKin-Co/MTL-LoRA (commit 7848a70); of what it imports from around it, nothing counts
for these layers.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file

from golden_files import pack, write_tensors
from models import load_float32, logits_of, random_sequences

GOLDEN = Path(__file__).resolve().parents[2] / "test" / "golden"
LENGTHS = [11, 1, 19]


def stub(name: str, **members) -> None:
    module = ModuleType(name)
    module.__dict__.update(members, __path__=[])
    sys.modules[name] = module


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def hydra_layer(file: Path):
    stub("hydra")
    stub("hydra.tuners")
    stub("hydra.utils", PeftConfig=object, PeftType=object, transpose=lambda weight, swap: weight.T if swap else weight)
    published = load("hydra.tuners.lora", file)

    def make(base: torch.nn.Linear, values: dict, config: dict, module: dict):
        layer = published.Linear(
            base.in_features, base.out_features, r=module["rank"], lora_alpha=module["alpha"], lora_nums=config["experts"],
            bias=base.bias is not None, merge_weights=False,
        )
        b = values["lora_B.weight"].split(module["rank"], dim=1)
        layer.load_state_dict({
            **base.state_dict(), "lora_A.weight": values["lora_A.weight"], "lora_route.weight": values["lora_router.weight"],
            **{f"lora_B{i}.weight": one for i, one in enumerate(b)},
        })
        return lambda x: layer(x)[0]

    return make


def mtl_layer(folder: Path):
    for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.zero", "adapter"):
        stub(name)
    stub("deepspeed.runtime.zero.partition_parameters", ZeroParamStatus=None)
    load("adapter.base", folder / "base.py")
    published = load("adapter.mlora", folder / "mlora.py")

    def make(base: torch.nn.Linear, values: dict, config: dict, module: dict):
        rank, experts, tasks = module["rank"], config["experts"], len(config["disciplines"])
        layer = published.mLoRALinear(
            base.in_features, base.out_features, experts, tasks, False, B_scale=config["gate"]["temperature"], r=rank,
            lora_alpha=module["alpha"], bias=base.bias is not None,
        )
        layer.load_state_dict({
            **base.state_dict(), "lora_A": values["lora_A.weight"][None], "lora_lambdas": values["lora_lambda"],
            "lora_B": torch.stack(values["lora_B.weight"].split(rank, dim=1)), "lora_B_w": values["lora_task_weight"],
        })
        return lambda x: layer(x, torch.full([x.shape[0]], Layer.task))

    return make


class Layer(torch.nn.Module):
    """A published layer in the place of a linear one."""

    task = 0

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def expected(name: str, make) -> dict[str, torch.Tensor]:
    """Under `logits`, or `logits.DISCIPLINE` where there are some, [T, vocabulary]."""
    folder = GOLDEN / "kinds" / name / "start"
    config = json.loads((folder / "mixture_config.json").read_text())
    tensors = load_file(folder / "mixture_model.safetensors")
    model = load_float32(GOLDEN / "models" / config["base_model_name_or_path"] / "model")
    for module in config["modules"]:
        path = module["path"]
        values = {key.removeprefix(f"{path}."): value for key, value in tensors.items() if key.startswith(f"{path}.")}
        parent = model.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], Layer(make(model.get_submodule(path), values, config, module)))
    sequences = random_sequences(f"published {name}", model.config.vocab_size, LENGTHS)
    found = {}
    for task, discipline in enumerate(config["disciplines"] or [None]):
        Layer.task = task
        found["logits" if discipline is None else f"logits.{discipline}"] = logits_of(model, sequences)
    return {**pack(sequences), **found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hydra-lora", type=Path, required=True, help="the file with the class Linear")
    parser.add_argument("--mtl-lora", type=Path, required=True, help="the folder with base.py and mlora.py")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in {"hydra-lora": hydra_layer(arguments.hydra_lora), "mtl-lora": mtl_layer(arguments.mtl_lora)}.items():
        write_tensors(GOLDEN / "published" / f"{name}.safetensors", expected(name, make))
