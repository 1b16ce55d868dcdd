"""Scores of lm-evaluation-harness itself, by its own task files, on a small model and a few items of each task.

The data sets are not here: each task reads a few records of ours in the form of its data set's.
"""

import json
import tempfile
from pathlib import Path

import lm_eval
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.ifeval import instructions_registry
from lm_eval.tasks.ifeval.utils import InputExample, test_instruction_following_loose, test_instruction_following_strict
from lm_eval.tasks.medmcqa import utils_medmcqa
from lm_eval.tasks.medqa import preprocess_medqa
from lm_eval.tasks.pubmedqa import preprocess_pubmedqa
from transformers import PreTrainedTokenizerFast

from corpus import QUESTIONS
from golden_files import write_json
from models import load_float32

MODEL = "qwen2-text"
TASKS = Path(lm_eval.__file__).parent / "tasks"
MAX_TOKENS = 24


def options(index: int) -> tuple[list[str], int]:
    """Four answers of the corpus, the right one at a place that goes round."""
    answers = [answer for _, answer in QUESTIONS]
    others = [a for a in answers[index + 1:] + answers[:index] if a != answers[index]][:3]
    place = index % 4
    return others[:place] + [answers[index]] + others[place:], place


def mmlu(index: int) -> dict:
    choices, answer = options(index)
    # White space at the ends, which the task takes off.
    return {"question": f" {QUESTIONS[index][0]}\n", "subject": "world_facts", "choices": choices, "answer": answer}


def medmcqa(index: int) -> dict:
    choices, answer = options(index)
    return {"question": QUESTIONS[index][0], **dict(zip(("opa", "opb", "opc", "opd"), choices)), "cop": answer}


def medqa(index: int) -> dict:
    choices, answer = options(index)
    return {"sent1": QUESTIONS[index][0], **{f"ending{i}": c for i, c in enumerate(choices)}, "label": answer}


def pubmedqa(index: int) -> dict:
    question, answer = QUESTIONS[index]
    contexts = [f"{question} {answer}.", "It rests."]
    return {"QUESTION": question, "CONTEXTS": contexts, "final_decision": ("yes", "no", "maybe")[index % 3]}


def gsm8k(index: int) -> dict:
    question, answer = QUESTIONS[index]
    number = "".join(c for c in answer if c.isdigit()) or "7"
    return {"question": question, "answer": f"{answer}.\n#### {number}"}


