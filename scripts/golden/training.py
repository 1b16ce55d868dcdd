"""Training runs of PEFT and plain transformers with torch's AdamW, on fixed batches.

One optimiser step: the losses of all its sequences are summed over trained tokens, divided by the number of
trained tokens of the whole step, and the gradient's global norm is clipped by torch's rule
min(1, clipping / (norm + 1e-6)). `loss` is the loss before the step's update, `gradNorm` the norm before clipping.
"""

import math
from pathlib import Path

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file

from adapters import new_adapter, save_adapter
from golden_files import random_generator, write_json, write_tensors
from models import load_float32


def optimizer(rate: float, clipping: float) -> dict:
    return dict(learningRate=rate, betas=[0.9, 0.999], epsilon=1e-8, weightDecay=0.05, gradientClipping=clipping)


IGNORED = -100
STEPS = 20
VOCABULARY = 97

RUNS = {
    "lora-qwen2": dict(
        base="qwen2", steps=20, schedule=dict(kind="cosine", warmupSteps=4), optimizer=optimizer(4e-3, 5.0),
        lora=dict(r=5, lora_alpha=10, target_modules="all-linear"),
    ),
    "lora-llama": dict(
        base="llama-grouped", steps=20, schedule=dict(kind="linear", warmupSteps=3), optimizer=optimizer(4e-3, 2.5),
        lora=dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]),
    ),
    "lora-patterns": dict(
        base="qwen2", steps=10, schedule=dict(kind="constant", warmupSteps=0), optimizer=optimizer(4e-3, 1.0),
        lora=dict(
            r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear",
            rank_pattern={"q_proj": 7, r"layers\.1\.mlp\.(gate|up)_proj": 2},
            alpha_pattern={"down_proj": 3, "model.layers.0.self_attn.o_proj": 11},
        ),
    ),
    "lora-plus": dict(
        base="llama-3-scaling", steps=10, schedule=dict(kind="cosine", warmupSteps=2),
        optimizer=optimizer(5e-4, 12.0), loraPlusRatio=16.0,
        lora=dict(r=4, lora_alpha=8, target_modules="all-linear"),
    ),
    "lora-qwen3-bfloat16": dict(
        base="qwen3", steps=10, schedule=dict(kind="constant", warmupSteps=3), optimizer=optimizer(4e-3, 7.0),
        lora=dict(r=4, lora_alpha=8, target_modules="all-linear"),
    ),
    "full-llama": dict(
        base="llama-grouped", steps=10, schedule=dict(kind="cosine", warmupSteps=2), optimizer=optimizer(2e-3, 5.0),
    ),
    "full-qwen2-tied": dict(
        base="qwen2-tied", steps=10, schedule=dict(kind="linear", warmupSteps=2), optimizer=optimizer(2e-3, 15.0),
    ),
}


def factor(kind: str, warmup: int, total: int, step: int) -> float:
    """What multiplies the learning rate in step 1 ... total."""
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / (total - warmup)
    return {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}[kind]


def make_batches() -> list:
    """[step][micro-batch][sequence] of {tokens, labels}: a learnable rule t' = (5 t + 11) mod 97 in the completions.

    A label is the token itself or -100, as in transformers: the logits at position i - 1 are judged by labels[i].
    """
    generator = random_generator("training batches")

    def sequence(turns: int) -> dict:
        tokens, labels = [], []
        for _ in range(turns):
            prompt = generator.integers(0, VOCABULARY, int(generator.integers(2, 10))).tolist()
            tokens += prompt
            labels += [IGNORED] * len(prompt)
            for _ in range(int(generator.integers(1, 15))):
                tokens.append((5 * tokens[-1] + 11) % VOCABULARY)
                labels.append(tokens[-1])
        return {"tokens": tokens, "labels": labels}

    return [
        [[sequence(turns) for turns in micro_batch] for micro_batch in ([1, 2, 1], [1, 1])]
        for _ in range(STEPS)
    ]


def loss_sum(model, sequence: dict) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([sequence["tokens"]])).logits[0]
    labels = torch.tensor(sequence["labels"])
    return torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED, reduction="sum")


