"""Every key a study has, its default and what it means; `workflows.validate` checks values."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from zsg_jax.runtime.errors import UserError

# What each preset of a file in configs/ changes.
Presets = Mapping[str, Callable[[ConfigDict], None]]


def default_config() -> ConfigDict:
    """The built-in example's settings; a file in configs/ changes what its study needs."""
    config = ConfigDict()
    # One run for every arrangement and seed; a seed decides the initial weights.
    config.seeds = (0, 1, 2)
    # "bytes", "train" (a byte-level BPE of the training rows), a folder with tokenizer.json, or
    # hub:OWNER/NAME[@REVISION], which huggingface_hub fetches.
    config.tokenizer = "bytes"
    # Entries of the vocabulary that tokenizer="train" makes.
    config.tokenizer_size = 4096
    # Where the numbers of a run go besides its metrics.jsonl, while it trains: "tensorboard", files
    # beside it; "wandb" and "mlflow", where these are installed, as their own variables say
    # (WANDB_MODE, MLFLOW_TRACKING_URI). It may change on a workdir.
    config.logging = ("tensorboard",)

    config.data = data = ConfigDict()
    # JSON lines or a JSON array (.gz too), .parquet, a folder of these or of a data set of
    # `datasets`, a list of Natural Instructions tasks (.txt), hub:OWNER/NAME[:SPLIT], a data set of
    # TFDS (FOLDER[:SPLIT] or tfds:NAME[/CONFIG][:VERSION][:SPLIT][@DATA_DIR]), a mixture of such
    # (.mix.json), or string rewriting made on the spot: "rewrites", which data.rewrites describes,
    # or rewrites:KEY=VALUE,…, rows of the instruction-diversity study.
    data.train = "rewrites"
    data.test = "rewrites"
    # What the rows of both look like, from SCHEMAS in zsg_jax/data/schemas; "auto" tells it by the
    # first rows of each.
    data.format = "auto"
    # Other names of fields, as "prompt=question,completion=answers.text.0": the first name is the
    # one that a schema has, the second the one in the rows of both.
    data.fields = ""
    # How examples become text: "study" (User: … / Assistant: …), "chat" (the chat template of the
    # tokenizer's folder) or a Jinja file. An example that a template does not fit is a bad record.
    data.template = "study"
    # What a chat template is given besides, as "enable_thinking=false"; and whether an empty block
    # of thought that it writes before an answer is there to "learn" or to "mask".
    data.template_args = ""
    data.empty_thoughts = "learn"
    # False tokenizes the study's "User: …", "Assistant: " and answer apart, as the study does; True
    # as one text, in which a token may join the blank before an answer with its first word.
    data.join_tokens = False
    # Which answers of a conversation carry loss: "all" or the "last"; "each" makes every answer an
    # instance of its own, in training and test, with what stands before it as its prompt.
    data.answers = "all"
    # Tokens at most of a training example.
    data.max_length = 256
    # What a longer example loses: its "tail", as in the study, or prompt words from the "head" or
    # the "middle" of each turn, oldest turns first; see zsg_jax/data/tokenize/truncation.py. Test
    # examples are cut the same way, to evaluation.max_length.
    data.truncation = "tail"
    # Tokens at most of an answer; the rest is cut off. None: as many as fit.
    data.max_answer = placeholder(int)
    # "refuse" stops at a bad row, "skip" leaves it out and counts it.
    data.bad_rows = "refuse"
    # Bytes at most of a row, as JSON: what is longer is a bad row, which memory need not hold.
    data.max_row_bytes = 256 << 20
    # Processes that lay the batches of the next steps, 0: a thread of the run's own. They change no
    # batch; they pay where "data_wait" in the metrics is a share of "seconds" to speak of.
    data.workers = 0
    # Share of the test rows, of each task and by arrangement.seed, that only the loss is measured
    # on, the rest being arranged toward; 0, as in the study, does both with all of them.
    data.report_fraction = 0.0

    # Which tasks are trained on and which are unseen: a JSON file with "train_key_list" and
    # "eval_key_list", or "held-out:N" for N of the test rows' tasks by seed, "held-out:0.1" for a
    # tenth of them; data.train and data.test may then be the same file. "": all tasks of each.
    data.split = ""
    # Rows at most of a task, by seed (Flan-mini in the study: 20 and 5); None: all.
    data.train_per_task = placeholder(int)
    data.test_per_task = placeholder(int)
    # The seed of what the three keys above and data.natural_instructions draw.
    data.seed = 0

    data.natural_instructions = natural_instructions = ConfigDict()
    # The examples a prompt shows, where the task has so many, whether their explanations stand
    # beside them, and whether the task's name and its definition stand before them.
    natural_instructions.positive_examples = 2
    natural_instructions.negative_examples = 0
    natural_instructions.explanation = False
    natural_instructions.task_name = False
    natural_instructions.definition = True
    # "fixed" shows what is said above, "random" one of Tk-Instruct's five forms, drawn for every
    # instance: definition; 2 positive; both; both and 2 negative; both and explanations.
    natural_instructions.schema = "fixed"
    # Tokens at most of a prompt, with the bos that the tokenizer's files add: examples that would
    # pass it are left out, and what is longer still is cut at the tail; 0: no limit.
    natural_instructions.max_source = 1024
    # Which of several accepted outputs is the answer: "drawn", or the "first".
    natural_instructions.reference = "drawn"
    # Instances at most of a training task, drawn, and of a test task, its first; 0: all.
    natural_instructions.train_per_task = 100
    natural_instructions.test_per_task = 100

    data.rewrites = rewrites = ConfigDict()
    # Families of rules, as in zsg_jax/data/rewrites.py; a family is a task.
    rewrites.train_families = (
        "repeat-2:abcdefghijkl",
        "mirror-1:ghijklmnopqr",
        "period-2:mnopqrstuvwx",
        "free-6",
    )
    rewrites.test_families = ("period-2:abcdefghijkl", "mirror-1:abcdefghijkl")
    # Different rules a family, and strings a rule.
    rewrites.rules = 100
    rewrites.samples = 12
    rewrites.test_rules = 24
    rewrites.test_samples = 2
    # Share of rows whose rule does not apply.
    rewrites.no_ops = 0.1
    rewrites.seed = 0

    config.similarity = similarity = ConfigDict()
    # "hashing" (hashed n-grams, nothing to download); the folder of a sentence encoder, on disk or
    # as hub:OWNER/NAME[@REVISION]; the hidden states of a decoder, as states:FOLDER,
    # states:RUN[@STEP] or states:hub:OWNER/NAME, and behind it ,layer=3,pooling=mean and the like;
    # or the gradients of its loss, as gradients:RUN[@STEP,STEP] or gradients:FOLDER
    # (docs/encoders.md).
    similarity.encoder = "hashing"
    # What of an example is embedded: "both", its prompt, a space and its answer, as in the study;
    # "prompt"; "answer"; or a Jinja file, which gets `messages` as a chat template does.
    similarity.text = "both"
    # What stands before every text of a side, as some encoders ask for: a text such as "query: ";
    # "name:NAME", of the folder's config_sentence_transformers.json; or None, its default, if any.
    similarity.train_prompt = placeholder(str)
    similarity.test_prompt = placeholder(str)
    # Distance of two rows: "cosine" (-cos) or "euclidean" (of rows at length one). It changes the
    # methods avg, wsd, polar, uniform, coarse and ot; TMTA and orders by min or max are the same
    # under both, since one distance rises with the other.
    similarity.distance = "cosine"
    # What embeddings are kept in, "float32" or "bfloat16" for half the disk; an order is decided in
    # float32 on what is kept, so bfloat16 may change it.
    similarity.dtype = "float32"
    # A folder in which studies share embeddings and tokens, by content: the same rows are embedded
    # once, whatever pool they are in. It may be deleted. None: each study makes its own.
    similarity.cache = placeholder(str)
    # Training rows compared with the test set at once; changes memory and speed, never a result.
    similarity.block_rows = 8192
    # What is told of the examples seen so far, from MEASURES in zsg_jax/similarity/trajectory.py:
    # after every 160, as in the study, at every evaluation, and at the end.
    similarity.trajectory = ("nearest", "average")

    config.arrangement = arrangement = ConfigDict()
    # Arrangements to compare, from METHODS in zsg_jax/arrangement/methods.py; or tmta-turns-A-B for
    # the turns [A, B) alone; or of every task, by WSD, polar-N: its N/2 nearest and N/2 farthest
    # examples, or uniform-K: every K-th, and either with -shuffled; or score-ascending:COLUMN and
    # score-descending:COLUMN, by a number that the rows carry. NAME+folds-K, NAME+zigzag-K,
    # NAME+stages-K and NAME+window-K are other orders of NAME's, NAME+first-K its first K rows.
    # NAME@K is NAME with a seed K of its own, if it shuffles.
    arrangement.methods = ("tmta-nft", "tmta-rt", "tmta-fft")
    # TMTA's turns go on until at least this many rows are chosen, other methods keep the first so
    # many; None: until the pool is empty, and all.
    arrangement.budget = placeholder(int)
    # The seed of methods that shuffle, and of data.report_fraction.
    arrangement.seed = 0
    # Weighted Similarity Distance = w_min · minimum + w_avg · average distance over the test rows;
    # None: the study's default, mean of the minima / mean of the averages.
    arrangement.w_min = 1.0
    arrangement.w_avg = placeholder(float)
    # A training row whose cosine with an earlier one that stays is so high may not be chosen, nor
    # be drawn at random, as 0.95; None: all may.
    arrangement.deduplicate = placeholder(float)
    # Nor one that leaks a test row, be this arranged toward or only scored: one that has its text,
    # its prompt or 13 of its words in a row, or a cosine with it that is so high, as 0.95; None:
    # all may, and leaks are only told, from 0.95 on, of hidden states from 0.999.
    arrangement.drop_leaks = placeholder(float)

    config.model = _model()

    config.mesh = mesh = ConfigDict()
    # Devices along each axis; -1: all that are left. Rows of a batch are split over data and fsdp,
    # the state over fsdp (by the model's width) and tensor (by heads, feed-forward and words).
    mesh.data = -1
    mesh.fsdp = 1
    mesh.tensor = 1

    config.training = training = ConfigDict()
    # Instances an optimizer step, and instances at once (None: all): fewer save memory.
    training.batch_size = 16
    training.micro_batch_size = placeholder(int)
    # Whether the instances of a step, and the test rows, share rows as long as the longest of them:
    # the same losses but for rounding, sooner. micro_batch_size then counts rows.
    training.packing = True
    # What each epoch does with an arrangement's order: "ordered" takes it as it stands, "backward"
    # from its end, "shuffled" by arrangement.seed and the epoch's number, as in ("ordered",
    # "shuffled"); steps run on from one epoch into the next. Or a single "anew@100+200": after
    # these steps the rows that a run has not met are embedded by its own hidden states, read as
    # what follows says ("anew@100,layer=3,pooling=mean"), or by its gradients
    # ("anew@100:gradients,dimension=1024"), and arranged anew by the same method.
    training.epochs = ("ordered",)
    # None: all epochs.
    training.steps = placeholder(int)
    # The peak, and its course over the steps: "cosine" (to a tenth) or "constant".
    training.learning_rate = 3e-3
    training.schedule = "cosine"
    # Steps in which it rises to its peak.
    training.warmup_steps = 0
    # Gradients' global norm at most; 0 leaves them as they are.
    training.clip_norm = 1.0
    # AdamW's.
    training.weight_decay = 0.0
    # Steps from one checkpoint to the next. The newest two stay, of adapters four, for the encoder
    # gradients:RUN.
    training.checkpoint_every = 100
    # The first and the last step of every run to trace into its profile/, for XProf and Perfetto,
    # as (10, 13); (): none.
    training.profile_steps = ()

    config.evaluation = evaluation = ConfigDict()
    # Steps between measurements on the test rows; step 0 and the last are always measured.
    evaluation.every = 10
    evaluation.batch_size = 32
    # Tokens at most of a test row, and of a prompt to generate from.
    evaluation.max_length = 256
    # What is measured, of METRICS in zsg_jax/evaluation/metrics.py: "loss", always; of generated
    # texts "rouge" and "exact_match", each with _unicode for scripts beyond ASCII, "reward", or
    # "generate" for the texts alone; "choices", the likelihood of each of an example's choices.
    evaluation.metrics = ("loss",)
    # Evaluations of the loss from one of all other metrics to the next; at step 0 and the last all.
    evaluation.scores_every = 5

    evaluation.texts = texts = ConfigDict()
    # How texts are generated: "greedy", "study" (as arXiv 2406.11721 does), changes as in
    # "study,max_new_tokens=64,samples=3", or both; settings in zsg_jax/evaluation/decoding.py.
    texts.decoding = "greedy"
    # Words that end a text, besides what closes an answer in training.
    texts.stops = ()
    # The folder of a tokenizer whose tokens "rouge" counts instead of stemmed English words, as
    # that of GPT-2 for the cross-lingual track of Super-NaturalInstructions.
    texts.rouge_tokenizer = ""
    # The folder of a reward model, or hub:OWNER/NAME, for the metric "reward"; how prompt and text
    # become one, "study" (UltraRM's form), "chat" (the folder's chat template) or a Jinja file; and
    # what it is kept and computed in.
    texts.reward_model = ""
    texts.reward_template = "study"
    texts.reward_dtype = "float32"

    config.report = report = ConfigDict()
    # What the page is called. The keys of report may change on a finished workdir, as mesh,
    # data.workers and training.profile_steps may.
    report.title = "Test-centric arrangement"
    # A step up to which areas and losses are told as well, as where the study's figure ends; it is
    # marked in the figure of the loss. None: the whole run alone.
    report.window = placeholder(int)
    return config