class Loader(yaml.SafeLoader):
    """!function stands for a Python function of the task's folder."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))

CASES = [
    ("mmlu", "mmlu/default/_default_template_yaml", mmlu, 2,
     {"description": "The following are multiple choice questions (with answers) about world facts.\n\n"}),
    ("medmcqa", "medmcqa/medmcqa.yaml", medmcqa, 0, {"doc_to_text": utils_medmcqa.doc_to_text}),
    ("medqa", "medqa/medqa.yaml", medqa, 0,
     {"doc_to_text": preprocess_medqa.doc_to_text, "doc_to_target": preprocess_medqa.doc_to_target}),
    ("pubmedqa", "pubmedqa/pubmedqa.yaml", pubmedqa, 0, {"doc_to_text": preprocess_pubmedqa.doc_to_text}),
    ("gsm8k", "gsm8k/gsm8k.yaml", gsm8k, 2, {"fewshot_config": {"sampler": "first_n"}}),
]


def run_task(harness: HFLM, name: str, file: str, record, shots: int, changes: dict, folder: Path) -> dict:
    records = [record(i) for i in range(len(QUESTIONS))]
    examples = [record(i) for i in (3, 7)]
    for part, lines in (("test", records), ("dev", examples)):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = yaml.load((TASKS / file).read_text(), Loader)
    for key in ("dataset_name", "training_split", "validation_split", "should_decontaminate",
                "doc_to_decontamination_query", "tag"):
        config.pop(key, None)
    config |= {
        "task": name, "dataset_path": "json", "test_split": "test", "fewshot_split": "dev", "num_fewshot": shots,
        "dataset_kwargs": {"data_files": {p: str(folder / f"{p}.jsonl") for p in ("test", "dev")}}, **changes,
    }
    if config["output_type"] == "generate_until":
        config["generation_kwargs"]["max_gen_toks"] = MAX_TOKENS
    results = lm_eval.simple_evaluate(
        model=harness, tasks=[ConfigurableTask(config=config)], log_samples=True, bootstrap_iters=100,
        task_manager=TaskManager(include_defaults=False),
    )
    figures = {k.replace(",none", ""): v for k, v in results["results"][name].items()
               if isinstance(v, (int, float)) and k not in ("alias", "sample_len")}
    samples = [
        {"filter": s["filter"], "item": s["doc_id"],
         **{k: s[k] for k in ("acc", "acc_norm", "exact_match") if k in s},
         **({"choices": [r[0][0] for r in s["resps"]]} if config["output_type"] == "multiple_choice"
            else {"answer": s["resps"][0][0]})}
        for s in results["samples"][name]
    ]
    return {"records": records, "examples": examples[:shots], "figures": figures, "samples": samples}


# Each instruction with arguments, and answers on both sides of what it demands.
INSTRUCTIONS = [
    ("keywords:existence", {"keywords": ["mass", "Mol"]}, ["The MASS of a mole", "mol only", "massive molecules"]),
    ("keywords:frequency", {"keyword": "cell ", "frequency": 2, "relation": "at least"},
     ["cell Cell", "cells", "", "excellent cellar"]),
    ("keywords:frequency", {"keyword": "cell", "frequency": 2, "relation": "less than"}, ["cell cell", "one cell"]),
    ("keywords:forbidden_words", {"forbidden_words": ["acid", "base"]},
     ["acidic baseline", "An Acid.", "no such word", "naïve-base"]),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": "at least"},
     ["Eel e", "ee", "Étéé e e e"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["one *** two", "*** one\n***\ntwo ***", "one *** *** two", "one\n\ntwo"]),
    ("length_constraints:number_words", {"num_words": 4, "relation": "at least"},
     ["one two three four", "it's 3.5 km", "naïve façade", "a_b c-d e"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["two words", "now three words"]),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Water"},
     ["A.\n\nWater, it is.\n\nC.", "A.\n\n\"water\" is\n\nC.", "A.\n\nwatery\n\nC.", "A.\n\nWater", "A\n\n\n\nWater\n\nC"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2},
     ["[name] and [address]", "[one]", "[[a]] [b\n]", "[]x[]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."},
     ["Text.\nP.S. more", "Text. p. s. more", "Text. PS more", "P.P.S. more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x\nP.P.S more", "p. p. s", "P.S. more"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     ["* one\n* two", "- one\n  - two\n", "** bold\n* one\n- two", "* one\n\n\n* two\n- three", "one - two"]),
    ("detectable_format:constrained_response", {},
     ["My answer is yes.", " I say: My answer is maybe. ", "my answer is no.", "My answer is no"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["*one* and *two*", "**both**", "* * *one*", "*one*\n** **", "*a\nb* *c*"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb", "Section 1 Section 2", "SECTION1SECTION 22", "SECTION one SECTION 2"]),
    ("detectable_format:json_format", {},
     ['{"a": 1}', '```json\n[1, 2]\n```', "{'a': 1}", "```\n3\n```", "text"]),
    ("detectable_format:title", {}, ["<<A title>>", "<< >>", "<A title>", "text <<<b>>> text", "<<a\nb>>"]),
    ("combination:two_responses", {}, ["one ****** two", "one ****** one", "****** one ****** two ******",
                                       "one ****** ****** two", "one", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, ["say it. It.", " Say it", "It. Say it."]),
    ("startend:end_checker", {"end_phrase": "Any other questions?"},
     ['Text. Any other questions?"', "any OTHER questions? ", "Any other questions? No."]),
    ("startend:quotation", {}, ['"quoted"', ' "quoted" ', '"', '""', 'not "quoted"']),
    ("punctuation:no_comma", {}, ["no comma", "a, b", "a、b"]),
]


def instruction_cases() -> list[dict]:
    cases = []
    for name, arguments, answers in INSTRUCTIONS:
        assert name in instructions_registry.INSTRUCTION_DICT
        # Lines before and after what is right, and asterisks, matter to the loose score.
        tried = answers + [f"Sure!\n{answers[0]}", f"{answers[0]}\nBye, now.", f"*{answers[0]}*", "  "]
        example = InputExample(key=0, instruction_id_list=[name], prompt="Say it.", kwargs=[arguments])
        for answer in tried:
            cases.append({
                "instruction": name, "arguments": arguments, "answer": answer,
                "strict": test_instruction_following_strict(example, answer).follow_instruction_list[0],
                "loose": test_instruction_following_loose(example, answer).follow_instruction_list[0],
            })
    return cases


def generate(output: Path) -> None:
    folder = output / "models" / MODEL / "model"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = load_float32(folder)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=model.config.max_position_embeddings)
    with tempfile.TemporaryDirectory() as scratch:
        tasks = {}
        for name, *rest in CASES:
            place = Path(scratch) / name
            place.mkdir()
            tasks[name] = run_task(harness, name, *rest, place)
    made_by = {"lm_eval": lm_eval.__version__}
    write_json(output / "harness" / "tasks.json",
               {"versions": made_by, "model": MODEL, "maxTokens": MAX_TOKENS, "tasks": tasks})
    write_json(output / "harness" / "instructions.json", {"versions": made_by, "cases": instruction_cases()})
