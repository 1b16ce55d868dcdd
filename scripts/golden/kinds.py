"""Training runs of adapter kinds beside LoRA, on the batches of training.py.

DoRA, PiSSA and OLoRA are PEFT's. HydraLoRA and MTL-LoRA are written here in plain torch from the formulas of their
papers: their published code is no package. They start from folders in polylora's mixture format.
"""

import json
import math
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from adapters import new_adapter, save_adapter
from golden_files import random_generator, write_json, write_tensors
from models import load_float32
from training import IGNORED, make_batches, optimizer, train

STEPS = 8
DISCIPLINES = ["first", "second"]


def spec(base: str, rate: float, clipping: float, **more) -> dict:
    return dict(
        base=base, steps=STEPS, schedule=dict(kind="cosine", warmupSteps=2), optimizer=optimizer(rate, clipping), **more
    )


PEFT_RUNS = {
    "dora": spec("qwen2", 4e-3, 3.0, saved=True, lora=dict(r=4, lora_alpha=6, use_dora=True, target_modules="all-linear")),
    "pissa": spec("llama-grouped", 1e-3, 3.0, lora=dict(r=3, lora_alpha=5, init_lora_weights="pissa", target_modules=["q_proj", "o_proj", "up_proj"])),
    "olora": spec("qwen2", 1e-3, 3.0, lora=dict(r=3, lora_alpha=5, init_lora_weights="olora", target_modules=["v_proj", "down_proj"])),
}

MIXTURE_RUNS = {
    "hydra-lora": spec("qwen2", 4e-3, 3.0, kind="hydra-lora", experts=3, rank=4, alpha=8),
    "mtl-lora": spec("llama-grouped", 4e-3, 3.0, kind="mtl-lora", experts=3, rank=4, alpha=6, temperature=0.1),
}


class Mixture(torch.nn.Module):
    """y = W x + s sum_e g_e(x) B_e (A x), or with Lambda_task between A and B and g = softmax(w_task / temperature)."""

    task = 0

    def __init__(self, base: torch.nn.Linear, run: dict, name: str):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.run, self.scale = run, run["alpha"] / run["rank"]
        rank, experts = run["rank"], run["experts"]

        def normal(key: str, *shape: int, scale: float) -> torch.nn.Parameter:
            values = random_generator(name, key).standard_normal(shape) * scale
            return torch.nn.Parameter(torch.from_numpy(values).to(torch.float32))

        inputs, outputs = base.in_features, base.out_features
        self.lora_A = normal("A", rank, inputs, scale=1 / math.sqrt(inputs))
        self.lora_B = normal("B", outputs, experts * rank, scale=0.15)
        if run["kind"] == "hydra-lora":
            self.router = normal("router", experts, inputs, scale=1 / math.sqrt(inputs))
        else:
            self.matrices = normal("lambda", len(DISCIPLINES), rank, rank, scale=0.3)
            with torch.no_grad():
                self.matrices += torch.eye(rank)
            self.task_weight = normal("task", len(DISCIPLINES), experts, scale=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = x @ self.lora_A.T
        if self.run["kind"] == "hydra-lora":
            gates = torch.softmax(x @ self.router.T, dim=-1)
        else:
            low = low @ self.matrices[Mixture.task].T
            gates = torch.softmax(self.task_weight[Mixture.task] / self.run["temperature"], dim=-1)
        y = self.base(x)
        rank = self.run["rank"]
        for expert in range(self.run["experts"]):
            b = self.lora_B[:, expert * rank : (expert + 1) * rank]
            y = y + self.scale * gates[..., expert : expert + 1] * (low @ b.T)
        return y

    def tensors(self) -> dict[str, torch.Tensor]:
        made = {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}
        if self.run["kind"] == "hydra-lora":
            return {**made, "lora_router.weight": self.router}
        return {**made, "lora_lambda": self.matrices, "lora_task_weight": self.task_weight}


def mixture_loss_sum(model, sequence: dict) -> torch.Tensor:
    Mixture.task = sequence["task"]
    logits = model(input_ids=torch.tensor([sequence["tokens"]])).logits[0]
    labels = torch.tensor(sequence["labels"])
    return torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED, reduction="sum")


