"""Model folders in every supported shape, with the logits that transformers computes from the stored weights."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from golden_files import pack, random_generator, write_json, write_tensors
from random_weights import randomise_model

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# style: "new" is what transformers 5 writes; "old" is rope_theta + rope_scaling + torch_dtype.
MODELS = {
    # The Llama 2 shape: as many key-value heads as heads, no head_dim, untied.
    "llama-2": dict(
        config=LlamaConfig(
            vocab_size=103, hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
            rms_norm_eps=1e-5, max_position_embeddings=128,
        ),
        dtype=torch.float16, style="old", drop=["head_dim"],
    ),
    "llama-grouped": dict(
        config=LlamaConfig(
            vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        ),
        dtype=torch.float32, style="new",
    ),
    # The Llama 3.2 shape: tied, scaled positions. Lengths pass original_max_position_embeddings.
    "llama-3-scaling": dict(
        config=LlamaConfig(
            vocab_size=131, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=512,
            tie_word_embeddings=True, rope_parameters=LLAMA3_SCALING,
        ),
        dtype=torch.bfloat16, style="new", lengths=[97, 1, 22], equivalent_configs=True, eos=True,
    ),
    # Biases everywhere; head_dim larger than hidden / heads; the old key `type`; three shards.
    "llama-bias": dict(
        config=LlamaConfig(
            vocab_size=101, hidden_size=42, intermediate_size=67, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, head_dim=18, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
            max_position_embeddings=256, rope_parameters={**LLAMA3_SCALING, "factor": 4.0},
        ),
        dtype=torch.float32, style="old", old_key="type", shards=3, lengths=[71, 9, 2],
    ),
    "mistral": dict(
        config=MistralConfig(
            vocab_size=113, hidden_size=60, intermediate_size=91, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=3, head_dim=12, rms_norm_eps=1e-5, sliding_window=None, max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        dtype=torch.float16, style="new", shards=2,
    ),
    # A sliding window of 8 that is switched off: applying it would change the logits.
    "qwen2": dict(
        config=Qwen2Config(
            vocab_size=109, hidden_size=50, intermediate_size=77, num_hidden_layers=2, num_attention_heads=5,
            num_key_value_heads=1, rms_norm_eps=1e-6, max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        dtype=torch.float32, style="new",
        extra={"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
    ),
    # The Qwen2.5-0.5B shape: tied, old config.
    "qwen2-tied": dict(
        config=Qwen2Config(
            vocab_size=157, hidden_size=56, intermediate_size=85, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=128, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        dtype=torch.bfloat16, style="old", drop=["layer_types"],
        extra={"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
    ),
    # The Qwen3-0.6B shape: tied, head_dim unlike hidden / heads.
    "qwen3": dict(
        config=Qwen3Config(
            vocab_size=127, hidden_size=40, intermediate_size=69, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6, max_position_embeddings=128,
            tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        dtype=torch.bfloat16, style="new",
    ),
    "qwen3-sharded": dict(
        config=Qwen3Config(
            vocab_size=99, hidden_size=44, intermediate_size=61, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, head_dim=6, rms_norm_eps=1e-6, max_position_embeddings=128, attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5000000.0},
        ),
        dtype=torch.float32, style="old", shards=4,
        extra={"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
    ),
}

LENGTHS = [13, 1, 37, 8]


def load_float32(folder: Path):
    """The stored weights, widened to float32, as every golden number is computed."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def logits_of(model, sequences: list[list[int]]) -> torch.Tensor:
    """[T, vocab] float32. One sequence at a time, so that padding plays no part."""
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([s])).logits[0] for s in sequences])


def random_sequences(name: str, vocabulary: int, lengths: list[int]) -> list[list[int]]:
    generator = random_generator(name, "sequences")
    return [generator.integers(0, vocabulary, length).tolist() for length in lengths]


def old_style(config: dict, old_key: str = "rope_type") -> dict:
    """The same configuration as transformers 4 wrote it."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {old_key: kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    return config


def _assert_all_three_frequency_regimes(config) -> None:
    rope = config.rope_parameters
    theta, dim = rope["rope_theta"], config.head_dim
    original = rope["original_max_position_embeddings"]
    lengths = [2 * torch.pi * theta ** (2 * i / dim) for i in range(dim // 2)]
    kept = [w for w in lengths if w < original / rope["high_freq_factor"]]
    divided = [w for w in lengths if w > original / rope["low_freq_factor"]]
    assert kept and divided and len(kept) + len(divided) < len(lengths), lengths


def greedy(model, prompt: list[int], count: int) -> dict:
    """Greedy continuation without regard to an end-of-sequence token, and how clear each choice was."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), max_new_tokens=count,
        do_sample=False, return_dict_in_generate=True, output_logits=True,
    )
    tokens = out.sequences[0, len(prompt):].tolist()
    top = [step[0].topk(2).values for step in out.logits]
    return {"prompt": prompt, "tokens": tokens, "margins": [float(t[0] - t[1]) for t in top]}


