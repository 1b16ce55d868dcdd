"""Arrow by PEFT (peft.tuners.lora.arrow) over three LoRA adapters of one base."""

from pathlib import Path

from peft import ArrowConfig, create_arrow_model
from peft.tuners.lora.arrow import ArrowLoraLinearLayer

from adapters import new_adapter, save_adapter
from golden_files import pack, write_json, write_tensors
from models import load_float32, logits_of, random_sequences

BASE = "qwen2"
ADAPTERS = {"first": 8, "second": 3, "third": 5}  # alpha; PEFT wants one rank and the same targets
RUNS = {"top-2": dict(top_k=2, router_temperature=0.7), "all": dict(top_k=3, router_temperature=2.5)}
LENGTHS = [9, 1, 17]

# PEFT stops its power iteration after 15 rounds, wherever it is; ours ends at the singular vector.
ArrowLoraLinearLayer.top_right_singular_vec_from_BA.__defaults__ = (3000, 1e-8)


def generate(output: Path) -> None:
    folder, models = output / "arrow", output / "models"
    for name, alpha in ADAPTERS.items():
        config = dict(r=4, lora_alpha=alpha, target_modules=["q_proj", "v_proj", "down_proj"])
        save_adapter(new_adapter(models, BASE, f"arrow {name}", config), BASE, folder / name)
    tensors = {}
    for run, options in RUNS.items():
        model = load_float32(models / BASE / "model")
        sequences = random_sequences("arrow", model.config.vocab_size, LENGTHS)
        alone = logits_of(model, sequences)
        paths = [str(folder / name) for name in ADAPTERS]
        arrow = create_arrow_model(base_model=model, task_specific_adapter_paths=paths, arrow_config=ArrowConfig(**options)).eval()
        logits = logits_of(arrow, sequences)
        tensors[f"logits.{run}"] = logits
        print(f"arrow/{run}: moves the logits by up to {(logits - alone).abs().max():.2f}")
    write_tensors(folder / "expected.safetensors", {**pack(sequences), **tensors})
    write_json(folder / "expected.json", {"base": BASE, "adapters": list(ADAPTERS), "runs": RUNS})
