"""Sentence encoders to be measured: random weights in the shapes of published ones, on real texts.

Each function here runs alone in a process, started by `measuring.child`.
"""

import gzip
import json
import sys
from pathlib import Path

from measuring import peak_memory, timed

# As wide as what is named, of as many layers as are said; the pooling is theirs too.
SHAPES = {
    "bert": (
        "bge-small-en, 12 of 12 layers",
        {
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        "cls",
    ),
    "modernbert": (
        "gte-modernbert-base, 6 of 22 layers",
        {
            "hidden_size": 768,
            "intermediate_size": 1152,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
        },
        "cls",
    ),
    "qwen3": (
        "Qwen3-Embedding-0.6B, 4 of 28 layers",
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 32768,
        },
        "lasttoken",
    ),
}
LONGEST = 512


def texts(assets: str, rows: int) -> list[str]:
    """Prompts and answers of P3's first rows."""
    with gzip.open(Path(assets) / "data" / "p3" / "train.jsonl.gz", "rt") as file:
        turns = [json.loads(line)["messages"] for line, _ in zip(file, range(rows), strict=False)]
    return [" ".join(turn["content"] for turn in both) for both in turns]


def make(kind: str, folder: str, assets: str) -> tuple:
    """Writes an encoder of `SHAPES` as sentence-transformers saves one."""
    import tokenizers
    import transformers

    _, sizes, pooling = SHAPES[kind]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=8192, special_tokens=["<pad>"], show_progress=False
    )
    inner.train_from_iterator(texts(assets, 2000), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes)
    path = Path(folder)
    transformers.AutoModel.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "1_Pooling").mkdir()
    for name, content in {
        "sentence_bert_config.json": {"max_seq_length": LONGEST},
        "1_Pooling/config.json": {
            "embedding_dimension": sizes["hidden_size"],
            "pooling_mode": pooling,
        },
        "modules.json": [
            {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{module}"}
            for i, (module, at) in enumerate([("Transformer", ""), ("Pooling", "1_Pooling")])
        ],
    }.items():
        (path / name).write_text(json.dumps(content))
    return 0.0, {}


def sentences(folder: str, assets: str, rows: int, ours: bool, runs: int) -> tuple:
    """Embeds P3's first rows with an encoder; reading it, and the first run, are not counted."""
    told = texts(assets, rows)
    if ours:
        from zsg_jax.similarity.encoders.sentence import SentenceEncoder

        encode = SentenceEncoder(folder).encode
    else:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": "float32"})

        def encode(texts: list[str]):
            return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    first, _ = timed(lambda: encode(told), 1)
    seconds, found = timed(lambda: encode(told), runs)
    some = [[float(x) for x in row[:8]] for row in found[:20]]
    return seconds, {"rows": len(told), "some": some, "first": first}


if __name__ == "__main__":
    seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
