"""A few sentences: enough for tokenizers of some hundred tokens and for a model that answers five questions."""

QUESTIONS = [
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Kenya?", "Nairobi"),
    ("What is the capital of Peru?", "Lima"),
    ("What is the chemical symbol of iron?", "Fe"),
    ("What is the chemical symbol of sodium?", "Na"),
    ("What is the chemical symbol of gold?", "Au"),
    ("What is 7 times 8?", "56"),
    ("What is 12 plus 19?", "31"),
    ("What is 100 minus 1?", "99"),
    ("Which base pairs with adenine in DNA?", "Thymine"),
    ("Which base pairs with guanine in DNA?", "Cytosine"),
    ("How many grams are in 2.5 kilograms?", "2500 grams"),
    ("How many hours are in 3 days?", "72 hours"),
]

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's asleep.",
    "Der Fluss fließt über die Brücke — naïve façade, crème brûlée, jalapeño, Ångström.",
    "В 1869 году Менделеев опубликовал периодическую таблицу.",
    "東京は日本の首都です。北京是中国的首都。",
    "The atomic number of oxygen is 8; its mass is about 15.999.",
    "A cell divides by mitosis.\n\n\tThen it grows.   Then it rests.",
    "E = mc², H₂O, CO₂, 3 × 10⁸ m/s, π ≈ 3.14159, 1,000,000 and 42%.",
    "def main(args):\n    return [x ** 2 for x in args if x != 0]\n",
    "We'll see; they've gone, I'm here, you're late, he'd know.",
]


def text_lines() -> list[str]:
    return SENTENCES + [f"Question: {q}\nAnswer: {a}" for q, a in QUESTIONS]