def _model() -> ConfigDict:
    """What is trained, and from where."""
    model = ConfigDict()
    # "llama" (1 to 3), "mistral", "qwen2" (2 and 2.5), "qwen3" or "gpt2"; "": that of init_from or
    # of the file in size, or else "llama".
    model.family = ""
    # A name from zsg_jax/models/families.py, or a file like config.json, which gives any
    # other; not read where init_from is given.
    model.size = "tiny"
    # What to start from: a local Hugging Face folder of one of these families; a run of a workdir,
    # WORKDIR/runs/NAME-seedK, for its last checkpoint, or …/checkpoints/STEP below it; or
    # hub:OWNER/NAME[@REVISION], which huggingface_hub fetches. "" starts from random weights.
    model.init_from = ""
    model.pretraining = pretraining = ConfigDict()
    # Of random weights: steps of pretraining before the study, once for each seed, on general
    # strings, plain text in which words come again; 0: none. Weights of init_from have none.
    pretraining.steps = 0
    # Strings a step.
    pretraining.batch_size = 32
    # At its peak; it then falls to a tenth.
    pretraining.learning_rate = 3e-3
    # Of the strings.
    pretraining.seed = 0

    # What the backward pass computes again instead of keeping it, which saves memory: "none", of
    # each layer all but its matrix products with weights ("dots"), or the layer ("full").
    model.remat = "none"
    # The kernel of attention: "auto" picks cuDNN's on a GPU, splash on a TPU, "xla" elsewhere and
    # where those do not fit.
    model.attention = "auto"
    # Compute in "float32" or "bfloat16"; softmax, norms and loss are float32 in any case.
    model.dtype = "float32"
    # What weights and Adam's moments are kept in. "bfloat16" takes half the memory, and loses
    # updates that are small against a weight.
    model.param_dtype = "float32"

    model.lora = lora = ConfigDict()
    # Adapters of this rank are trained beside the weights of init_from, which stay; 0: the weights.
    lora.rank = 0
    # What they add is scaled by alpha / rank.
    lora.alpha = 16.0
    # Products of each layer that are adapted: of q, k, v, o, gate, up, down; or all of them.
    lora.targets = ("all",)
    # Share of an adapter's inputs that are left out while training.
    lora.dropout = 0.0
    # What adapted kernels are kept in: "same" as all that is frozen, or "nf4", 4 bits (QLoRA).
    lora.base = "same"
    return model


