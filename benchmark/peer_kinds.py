"""The peers' side of the comparison of kinds: PEFT's LoRA and DoRA, and plain PyTorch forms of HydraLoRA and MoELoRA.

Their published code is no package; these are written from the formulas, one module a linear layer, experts in a loop.
"""

import json
import os
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
RANK, EXPERTS = options["rank"], options["experts"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def say(value: dict) -> None:
    print(json.dumps(value), flush=True)


class Experts(torch.nn.Module):
    """y = W x + s sum_e g_e(x) B_e A_e x with g = softmax(R x); with one A for all experts it is HydraLoRA's layer."""

    def __init__(self, base: torch.nn.Linear, shared: bool):
        super().__init__()
        rank, dtype = RANK // EXPERTS, base.weight.dtype
        self.base, self.scale = base.requires_grad_(False), 2.0
        make = lambda i, o: torch.nn.Linear(i, o, bias=False, dtype=dtype)  # noqa: E731
        self.lora_A = torch.nn.ModuleList([make(base.in_features, rank) for _ in range(1 if shared else EXPERTS)])
        self.lora_B = torch.nn.ModuleList([make(rank, base.out_features) for _ in range(EXPERTS)])
        self.router = make(base.in_features, EXPERTS)
        for b in self.lora_B:
            torch.nn.init.zeros_(b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        gate = torch.softmax(self.router(x).float(), dim=-1).to(x.dtype)
        inner = [a(x) for a in self.lora_A]
        for e, b in enumerate(self.lora_B):
            y = y + self.scale * gate[..., e : e + 1] * b(inner[e % len(inner)])
        return y


started = time.perf_counter()
data = json.load(open(options["files"]["data"]))
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options["dtype"]]
named = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
model = transformers.AutoModelForCausalLM.from_pretrained(
    options["files"]["model"], attn_implementation="sdpa", **{named: dtype}
)
kind = options["variant"]
if kind in ("lora", "dora"):
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR, use_dora=kind == "dora")
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
else:
    model.requires_grad_(False)
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name in LINEAR:
            setattr(model.get_submodule(parent), name, Experts(module, shared=kind == "hydra-lora"))
model.train()
settings = data["optimizer"]
trained = [p for p in model.parameters() if p.requires_grad]
adamw = torch.optim.AdamW(
    trained, lr=settings["learningRate"], betas=tuple(settings["betas"]), eps=settings["epsilon"],
    weight_decay=settings["weightDecay"],
)
batches = []
for sequences in data["batches"]:
    ids = torch.tensor(sequences)
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

for count, _ in enumerate(sys.stdin):
    ids, labels = batches[count % len(batches)]
    start, busy = time.perf_counter(), time.process_time()
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, settings["gradientClipping"])
    adamw.step()
    adamw.zero_grad()
    value = loss.item()
    say({"seconds": time.perf_counter() - start, "busySeconds": time.process_time() - busy, "loss": value})