def make_optimizer(model, spec: dict) -> torch.optim.Optimizer:
    settings = spec["optimizer"]
    rate, decay = settings["learningRate"], settings["weightDecay"]
    common = dict(betas=tuple(settings["betas"]), eps=settings["epsilon"], foreach=False)
    if "loraPlusRatio" in spec:
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=spec["loraPlusRatio"], loraplus_weight_decay=decay,
            **common,
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, **common)


def saved_name(key: str) -> str:
    return key.replace(".default.", ".")


def train(
    model, spec: dict, batches: list, loss_sum=loss_sum, make_optimizer=make_optimizer
) -> tuple[list, dict[str, torch.Tensor]]:
    """The record of every step, and the first step's gradients before clipping."""
    adamw = make_optimizer(model, spec)
    rates = [group["lr"] for group in adamw.param_groups]
    trained = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    steps, gradients = [], {}
    for index, micro_batches in enumerate(batches[: spec["steps"]]):
        scale = factor(spec["schedule"]["kind"], spec["schedule"]["warmupSteps"], spec["steps"], index + 1)
        for group, rate in zip(adamw.param_groups, rates):
            group["lr"] = rate * scale
        tokens = sum(label != IGNORED for batch in micro_batches for s in batch for label in s["labels"])
        sums = []
        for batch in micro_batches:
            total = sum(loss_sum(model, sequence) for sequence in batch)
            (total / tokens).backward()
            sums.append(total.item())
        if index == 0:
            gradients = {saved_name(key): p.grad.clone() for key, p in trained}
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in trained], spec["optimizer"]["gradientClipping"])
        adamw.step()
        adamw.zero_grad()
        steps.append({
            "step": index + 1, "loss": sum(sums) / tokens, "microBatchLossSums": sums, "gradNorm": float(norm),
            "tokens": tokens, "factor": scale, "learningRate": spec["optimizer"]["learningRate"] * scale,
            **({"learningRateB": spec["optimizer"]["learningRate"] * spec["loraPlusRatio"] * scale}
               if "loraPlusRatio" in spec else {}),
        })
    return steps, gradients


def evaluate(model, batches: list) -> float:
    """Mean loss over the trained tokens of the first step's batch, after training."""
    with torch.no_grad():
        sequences = [s for batch in batches[0] for s in batch]
        tokens = sum(label != IGNORED for s in sequences for label in s["labels"])
        return float(sum(loss_sum(model, s) for s in sequences)) / tokens


def generate(output: Path) -> None:
    batches = make_batches()
    write_json(output / "training" / "batches.json", {
        "ignored": IGNORED, "vocabulary": VOCABULARY,
        "steps": batches,
    })
    for name, spec in RUNS.items():
        folder = output / "training" / name
        if "lora" in spec:
            save_adapter(new_adapter(output / "models", spec["base"], name, spec["lora"]), spec["base"], folder / "start")
            model = load_float32(output / "models" / spec["base"] / "model")
            model = PeftModel.from_pretrained(model, folder / "start", is_trainable=True)
        else:
            model = load_float32(output / "models" / spec["base"] / "model")
        model.train()
        steps, gradients = train(model, spec, batches)
        after = evaluate(model, batches)
        if "lora" in spec:
            save_adapter(model, spec["base"], folder / "final")
        else:
            tensors = {key: p.detach().contiguous() for key, p in model.named_parameters()}
            (folder / "final").mkdir(parents=True)
            save_file(tensors, folder / "final" / "model.safetensors", {"format": "pt"})
        write_tensors(folder / "gradients.safetensors", gradients)
        record = {key: spec[key] for key in ("base", "optimizer", "schedule", "loraPlusRatio") if key in spec}
        write_json(folder / "run.json", {**record, "steps": steps, "lossAfterOnFirstBatch": after})
        norms = [s["gradNorm"] for s in steps]
        clipped = sum(norm > spec["optimizer"]["gradientClipping"] for norm in norms)
        print(f"training/{name}: loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}; first batch after {after:.3f}; "
              f"clipped {clipped} of {len(steps)}; norms {min(norms):.2f} to {max(norms):.2f}")