def choose(file: str, config: ConfigDict, preset: str, presets: Presets) -> ConfigDict:
    """The settings of a file in configs/, with those of one of its presets; "" is the built-in one.

    Raises:
        UserError: the file has no such preset.
    """
    if preset in presets:
        presets[preset](config)
    elif preset:
        known = ", ".join(filter(None, presets))
        raise UserError(f"configs/{file}.py has no preset {preset!r}; choose one of {known}")
    return config


def pretrained_here(config: ConfigDict) -> None:
    """The built-in examples' model: pretrained on the spot, then tuned at a small rate."""
    config.model.pretraining.steps = 300
    config.training.learning_rate = 5e-4


def p3(config: ConfigDict) -> None:
    """A pretrained Llama of 260,032 parameters on P3, embedded by all-MiniLM-L6-v2.

    The paths are names to be replaced: data.train, data.test, similarity.encoder, tokenizer and
    model.init_from.
    """
    config.seeds = (0,)
    config.data.train = "p3/train.jsonl.gz"
    config.data.test = "p3/test.jsonl.gz"
    config.data.max_length = 512
    config.evaluation.max_length = 512
    config.similarity.encoder = "all-MiniLM-L6-v2"
    config.tokenizer = "stories260k"
    config.model.init_from = "stories260k"
    config.training.micro_batch_size = 2
    config.training.learning_rate = 1e-3
    config.report.title += " on P3"


