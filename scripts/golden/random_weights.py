"""Random weights at a scale where every part of a model changes the logits: none is at its initial value."""

import math

import torch

from golden_files import random_generator


def _normal(generator, shape, scale: float) -> torch.Tensor:
    return torch.from_numpy(generator.standard_normal(shape) * scale).to(torch.float32)


def randomise_model(model: torch.nn.Module, name: str) -> None:
    """Norms in [0.4, 1.8], biases of 0.3, attention sharp enough that positions and masks matter."""
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = random_generator(name, key)
            shape = tuple(parameter.shape)
            if key.endswith("bias"):
                value = _normal(generator, shape, 0.3)
            elif "norm" in key:
                value = torch.from_numpy(generator.uniform(0.4, 1.8, shape)).to(torch.float32)
            elif "embed_tokens" in key:
                value = _normal(generator, shape, 0.3 if tied else 0.8)
            elif "q_proj" in key or "k_proj" in key:
                value = _normal(generator, shape, 1.5 / math.sqrt(shape[1]))
            else:
                value = _normal(generator, shape, 1.1 / math.sqrt(shape[1]))
            parameter.copy_(value)


def randomise_adapter(peft_model: torch.nn.Module, name: str, scale_b: float = 0.15) -> None:
    """A of 1 / sqrt(in), B of `scale_b`: the adapter moves the logits visibly from the first step."""
    with torch.no_grad():
        for key, parameter in peft_model.named_parameters():
            if not parameter.requires_grad:
                continue
            generator = random_generator(name, key)
            shape = tuple(parameter.shape)
            if "lora_A" in key:
                parameter.copy_(_normal(generator, shape, 1.0 / math.sqrt(shape[1])))
            elif "lora_B" in key:
                parameter.copy_(_normal(generator, shape, scale_b))
            else:
                parameter.add_(_normal(generator, shape, 0.1))