def mixture_optimizer(model, run: dict) -> torch.optim.Optimizer:
    """Weight decay on A, B and routers."""
    settings = run["optimizer"]
    named = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    plain = [p for key, p in named if key.endswith(("matrices", "task_weight"))]
    decayed = [p for key, p in named if not key.endswith(("matrices", "task_weight"))]
    groups = [{"params": decayed, "weight_decay": settings["weightDecay"]}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings["learningRate"], betas=tuple(settings["betas"]),
        eps=settings["epsilon"], foreach=False,
    )


def mixture_config(run: dict, paths: list[str]) -> dict:
    hydra = run["kind"] == "hydra-lora"
    losses = dict(balance=0, variance=0, z=0, supervised=0)
    return dict(
        format="polylora-mixture", version=1, kind=run["kind"], base_model_name_or_path=run["base"],
        experts=run["experts"], shares="a",
        gate=dict(kind="router", top_k=run["experts"], scale=1, absolute=False, trained=True, losses=losses, bias_rate=0)
        if hydra else dict(kind="task", temperature=run["temperature"]),
        transform=not hydra, frozen_experts=False, disciplines=[] if hydra else DISCIPLINES, use_rslora=False, dropout=0,
        modules=[dict(path=path, rank=run["rank"], alpha=run["alpha"]) for path in paths],
    )


def mixture_model(models: Path, name: str, run: dict):
    """The base with a mixture at four of its linear layers a block, and the mixtures by path."""
    model = load_float32(models / run["base"] / "model").requires_grad_(False)
    mixtures = {}
    for path, module in list(model.named_modules()):
        if path.endswith(("q_proj", "v_proj", "up_proj", "down_proj")):
            parent = model.get_submodule(path.rpartition(".")[0])
            mixtures[path] = Mixture(module, run, f"{name} {path}")
            setattr(parent, path.rpartition(".")[2], mixtures[path])
    return model, mixtures


def with_tasks(batches: list) -> list:
    """Every second sequence belongs to the second discipline."""
    return [
        [[{**s, "task": i % 2} for i, s in enumerate(micro_batch)] for micro_batch in step] for step in batches
    ]


def generate(output: Path) -> None:
    models, batches = output / "models", make_batches()
    for name, run in PEFT_RUNS.items():
        folder = output / "kinds" / name
        if run.get("saved"):
            save_adapter(new_adapter(models, run["base"], name, run["lora"]), run["base"], folder / "start")
            model = PeftModel.from_pretrained(load_float32(models / run["base"] / "model"), folder / "start", is_trainable=True)
        else:
            model = get_peft_model(
                load_float32(models / run["base"] / "model"), LoraConfig(task_type="CAUSAL_LM", **run["lora"])
            )
            # A and B are known up to signs; their product is not.
            products = {
                key.removeprefix("base_model.model."): (module.lora_B["default"].weight @ module.lora_A["default"].weight).detach()
                for key, module in model.named_modules() if hasattr(module, "lora_A") and "layers.0." in key
            }
            write_tensors(folder / "products.safetensors", products)
        model.train()
        steps, gradients = train(model, run, batches)
        if run.get("saved"):
            write_tensors(folder / "gradients.safetensors", gradients)
        record = {key: run[key] for key in ("base", "optimizer", "schedule", "lora")}
        write_json(folder / "run.json", {**record, "steps": steps})
        print(f"kinds/{name}: loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}")
    for name, run in MIXTURE_RUNS.items():
        folder = output / "kinds" / name
        model, mixtures = mixture_model(models, name, run)
        (folder / "start").mkdir(parents=True, exist_ok=True)
        tensors = {f"{path}.{key}": value.detach().clone() for path, one in mixtures.items() for key, value in one.tensors().items()}
        save_file(tensors, folder / "start" / "mixture_model.safetensors", {"format": "pt"})
        config = mixture_config(run, list(mixtures))
        (folder / "start" / "mixture_config.json").write_text(json.dumps(config, indent=2) + "\n")
        steps, _ = train(model, run, with_tasks(batches), mixture_loss_sum, mixture_optimizer)
        write_json(folder / "run.json", {**{key: run[key] for key in ("base", "optimizer", "schedule")}, "steps": steps})
        print(f"kinds/{name}: loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}")