def smollm2(config: ConfigDict) -> None:
    """SmolLM2-135M on 1,280 of the same rows, 80 steps; paths are names to be replaced."""
    p3(config)
    config.tokenizer = config.model.init_from = "SmolLM2-135M-Instruct"
    config.data.max_length = config.evaluation.max_length = 256
    config.arrangement.budget = 1280
    config.training.learning_rate = 1e-5
    config.evaluation.every = 5
    config.report.window = 40
    config.report.title += ", SmolLM2-135M"


def llama2_7b(config: ConfigDict) -> None:
    """The study's own settings: LLaMA-2-7B on Flan-mini (arXiv 2406.11721, fine-tuning)."""
    config.seeds = (0,)
    config.data.train = "flan-mini/train.jsonl.gz"
    config.data.test = "flan-mini/test.jsonl.gz"
    config.data.max_length = 2048
    config.evaluation.max_length = 1024
    config.similarity.encoder = "all-MiniLM-L6-v2"
    config.tokenizer = "Llama-2-7b-hf"
    config.model.size = "llama2_7b"
    config.model.init_from = "Llama-2-7b-hf"
    config.model.dtype = "bfloat16"
    config.model.remat = "full"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.training.learning_rate = 1e-6
    config.report.title += ", LLaMA-2-7B on Flan-mini"


def llama2_7b_by_task(config: ConfigDict) -> None:
    """The same, of 20 rows a training task and 5 an unseen one, as the study has it for WSD."""
    llama2_7b(config)
    config.data.train_per_task = 20
    config.data.test_per_task = 5
    config.report.window = 1080


# The presets of studies that order the whole pool.
WHOLE_POOL: Presets = {
    "": pretrained_here,
    "p3": p3,
    "smollm2": smollm2,
    "llama2_7b": llama2_7b_by_task,
}


def flatten(config: ConfigDict) -> dict[str, Any]:
    """`{"training.batch_size": 16, …}`, tuples as lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{name}": inner for name, inner in flatten(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple | list) else value
    return flat


def from_flat(flat: Mapping[str, Any]) -> ConfigDict:
    """The config that `flatten` made `flat` of, as a workdir's config.json holds it."""
    config = default_config()
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()
    }
    config.update_from_flattened_dict(values)
    return config
