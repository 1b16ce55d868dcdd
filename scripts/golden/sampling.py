"""Probabilities after temperature, top-k and top-p, in the order in which `generate` of transformers applies them."""

from pathlib import Path

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
)

from golden_files import random_generator, write_json, write_tensors


def logit_vectors() -> dict[str, torch.Tensor]:
    generator = random_generator("sampling")
    # Multiples of 1/8: many ties.
    tied = torch.from_numpy(generator.integers(-24, 25, 61) / 8.0).to(torch.float32)
    return {
        "random": torch.from_numpy(generator.standard_normal(97) * 2.5).to(torch.float32),
        "tied": tied,
        "sharp": torch.from_numpy(generator.standard_normal(53) * 40.0).to(torch.float32),
        "equal": torch.full((7,), 3.0),
    }


CASES = [
    dict(temperature=1.0), dict(temperature=0.25), dict(temperature=0.7), dict(temperature=3.0),
    dict(topK=1), dict(topK=5), dict(topK=10), dict(topK=1000),
    dict(topP=0.05), dict(topP=0.5), dict(topP=0.9), dict(topP=0.999), dict(topP=1.0),
    dict(temperature=0.7, topK=10), dict(temperature=1.6, topP=0.8), dict(topK=6, topP=0.7),
    dict(temperature=0.8, topK=20, topP=0.95), dict(temperature=2.0, topK=3, topP=0.4),
]


def probabilities(logits: torch.Tensor, case: dict) -> torch.Tensor:
    processors = LogitsProcessorList()
    if case.get("temperature", 1.0) != 1.0:
        processors.append(TemperatureLogitsWarper(case["temperature"]))
    if "topK" in case:
        processors.append(TopKLogitsWarper(case["topK"]))
    if case.get("topP", 1.0) < 1.0:
        processors.append(TopPLogitsWarper(case["topP"]))
    return processors(torch.zeros(1, 1, dtype=torch.int64), logits[None].clone())[0].softmax(-1)


def clear_of_rounding(logits: torch.Tensor, case: dict) -> bool:
    """Whether topP's border is further from every cumulative sum than rounding can move one."""
    if case.get("topP", 1.0) >= 1.0:
        return True
    before = probabilities(logits, {k: v for k, v in case.items() if k != "topP"})
    sums = before.double().sort().values.cumsum(0)
    return bool(((sums - (1.0 - case["topP"])).abs() > 1e-5).all())


def generate(output: Path) -> None:
    folder = output / "sampling"
    vectors = logit_vectors()
    tensors, cases = {f"logits.{name}": vector for name, vector in vectors.items()}, []
    for name, vector in vectors.items():
        for case in CASES:
            assert clear_of_rounding(vector, case), (name, case)
            # Ties across topP's border are decided by the sort, which promises no order: not a golden case.
            result = probabilities(vector, case)
            kept = vector[result > 0].min()
            if case.get("topP", 1.0) < 1.0 and (vector == kept).sum() != ((vector == kept) & (result > 0)).sum():
                continue
            key = f"probabilities.{len(cases)}"
            tensors[key] = result
            cases.append({"logits": f"logits.{name}", **case, "probabilities": key, "kept": int((result > 0).sum())})
    write_tensors(folder / "vectors.safetensors", tensors)
    write_json(folder / "cases.json", cases)
    print(f"sampling: {len(cases)} cases")
