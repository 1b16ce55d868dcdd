"""A small model with a tokenizer, trained on fourteen answers, with generated text and log-likelihoods.

Log-likelihoods follow lm-evaluation-harness: white space at the end of a context moves to the continuation, both are
encoded together, the continuation is what follows as many tokens as the context alone has; an empty context is one
prefix token; too long a sequence loses its beginning.
"""

import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from corpus import QUESTIONS
from golden_files import write_json
from models import load_float32, save_model_folder
from random_weights import randomise_model
from text import common_prefix, save_tokenizer

NAME = "qwen2-text"
PLAIN = "Question: {}\nAnswer:"

CONTEXTS = [
    (PLAIN.format("What is the capital of Peru?"), " Lima", None),
    (PLAIN.format("What is the capital of Peru?"), " Nairobi", None),
    (PLAIN.format("What is 7 times 8?") + " ", "56", None),
    (PLAIN.format("How many grams are in 2.5 kilograms?") + "  ", "2500 grams\n", None),
    ("The ca", "pital of Kenya", None),
    ("", "Question", None),
    (PLAIN.format("What is the chemical symbol of gold?"), " Au", 9),
]

CHOICES = [
    (PLAIN.format("What is the capital of Japan?"), ["Paris", "Tokyo", "Nairobi", "Lima"], 1),
    (PLAIN.format("What is the chemical symbol of sodium?"), ["Fe", "Au", "Na"], 2),
    (PLAIN.format("Which base pairs with guanine in DNA?"), ["Thymine", "Cytosine", "Adenine", "Uracil"], 1),
    (PLAIN.format("Which answer is the longest?"), ["56", "A good deal longer", "72 hours or 2500 grams"], 0),
]

RECORDS = [
    (PLAIN.format("What is the capital of France?"), " Paris"),
    (PLAIN.format("What is 100 minus 1?"), " 98"),
    ("Question: What is the capital of Kenya?\nAns", "wer: Nairobi"),
    (PLAIN.format("How many hours are in 3 days?") + " ", "72 hours"),
]

PROMPTS = ["What is the capital of Japan?", "How many grams are in 2.5 kilograms?", "What is 12 plus 19?"]


def make_model(output: Path):
    """Trained to answer, so that some continuations are greedy; half as plain text, half as chat."""
    folder = output / "models" / NAME / "model"
    tokenizer = save_tokenizer("qwen", folder)
    end, turn_end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>"))
    config = Qwen2Config(
        # More rows than the tokenizer has tokens, as Qwen2 has.
        vocab_size=352, hidden_size=56, intermediate_size=84, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=160, tie_word_embeddings=True, bos_token_id=end,
        eos_token_id=turn_end, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    randomise_model(model, NAME)
    samples = []
    for question, answer in QUESTIONS:
        samples.append(tokenizer(f"{PLAIN.format(question)} {answer}")["input_ids"] + [end])
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        samples.append(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"][:-1])
    longest = max(map(len, samples))
    inputs = torch.tensor([s + [0] * (longest - len(s)) for s in samples])
    labels = torch.tensor([s + [-100] * (longest - len(s)) for s in samples])
    adamw = torch.optim.AdamW(model.parameters(), lr=4e-3, foreach=False)
    for _ in range(160):
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        adamw.step()
        adamw.zero_grad()
    print(f"models/{NAME}: trained to a loss of {loss.item():.3f}")
    save_model_folder(model.to(torch.bfloat16), folder)
    # The two files disagree, as those of Qwen2.5-Instruct do: generation stops at every token of this one.
    path = folder / "generation_config.json"
    write_json(path, {**json.loads(path.read_text()), "eos_token_id": [turn_end, end], "pad_token_id": end})
    return load_float32(folder), PreTrainedTokenizerFast.from_pretrained(folder)


def score(model, tokens: list[int], count: int) -> dict:
    """Sum of log-probabilities (natural) of the last `count` tokens, and whether each is the argmax."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens[:-1]])).logits[0].double()
    chosen = torch.tensor(tokens[-count:])
    log_probabilities = logits.log_softmax(-1)[-count:]
    top = log_probabilities.topk(2).values
    assert ((top[:, 0] - top[:, 1]) > 1e-3).all()
    return {
        "tokens": tokens[-count:],
        "logLikelihood": log_probabilities.gather(1, chosen[:, None]).sum().item(),
        "greedy": bool((log_probabilities.argmax(-1) == chosen).all()),
    }


def score_continuation(model, tokenizer, context: str, continuation: str, max_length: int) -> dict:
    """lm-evaluation-harness's `loglikelihood` of a causal model without an added beginning token."""
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    if context == "":
        prefix, whole = 1, [tokenizer.convert_tokens_to_ids("<|endoftext|>")] + encode(continuation)
    else:
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        prefix, whole = len(encode(context)), encode(context + continuation)
    count = len(whole) - prefix
    assert 0 < count <= max_length
    kept = whole[-(max_length + 1):]
    return {"input": kept, **score(model, kept, count)}


def generate(output: Path) -> None:
    model, tokenizer = make_model(output)
    longest = model.config.max_position_embeddings
    continuations = [
        {"context": context, "continuation": continuation, "maxLength": limit or longest,
         **score_continuation(model, tokenizer, context, continuation, limit or longest)}
        for context, continuation, limit in CONTEXTS
    ]
    multiple_choice = []
    for context, choices, answer in CHOICES:
        scores = [score_continuation(model, tokenizer, context, f" {c}", longest)["logLikelihood"] for c in choices]
        normalised = [s / len(c) for s, c in zip(scores, choices)]
        multiple_choice.append({
            "context": context, "choices": choices, "answer": answer, "logLikelihoods": scores,
            "accuracy": int(scores.index(max(scores)) == answer),
            "accuracyNormalised": int(normalised.index(max(normalised)) == answer),
        })
    records = []
    for prompt, completion in RECORDS:
        # As in training, less the end-of-sequence token: what prompt and prompt + completion share is not scored.
        prompt_ids, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + completion)["input_ids"]
        count = len(ids) - common_prefix(prompt_ids, ids)
        records.append({"prompt": prompt, "completion": completion, **score(model, ids, count)})
    total = sum(len(record["tokens"]) for record in records)
    write_json(output / "evaluation" / "scores.json", {
        "model": NAME,
        "continuations": continuations,
        "multipleChoice": multiple_choice,
        "records": records,
        "recordsPerplexity": math.exp(-sum(record["logLikelihood"] for record in records) / total),
    })
    write_json(output / "evaluation" / "generations.json", {
        "model": NAME, "cases": [generate_text(model, tokenizer, p, chat) for p in PROMPTS for chat in (False, True)],
    })


def generate_text(model, tokenizer, question: str, chat: bool) -> dict:
    """Greedy text of at most 24 tokens; `tokens` includes the end-of-sequence token that stopped it, if one did."""
    if chat:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
    else:
        text = PLAIN.format(question)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, return_dict_in_generate=True,
        output_logits=True,
    )
    margins = [float(top[0] - top[1]) for top in (step[0].topk(2).values for step in out.logits)]
    assert min(margins) > 0.01
    tokens = out.sequences[0, ids.shape[1]:].tolist()
    return {
        "question": question, "chat": chat, "prompt": text, "promptIds": ids[0].tolist(), "tokens": tokens,
        "text": tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    }
