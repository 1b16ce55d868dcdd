"""The peers' side of scripts/gpu: the cases of benchmark/cuda/cases.cc by torch, PEFT and plain PyTorch.

    python3 peers.py < names        one name of `cuda_cases list` a line

Prints name, peer, milliseconds and the fastest for every peer that is here, and for one that is not, or that failed,
name, peer, `-` and why. Timed as ours are: queued until some 50 ms have passed between two synchronisations, nine times,
the median. Weights and activations are bf16, as peers have them.
"""

import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as functional
except ImportError as error:
    for name in sys.stdin:
        print(name.strip(), "torch", "-", error, sep="\t")
    sys.exit(0)

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
bf16 = torch.bfloat16


def synchronize() -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(step) -> tuple[float, float]:
    """Milliseconds of one step: the median and the fastest of nine."""

    def seconds(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            step()
        synchronize()
        return time.perf_counter() - begin

    step()
    step()
    synchronize()
    once = seconds(3) / 3
    times = max(3, min(1000, int(0.05 / once))) if device.type == "cuda" else 1
    samples = [seconds(times) / times for _ in range(9 if device.type == "cuda" else 1)]
    return statistics.median(samples) * 1e3, min(samples) * 1e3


def uniform(*shape: int, gradient: bool = False) -> torch.Tensor:
    return (torch.rand(shape, device=device) * 2 - 1).to(bf16).requires_grad_(gradient)


def frozen_linear(inputs: int, outputs: int) -> torch.nn.Linear:
    return torch.nn.Linear(inputs, outputs, bias=False, device=device, dtype=bf16).requires_grad_(False)


def both_ways(layer, tokens: int, inputs: int, outputs: int):
    """Forward and backward of a layer whose input needs its gradient."""
    x, dy = uniform(tokens, inputs, gradient=True), uniform(tokens, outputs)
    trained = [p for p in layer.parameters() if p.requires_grad] if isinstance(layer, torch.nn.Module) else []

    def step() -> None:
        torch.autograd.grad(layer(x), [x, *trained], dy)

    return step


# ---- Cases: from sizes to each peer's name and what makes its step


def product(x: torch.Tensor, w: torch.Tensor):
    return lambda: torch.matmul(x, w)


def product_nt(m: int, n: int, k: int):
    yield "cublas", lambda: product(uniform(m, k), uniform(n, k).t())


def product_nn(m: int, n: int, k: int):
    yield "cublas", lambda: product(uniform(m, k), uniform(k, n))


def frozen(tokens: int, inputs: int, outputs: int):
    yield "torch", lambda: both_ways(frozen_linear(inputs, outputs), tokens, inputs, outputs)


def peft_layer(inputs: int, outputs: int, rank: int):
    import peft

    model = torch.nn.Sequential(frozen_linear(inputs, outputs))
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0"], init_lora_weights=False)
    return peft.get_peft_model(model, config, autocast_adapter_dtype=False).base_model.model[0]


def lora(tokens: int, inputs: int, outputs: int, rank: int):
    yield "peft", lambda: both_ways(peft_layer(inputs, outputs, rank), tokens, inputs, outputs)
    yield "torch.compile", lambda: both_ways(
        torch.compile(peft_layer(inputs, outputs, rank)), tokens, inputs, outputs
    )


class Experts(torch.nn.Module):
    """y = W x + sum_e g_e(x) B_e A x with g = softmax(R x): HydraLoRA's layer as it is published, experts in a loop."""

    def __init__(self, inputs: int, outputs: int, rank: int, experts: int):
        super().__init__()
        make = lambda i, o: torch.nn.Linear(i, o, bias=False, device=device, dtype=bf16)  # noqa: E731
        self.base, self.lora_a = frozen_linear(inputs, outputs), make(inputs, rank)
        self.lora_b = torch.nn.ModuleList([make(rank, outputs) for _ in range(experts)])
        self.router = make(inputs, experts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        gate = torch.softmax(self.router(x), dim=-1, dtype=torch.float32).to(x.dtype)
        for e, b in enumerate(self.lora_b):
            y = y + gate[..., e : e + 1] * b(self.lora_a(x))
        return y


def hydra(tokens: int, inputs: int, outputs: int, rank: int, experts: int):
    yield "eager", lambda: both_ways(Experts(inputs, outputs, rank, experts), tokens, inputs, outputs)
    yield "torch.compile", lambda: both_ways(
        torch.compile(Experts(inputs, outputs, rank, experts)), tokens, inputs, outputs
    )


def cross_entropy(rows: int, columns: int, vocabulary: int):
    def make():
        x = uniform(rows, columns, gradient=True)
        w = uniform(vocabulary, columns)
        labels = torch.arange(rows, device=device) * 7919 % vocabulary

        def step() -> None:
            loss = functional.cross_entropy(functional.linear(x, w).float(), labels)
            torch.autograd.grad(loss, x)

        return step

    yield "torch", make


def heads(sequences: int, length: int, count: int, d: int) -> torch.Tensor:
    return uniform(sequences, count, length, d, gradient=True)


def attention(sequences: int, length: int, query_heads: int, key_heads: int, d: int, backward: bool = False):
    def make():
        q = heads(sequences, length, query_heads, d)
        k, v = heads(sequences, length, key_heads, d), heads(sequences, length, key_heads, d)
        d_o = uniform(sequences, query_heads, length, d)

        def forward() -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def step() -> None:
            if backward:
                torch.autograd.grad(forward(), [q, k, v], d_o)
            else:
                with torch.no_grad():
                    forward()

        return step

    yield "sdpa", make


def attention_both(*sizes: int):
    yield from attention(*sizes, backward=True)


def copy(count: int):
    def make():
        x, y = torch.rand(count, device=device), torch.empty(count, device=device)
        return lambda: y.copy_(x)

    yield "torch", make


def rms_norm(rows: int, columns: int):
    def make():
        x, w = uniform(rows, columns, gradient=True), uniform(columns)
        dy = uniform(rows, columns)
        return lambda: torch.autograd.grad(functional.rms_norm(x, (columns,), w, 1e-6), x, dy)

    yield "torch", make


def swiglu(rows: int, columns: int):
    def make():
        gate, up = uniform(rows, columns, gradient=True), uniform(rows, columns, gradient=True)
        dy = uniform(rows, columns)
        return lambda: torch.autograd.grad(functional.silu(gate) * up, [gate, up], dy)

    yield "torch", make


cases = {
    "product-nt": product_nt,
    "product-nn": product_nn,
    "frozen": frozen,
    "lora": lora,
    "hydra": hydra,
    "cross-entropy": cross_entropy,
    "attention": attention,
    "attention-both": attention_both,
    "copy": copy,
    "rms-norm": rms_norm,
    "swiglu": swiglu,
}

torch.manual_seed(1)
for line in sys.stdin:
    name = line.strip()
    kind, _, sizes = name.partition(":")
    for peer, make in cases[kind](*map(int, sizes.split(","))):
        try:
            median, fastest = measure(make())
            print(name, peer, f"{median:.6g}", f"{fastest:.6g}", sep="\t", flush=True)
        except Exception as error:  # a peer that fails is named, and the others go on
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(name, peer, "-", why.replace("\t", " ")[:200], sep="\t", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
