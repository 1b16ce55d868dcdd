"""Writing golden files: seeded random numbers, exact JSON, safetensors with versions in the metadata."""

import json
import platform
import zlib
from importlib import metadata
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

PACKAGES = ["torch", "transformers", "peft", "safetensors", "tokenizers", "jinja2", "numpy"]


def versions() -> dict[str, str]:
    """Versions of everything that computes a golden number. torch's local suffix (+cpu) is dropped."""
    found = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def random_generator(*names: str) -> numpy.random.Generator:
    """A generator that depends on the names alone, so that adding a model or a tensor changes no other."""
    return numpy.random.Generator(numpy.random.PCG64([zlib.crc32(name.encode()) for name in names]))


def write_json(path: Path, value) -> None:
    """JSON with arrays of numbers on one line. Floats are the shortest text that reads back to the same double."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_format(value, "") + "\n", encoding="utf-8")


def _format(value, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_format(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return "[\n" + ",\n".join(inner + _format(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], **extra: str) -> None:
    """safetensors whose `__metadata__` records the versions that computed the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = {"format": "pt", "versions": json.dumps(versions(), sort_keys=True), **extra}
    # The library writes metadata in the order of a hash map, which differs from run to run:
    # one entry has one order.
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"golden": json.dumps(recorded)})


def pack(sequences: list[list[int]]) -> dict[str, torch.Tensor]:
    """Sequences end to end: `tokens` I32 [T] and `cu_seqlens` I32 [n + 1]."""
    bounds = [0]
    for sequence in sequences:
        bounds.append(bounds[-1] + len(sequence))
    flat = [token for sequence in sequences for token in sequence]
    return {
        "tokens": torch.tensor(flat, dtype=torch.int32),
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
    }
