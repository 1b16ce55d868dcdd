"""LoRA adapter folders written by PEFT, with the logits of base + adapter and of the merged model."""

import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from golden_files import pack, write_tensors, write_json
from models import load_float32, logits_of, random_sequences
from random_weights import randomise_adapter

ADAPTERS = {
    "all-linear": dict(base="qwen2", config=dict(r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear")),
    "rslora": dict(
        base="llama-3-scaling",
        config=dict(r=6, lora_alpha=9, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    ),
    # Keys are regular expressions matched at the end of a module's name; the first that matches wins.
    "patterns": dict(
        base="llama-grouped",
        config=dict(
            r=5, lora_alpha=10, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 2, "q_proj": 3, r"layers\.0\.self_attn\.(k|v)_proj": 7},
            alpha_pattern={"down_proj": 3, "model.layers.0.self_attn.o_proj": 25, "o_proj": 1},
        ),
    ),
    "patterns-rslora": dict(
        base="qwen3-sharded",
        config=dict(
            r=4, lora_alpha=6, use_rslora=True, target_modules=["gate_proj", "up_proj", "k_proj", "o_proj"],
            rank_pattern={"up_proj": 9}, alpha_pattern={r".*\.2\.mlp\.(gate|up)_proj": 2.5},
        ),
    ),
    # A string is matched against the whole name.
    "expression": dict(
        base="qwen3",
        config=dict(r=3, lora_alpha=7, target_modules=r".*\.layers\.(0\.self_attn\.(q|o)|1\.mlp\.(gate|down))_proj"),
    ),
    "layers": dict(
        base="mistral",
        config=dict(r=2, lora_alpha=4, target_modules=["v_proj", "up_proj"], layers_to_transform=[1]),
    ),
    "modules-to-save": dict(
        base="qwen2",
        config=dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]),
    ),
    "bfloat16": dict(base="llama-bias", config=dict(r=4, lora_alpha=16, target_modules="all-linear"), dtype=torch.bfloat16),
}

LENGTHS = [11, 1, 26]


def new_adapter(models: Path, base: str, name: str, config: dict):
    """A PEFT model over `base` whose adapter is random, B included."""
    peft_model = get_peft_model(load_float32(models / base / "model"), LoraConfig(task_type="CAUSAL_LM", **config))
    randomise_adapter(peft_model, name)
    return peft_model


def save_adapter(peft_model, base: str, folder: Path) -> None:
    """`save_pretrained` with the base's name in place of its path, and without the model card."""
    peft_model.peft_config["default"].base_model_name_or_path = base
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Could not find a config file")
        peft_model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # PEFT keeps names in a set, whose order differs from run to run.
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config[key], list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def generate(output: Path) -> None:
    models = output / "models"
    for name, spec in ADAPTERS.items():
        folder, base = output / "adapters" / name, spec["base"]
        peft_model = new_adapter(models, base, name, spec["config"])
        peft_model.to(spec.get("dtype", torch.float32))
        save_adapter(peft_model, base, folder / "adapter")

        model = load_float32(models / base / "model")
        sequences = random_sequences(name, model.config.vocab_size, LENGTHS)
        alone = logits_of(model, sequences)
        adapted = PeftModel.from_pretrained(model, folder / "adapter").eval()
        logits = logits_of(adapted, sequences)
        merged = adapted.merge_and_unload()
        write_tensors(
            folder / "expected.safetensors",
            {**pack(sequences), "logits": logits, "merged_logits": logits_of(merged, sequences)},
        )
        targets = sorted(
            key.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
            for key, _ in peft_model.named_parameters() if ".lora_A." in key
        )
        write_json(folder / "expected.json", {"base": base, "targets": targets})
        print(f"adapters/{name}: moves the logits by up to {(logits - alone).abs().max():.2f}")