def clear_greedy(model, name: str, count: int) -> dict:
    """The first random prompt whose every greedy choice is clear of rounding."""
    for attempt in range(100):
        generator = random_generator(name, "prompt", str(attempt))
        prompt = generator.integers(0, model.config.vocab_size, int(generator.integers(3, 12))).tolist()
        result = greedy(model, prompt, count)
        if min(result["margins"]) > 0.02:
            return result
    raise RuntimeError(f"{name}: no prompt with clear choices")


def _set_eos(folder: Path, generation: dict) -> tuple[list[int], list[int]]:
    """Makes a token of the greedy continuation an end-of-sequence token, in a list, and generates again."""
    tokens = generation["tokens"]
    stop = next(t for i, t in enumerate(tokens) if i >= 4 and t not in tokens[:i])
    unused = next(t for t in range(len(tokens) + 1) if t not in tokens)
    for file in ("config.json", "generation_config.json"):
        content = json.loads((folder / file).read_text())
        write_json(folder / file, {**content, "eos_token_id": [unused, stop]})
    prompt = torch.tensor([generation["prompt"]])
    out = load_float32(folder).generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=len(tokens), do_sample=False, pad_token_id=0
    )
    return [unused, stop], out[0, prompt.shape[1]:].tolist()


def save_model_folder(model, folder: Path, style="new", old_key="rope_type", drop=(), extra=None, shards=1) -> None:
    """`save_pretrained`, then the configuration rewritten in the wanted style."""
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    limit = size + 1 if shards == 1 else size * 5 // (shards * 4)
    model.save_pretrained(folder, max_shard_size=limit)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    for key in drop:
        config.pop(key, None)
    config.update(extra or {})
    if style == "old":
        config = old_style(config, old_key)
    write_json(path, dict(sorted(config.items())))


def generate(output: Path) -> None:
    for name, spec in MODELS.items():
        folder = output / "models" / name
        config = spec["config"]
        config.architectures = None
        if config.rope_parameters.get("rope_type") == "llama3":
            _assert_all_three_frequency_regimes(config)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        randomise_model(model, name)
        model.to(spec["dtype"])
        options = {k: spec[k] for k in ("style", "old_key", "drop", "extra", "shards") if k in spec}
        save_model_folder(model, folder / "model", **options)

        # From here on only what the folder holds counts.
        model = load_float32(folder / "model")
        sequences = random_sequences(name, config.vocab_size, spec.get("lengths", LENGTHS))
        logits = logits_of(model, sequences)
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([sequences[0]]), output_hidden_states=True).hidden_states
        write_tensors(
            folder / "expected.safetensors",
            {**pack(sequences), "logits": logits, "hidden_states": torch.cat(hidden)},
        )

        generation = clear_greedy(model, name, 12)
        if spec.get("eos"):
            generation["eosTokens"], generation["tokensUntilEos"] = _set_eos(folder / "model", generation)
        if spec.get("equivalent_configs"):
            _write_equivalent_configs(folder, sequences, logits)
        write_json(
            folder / "expected.json",
            {
                "parameters": sum(p.numel() for p in model.parameters()),
                "tied": bool(config.tie_word_embeddings),
                "generation": generation,
            },
        )
        sdpa = AutoModelForCausalLM.from_pretrained(
            folder / "model", dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        noise = (logits_of(sdpa, sequences) - logits).abs().max() / logits.abs().max()
        print(f"models/{name}: |logits| up to {logits.abs().max():.2f}, another attention kernel differs by {noise:.1e}")


def _write_equivalent_configs(folder: Path, sequences, logits) -> None:
    """configs/*.json: other spellings of the same configuration, each proved to give the same bits."""
    config = json.loads((folder / "model" / "config.json").read_text())
    spellings = {
        "rope-parameters": config,
        "rope-scaling": old_style(config, "rope_type"),
        "rope-scaling-type": old_style(config, "type"),
    }
    trial = folder / "trial"
    for label, spelling in spellings.items():
        shutil.copytree(folder / "model", trial)
        write_json(trial / "config.json", spelling)
        assert torch.equal(logits_of(load_float32(trial), sequences), logits), label
        shutil.rmtree(trial)
        write_json(folder / "configs" / f"{label}.json", spelling)
