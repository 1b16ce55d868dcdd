"""The peer's side of the benchmark: transformers and PEFT, told what to do one line of JSON at a time."""

import json
import os
import re
import sys
import time
import warnings

options = json.loads(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(options["threads"])
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore", category=FutureWarning)

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(options["threads"])
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def say(value: dict) -> None:
    print(json.dumps(value), flush=True)


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+)", file.read(), re.MULTILINE)[1])


def trained_groups(model, decay: float) -> list[dict]:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


device = torch.device(options.get("device", "cpu"))
started = time.perf_counter()
data = json.load(open(options["files"]["data"]))
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options["dtype"]]
named = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
model = transformers.AutoModelForCausalLM.from_pretrained(
    options["files"]["model"], attn_implementation="sdpa", **{named: dtype}
)
model.to(device)
if options["method"] == "lora":
    model = peft.PeftModel.from_pretrained(model, options["files"]["adapter"], is_trainable=True)
training = options["method"] != "decode"
settings = data["optimizer"]
if training:
    model.train()
    if options["checkpointing"]:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    adamw = torch.optim.AdamW(
        trained_groups(model, settings["weightDecay"]), lr=settings["learningRate"],
        betas=tuple(settings["betas"]), eps=settings["epsilon"],
    )
else:
    model.eval()
batches = []
for sequences in data["batches"]:
    ids = torch.tensor(sequences, device=device)
    labels = ids.clone()
    labels[:, : ids.shape[1] // 2] = -100
    batches.append((ids, labels))
say({
    "loadSeconds": time.perf_counter() - started,
    "versions": {
        "python": sys.version.split()[0], "torch": torch.__version__,
        "transformers": transformers.__version__, "peft": peft.__version__,
    },
})

count = 0


def step(_) -> dict:
    global count
    ids, labels = batches[count % len(batches)]
    count += 1
    start = time.perf_counter()
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    trained = [p for group in adamw.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, settings["gradientClipping"])
    adamw.step()
    adamw.zero_grad()
    value = loss.item()
    return {"seconds": time.perf_counter() - start, "loss": value}


def decode(command: dict) -> dict:
    ids = torch.tensor(command["prompts"], device=device)
    count = command["maxTokens"]
    start = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
            do_sample=False, use_cache=True, pad_token_id=0,
        )
    return {"seconds": time.perf_counter() - start, "tokens": out[:, ids.shape[1] :].tolist()}


def memory(_) -> dict:
    if device.type != "cuda":
        return {"peak": peak_memory()}
    return {"peak": peak_memory(), "devicePeak": torch.cuda.max_memory_allocated()}


commands = {"step": step, "decode": decode, "memory": memory}
for line in sys.stdin:
    command = json.loads(line)
    say(commands[command["command"]](command))
