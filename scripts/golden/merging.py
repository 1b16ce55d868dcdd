"""What mergekit makes of recipes over whole models, and what PEFT makes of weighted adapters."""

import json
from importlib import metadata
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from golden_files import random_generator, write_json, write_tensors
from random_weights import randomise_adapter, randomise_model

CONFIG = Qwen2Config(
    vocab_size=23, hidden_size=12, intermediate_size=17, num_hidden_layers=3, num_attention_heads=2,
    num_key_value_heads=1, rms_norm_eps=1e-6, max_position_embeddings=64, pad_token_id=None, bos_token_id=None,
    eos_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
# How far each fine-tuned model is from the base.
MODELS = {"base": 0.0, "chemistry": 0.05, "geography": 0.12, "medicine": 0.08}
OTHERS = ["chemistry", "geography", "medicine"]


def weighted(weights, **more):
    return [dict(model=m, parameters=dict(weight=w, **more)) for m, w in zip(OTHERS, weights)]


RECIPES = {
    "linear": dict(merge_method="linear", models=[dict(model=m, parameters=dict(weight=w)) for m, w in zip(MODELS, [1, 2, 0.5, 1])]),
    "linear-unnormalized": dict(merge_method="linear", models=weighted([0.2, 0.5, -0.1]), parameters=dict(normalize=False)),
    "task-arithmetic": dict(merge_method="task_arithmetic", base_model="base", models=weighted([0.7, -0.4, 1.2]), parameters={"lambda": 0.8}),
    "ties": dict(merge_method="ties", base_model="base", models=weighted([0.7, 0.4, 1.2], density=0.37)),
    # A gradient over the layers, a filter, and int8_mask, which changes nothing.
    "ties-gradient": dict(
        merge_method="ties", base_model="base",
        models=[
            dict(model="base"),
            dict(model="chemistry", parameters=dict(weight=[1.0, 0.2, 0.6], density=0.5)),
            dict(model="geography", parameters=dict(weight=[dict(filter="mlp", value=[0.1, 0.9]), dict(value=0.3)], density=0.8)),
        ],
        parameters=dict(normalize=False, int8_mask=True),
    ),
    "breadcrumbs": dict(merge_method="breadcrumbs", base_model="base", models=weighted([0.7, 0.4, 1.2], density=0.6, gamma=0.1)),
    "breadcrumbs-ties": dict(merge_method="breadcrumbs_ties", base_model="base", models=weighted([0.7, 0.4, 1.2], density=0.4, gamma=0.05)),
    "slerp": dict(
        merge_method="slerp", base_model="base", models=[dict(model="base"), dict(model="geography")],
        parameters=dict(t=[dict(filter="self_attn", value=[0, 0.5, 1]), dict(filter="mlp", value=[1, 0.3]), dict(value=0.4)]),
    ),
    "model-stock": dict(merge_method="model_stock", base_model="base", models=[dict(model=m) for m in OTHERS]),
    "model-stock-filters": dict(
        merge_method="model_stock", base_model="base", models=[dict(model=m) for m in OTHERS], parameters=dict(filter_wise=True),
    ),
    "sce": dict(merge_method="sce", base_model="base", models=[dict(model=m) for m in OTHERS], parameters=dict(select_topk=0.6)),
    "passthrough-slices": dict(
        merge_method="passthrough",
        slices=[
            dict(sources=[dict(model="chemistry", layer_range=[0, 2])]),
            dict(sources=[dict(model="geography", layer_range=[0, 1])]),
        ],
    ),
    "slices": dict(
        merge_method="task_arithmetic", base_model="base",
        slices=[
            dict(sources=[dict(model="base", layer_range=[0, 2]), dict(model="chemistry", layer_range=[0, 2], parameters=dict(weight=0.5))]),
            dict(sources=[dict(model="base", layer_range=[2, 3]), dict(model="medicine", layer_range=[2, 3], parameters=dict(weight=2.0))]),
        ],
    ),
}

# Combinations of two adapters by PEFT's add_weighted_adapter, on one linear layer.
ADAPTERS = {"plain": dict(r=3, lora_alpha=6), "rslora": dict(r=4, lora_alpha=4, use_rslora=True)}
COMBINATIONS = ["cat", "linear", "svd"]
WEIGHTS = [0.8, -0.5]


def new_model(name: str, deviation: float) -> Qwen2ForCausalLM:
    model = Qwen2ForCausalLM(CONFIG).to(torch.float32)
    randomise_model(model, "merging-base")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            shift = random_generator("merging", name, key).standard_normal(tuple(parameter.shape)) * deviation
            # What fine-tuned models have in common.
            common = random_generator("merging", "common", key).standard_normal(tuple(parameter.shape)) * deviation
            parameter.add_(torch.from_numpy(0.8 * shift + 0.6 * common).to(torch.float32))
    return model


def merge_all(folder: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    for name, recipe in RECIPES.items():
        text = yaml.safe_dump(recipe, sort_keys=False)
        located = json.loads(json.dumps(recipe))
        prefix_models(located, folder / "models")
        out = folder / "out"
        run_merge(MergeConfiguration.model_validate(located), str(out), MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False))
        tensors = {}
        for path in sorted(out.glob("*.safetensors")):
            tensors.update(load_file(path))
        write_tensors(folder / "mergekit" / f"{name}.safetensors", tensors, mergekit=metadata.version("mergekit"))
        (folder / "mergekit" / f"{name}.yaml").write_text(text)
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


def prefix_models(value, folder: Path) -> None:
    if isinstance(value, dict):
        for key in ("model", "base_model"):
            if isinstance(value.get(key), str):
                value[key] = str(folder / value[key])
        for one in value.values():
            prefix_models(one, folder)
    elif isinstance(value, list):
        for one in value:
            prefix_models(one, folder)


def combine_adapters(folder: Path) -> None:
    """Weight deltas of one layer: of each adapter, and of what PEFT combines them into."""
    module = "model.layers.1.mlp.down_proj"
    tensors = {}
    for kind, config in ADAPTERS.items():
        peft_model = get_peft_model(new_model("base", 0.0), LoraConfig(target_modules=["down_proj"], **config), adapter_name="first")
        peft_model.add_adapter("second", LoraConfig(target_modules=["down_proj"], **config))
        for name in ("first", "second"):
            peft_model.set_adapter(name)
            randomise_adapter(peft_model, f"merging-{kind}-{name}")
        layer = peft_model.get_submodule(f"base_model.model.{module}")
        for name in ("first", "second"):
            tensors[f"{kind}.{name}.lora_A"] = layer.lora_A[name].weight.detach().clone()
            tensors[f"{kind}.{name}.lora_B"] = layer.lora_B[name].weight.detach().clone()
        for combination in COMBINATIONS:
            more = dict(svd_rank=2 * config["r"]) if combination == "svd" else {}
            peft_model.add_weighted_adapter(["first", "second"], WEIGHTS, combination, combination_type=combination, **more)
            tensors[f"{kind}.{combination}"] = layer.get_delta_weight(combination).detach()
    write_tensors(folder / "peft.safetensors", tensors)
    write_json(folder / "peft.json", {"adapters": ADAPTERS, "weights": WEIGHTS, "combinations": COMBINATIONS})


def generate(output: Path) -> None:
    folder = output / "merging"
    for name, deviation in MODELS.items():
        path = folder / "models" / name
        new_model(name, deviation).save_pretrained(path)
        (path / "generation_config.json").unlink(missing_ok=True)
    merge_all(folder)
    combine_adapters(folder)
    print(f"merging: {len(RECIPES)} recipes")
