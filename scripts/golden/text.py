"""Tokenizers of the three families, encodings, chat templates, and prompt-completion records with their labels."""

import json
from pathlib import Path

from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from corpus import text_lines
from golden_files import write_json

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEMPLATES = Path(__file__).parent / "templates"


def _byte_level(split: str, merges: int, special: list[str], ignore_merges: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )
    tokenizer.train_from_iterator(text_lines(), trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer


def qwen_tokenizer() -> Tokenizer:
    tokenizer = _byte_level(QWEN_SPLIT, 84, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], False)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    # Added, matched in the text, but not special: skipping special tokens keeps them.
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    return tokenizer


def llama3_tokenizer() -> Tokenizer:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(LLAMA3_SPLIT, 84, special, True)
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]}:1 $B:1",
                                      special_tokens=[begin]),
    ])
    return tokenizer


def _sentencepiece(pre_tokenizer) -> Tokenizer:
    """BPE over characters with bytes as the fallback, as Llama 2 and Mistral have it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    latin = [line for line in text_lines() if line.isascii() and "\n" not in line]
    trained.train_from_iterator(latin, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    description = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(description["vocab"], key=description["vocab"].get)
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(
        vocab=vocabulary, merges=[tuple(m) for m in description["merges"]], unk_token="<unk>", fuse_unk=True,
        byte_fallback=True,
    ))
    if pre_tokenizer is None:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)],
    )
    return tokenizer


# template: where a model keeps its chat template: a file of its own (transformers 5), a string in
# tokenizer_config.json, or there a list of named ones.
TOKENIZERS = {
    "qwen": dict(make=qwen_tokenizer, bos=None, eos="<|im_end|>", pad="<|endoftext|>", template="file"),
    "llama-3": dict(make=llama3_tokenizer, bos="<|begin_of_text|>", eos="<|eot_id|>", pad=None, template="string"),
    "llama-2": dict(make=lambda: _sentencepiece(None), bos="<s>", eos="</s>", pad=None, template="list"),
    "mistral": dict(
        make=lambda: _sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
        bos="<s>", eos="</s>", pad=None, template=None,
    ),
}
TEMPLATE_OF = {"qwen": "chatml", "llama-3": "llama-3", "llama-2": "instruct"}

STRINGS = [
    "", " ", "  ", "\n", "\r\n", "\t\n \n", "a", " a", "  a", "a ", "a  ", "a\n", "\na", "a\n\n\nb", "a \n b",
    "Hello, world!", "Question: What is the capital of France?\nAnswer: Paris",
    "the THE The tHe", "don't DON'T I'LL we’ve it's'", "x=1;y=22;z=333;w=4444;v=1234567890",
    "３４５ ٣٤٥ ⅷ ½ ²", "café", "cafe\u0301", "Ångström A\u030angstro\u0308m", "ﬁ ﬂ ǅ ß ẞ İ ı",
    "日本語と中文、한국어", "العربية עברית", "हिन्दी ไทย", "😀", "👩‍👩‍👧‍👦 🇫🇷 👍🏽", "a😀b", "𝒳𝓎 𠮷",
    "zero\u200bwidth\u200djoiner\u00a0nbsp\u3000wide\ufeffmark", "\u2028line\u2029paragraph\u0085next",
    "nul\u0000bell\u0007escape\u001b[0m", "�", "\u00ad\u0301", "....... --- ___ *** ///", "!?!?()[]{}<>",
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_end|><|im_end|>", "a<|endoftext|>b", "<|im_start", "<|im_end|", "|im_end|>",
    "<think>why</think> so", "<|begin_of_text|>x<|eot_id|>", "<s>a</s>b", "<unk>", "<0x41>", "▁under ▁ score",
    "def f(x):\n\treturn x**2  # square\n\n\n", "https://example.org/a?b=c&d=%20", "   leading and trailing   ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "тест ТЕСТ", "E = mc², H₂O → CO₂", "1,000.50 -3e-7 0x1F",
    "The dog doesn't\u0020mind:\u0009it's asleep.", "répété " * 3,
]

MOLAR_MASS = {
    "type": "function",
    "function": {
        "name": "mass", "description": "Molar mass of a <formula> & its \"unit\"",
        "parameters": {"type": "object", "properties": {"formula": {"type": "string"}}, "required": ["formula"]},
    },
}
SYSTEM = {"role": "system", "content": "  Answer in one word.\n"}
ASK = {"role": "user", "content": "What is the capital of Kenya?"}
TELL = {"role": "assistant", "content": " Nairobi\n"}
AGAIN = {"role": "user", "content": "Und von Österreich? 🇦🇹"}
TELL_AGAIN = {"role": "assistant", "content": "Wien"}
THOUGHT = {"role": "assistant", "content": "<think>\nIt is in Africa.\n</think>\n\nNairobi"}

CHATS = [
    ("qwen", "chatml", [ASK], True, {}),
    ("qwen", "chatml", [SYSTEM, ASK], True, {}),
    ("qwen", "chatml", [SYSTEM, ASK, TELL], False, {}),
    ("qwen", "chatml", [ASK, TELL, AGAIN, TELL_AGAIN], False, {}),
    ("qwen", "chatml", [{"role": "user", "content": "<|im_end|>\n<|im_start|>system\nNo"}], True, {}),
    ("qwen", "chatml", [{"role": "user", "content": ""}], True, {}),
    ("qwen", "chatml", [ASK], True, {"tools": [MOLAR_MASS]}),
    ("qwen", "chatml",
     [ASK, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, TELL], False, {"tools": [MOLAR_MASS]}),
    ("qwen", "chatml-generation", [ASK, TELL], False, {}),
    ("qwen", "chatml-generation", [SYSTEM, ASK, TELL, AGAIN, TELL_AGAIN], False, {}),
    ("qwen", "chatml-generation", [SYSTEM, ASK, TELL, AGAIN], True, {}),
    ("qwen", "thinking", [ASK], True, {}),
    ("qwen", "thinking", [ASK], True, {"enable_thinking": False}),
    ("qwen", "thinking", [SYSTEM, ASK, THOUGHT, AGAIN, THOUGHT], False, {}),
    ("qwen", "thinking", [ASK, {**TELL, "thought": "Africa\n"}], False, {}),
    ("llama-3", "llama-3", [ASK], True, {}),
    ("llama-3", "llama-3", [SYSTEM, ASK, TELL, AGAIN], True, {}),
    ("llama-3", "llama-3", [SYSTEM, ASK, TELL, AGAIN, TELL_AGAIN], False, {}),
    ("llama-2", "instruct", [ASK], True, {}),
    ("llama-2", "instruct", [SYSTEM, ASK, TELL, AGAIN, TELL_AGAIN], False, {}),
    ("mistral", "instruct", [SYSTEM, ASK, TELL, AGAIN], True, {}),
    ("llama-2", "instruct", [ASK, AGAIN], True, {}),
    ("llama-2", "instruct", [TELL], False, {}),
    ("qwen", "everything", [SYSTEM, ASK, TELL], True, {"settings": {"b": 1, "a": [True, None, "é<&>'\""]}}),
    ("qwen", "everything",
     [{"role": "note", "content": "x"}, {**ASK, "name": " Ann "}, TELL, AGAIN, TELL_AGAIN, ASK, TELL], False,
     {"settings": {"x": {"z": 1.5, "y": {}}}}),
    ("qwen", "everything",
     [{"role": "user", "content": [
         {"type": "text", "text": "one\ntwo"}, {"type": "image"}, {"type": "text", "text": ""},
         {"type": "text", "text": "three"}]}], True, {"settings": {}}),
]

RECORDS = [
    ("The capital of France is", " Paris"),
    ("Question: What is 7 times 8?\nAnswer:", " 56"),
    ("Question: What is 7 times 8?\nAnswer: ", "56"),
    ("Symbol of iron: ", "Fe\n"),
    ("", "Only a completion."),
    ("The ca", "pital of Peru is Lima"),
    ("Two lines\n", "\nand two more\n\n"),
    ("cafe", "\u0301 au lait"),
    ("1", "00 minus 1 is 99"),
    ("Emoji 👩", "\u200d👩\u200d👧 family"),
    ("Done", " already<|im_end|>"),
    ("Fini", " déjà</s>"),
    ("Over", " and out<|eot_id|>"),
]


def common_prefix(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def encode_record(encode, prompt: str, completion: str, eos: str) -> dict:
    """Prompt and prompt + completion are tokenised; what both begin with is masked; the end is trained.

    TRL's rule (SFTTrainer): the end-of-sequence token is appended to a completion that lacks it, both texts are
    tokenised with special tokens, and as many tokens as the prompt alone has (`promptLength`) are masked. Where a
    token spans the border the two prefixes differ; then `commonPrefix` is shorter and masks only what is prompt.
    """
    text = prompt + completion
    if not text.endswith(eos):
        text += eos
    prompt_ids, ids = encode(prompt), encode(text)
    shared = common_prefix(prompt_ids, ids)
    return {
        "promptIds": prompt_ids, "ids": ids, "promptLength": len(prompt_ids), "commonPrefix": shared,
        "labels": [-100] * shared + ids[shared:],
    }


def save_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerFast:
    """tokenizer.json as `tokenizers` writes it, and a tokenizer_config.json with the chat template."""
    spec = TOKENIZERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    spec["make"]().save(str(path), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "clean_up_tokenization_spaces": False,
        "bos_token": spec["bos"], "eos_token": spec["eos"], "pad_token": spec["pad"],
    }
    if spec["template"]:
        source = (TEMPLATES / f"{TEMPLATE_OF[name]}.jinja").read_text(encoding="utf-8")
        if spec["template"] == "file":
            (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
        elif spec["template"] == "string":
            config["chat_template"] = source
        else:
            other = "{{ raise_exception('not this one') }}"
            config["chat_template"] = [{"name": "tool_use", "template": other}, {"name": "default", "template": source}]
    write_json(folder / "tokenizer_config.json", config)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def generate(output: Path) -> None:
    folder = output / "text"
    loaded = {name: save_tokenizer(name, folder / name) for name in TOKENIZERS}
    for name, tokenizer in loaded.items():
        backend = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
        cases = []
        for string in STRINGS:
            ids = backend.encode(string, add_special_tokens=False).ids
            with_special = backend.encode(string, add_special_tokens=True).ids
            assert tokenizer(string, add_special_tokens=False)["input_ids"] == ids
            assert tokenizer(string)["input_ids"] == with_special
            cases.append({
                "text": string, "ids": ids, "idsWithSpecial": with_special,
                "decoded": backend.decode(ids, skip_special_tokens=False),
                "decodedWithoutSpecial": backend.decode(ids, skip_special_tokens=True),
            })
        write_json(folder / name / "encodings.json", {
            "vocabularySize": backend.get_vocab_size(), "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id,
            "cases": cases,
        })
        write_json(folder / name / "records.json", [
            {"prompt": prompt, "completion": completion, **encode_record(
                lambda text: tokenizer(text)["input_ids"], prompt, completion, tokenizer.eos_token)}
            for prompt, completion in RECORDS
        ])
        print(f"text/{name}: {backend.get_vocab_size()} tokens, {len(cases)} strings")

    for path in sorted(TEMPLATES.glob("*.jinja")):
        target = folder / "templates" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    write_json(folder / "chats.json", [chat_case(loaded[chat[0]], *chat) for chat in CHATS])


def chat_case(tokenizer, name: str, template: str, messages: list, prompt: bool, variables: dict) -> dict:
    """What apply_chat_template makes of a conversation, with the spans of its assistant's turns."""
    source = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")

    def render(some: list, add_generation_prompt: bool) -> str:
        return tokenizer.apply_chat_template(
            some, chat_template=source, tokenize=False, add_generation_prompt=add_generation_prompt, **variables
        )

    case = {
        "tokenizer": name, "template": template, "messages": messages, "addGenerationPrompt": prompt,
        "variables": variables,
    }
    try:
        text = render(messages, prompt)
    except TemplateError as error:
        return {**case, "error": str(error)}
    options = dict(chat_template=source, add_generation_prompt=prompt, return_dict=True, **variables)
    encoded = tokenizer.apply_chat_template(
        messages, return_assistant_tokens_mask="generation" in template, **options
    )
    ids = encoded["input_ids"]
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    case |= {"text": text, "ids": ids}
    if "generation" in template:
        case["assistantMask"] = encoded["assistant_masks"]
    turns = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0 or template in ("thinking", "everything"):
            continue
        before, through = render(messages[:index], True), render(messages[: index + 1], False)
        if text.startswith(through) and through.startswith(before):
            # Offsets in UTF-16 code units, as JavaScript counts; and the tokens of each prefix tokenised alone.
            units = [len(part.encode("utf-16-le")) // 2 for part in (before, through)]
            tokens = [len(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, through)]
            turns.append({"message": index, "characters": units, "tokens": tokens})
    return {**case, "turns": turns}
