"""Train a stock peft LoRA with Hugging Face's Trainer, as a user of another tool would.

`stock_trainer.py sharded|stock MODEL OUT`. `sharded`: `load_quantized` and ZeRO-3; `stock`: the
base that transformers and bitsandbytes load, one process. Rank 0 writes OUT/KIND.json and the
adapter.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments
from transformers.integrations.deepspeed import HfDeepSpeedConfig, set_hf_deepspeed_config

from lope_dist import load_quantized
from lope_dist.core.errors import LopeError

kind, model_dir, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
ZERO_3 = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 1000},
    "zero_allow_untested_optimizer": True,
}
STEPS, ROWS = 6, 4
is_sharded = kind == "sharded"
facts: dict = {}
if is_sharded:
    try:
        load_quantized(model_dir, progress=False)
    except LopeError as error:
        facts["without_a_group"] = str(error)
# On the CPU it would be compiled here for a minute, and training never calls it.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
arguments = TrainingArguments(
    output_dir=str(out / kind),
    per_device_train_batch_size=ROWS // 2 if is_sharded else ROWS,
    max_steps=STEPS,
    learning_rate=0.01,
    logging_steps=1,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    seed=3,
    deepspeed=ZERO_3 if is_sharded else None,
)
arguments.device  # noqa: B018  makes the process group
if is_sharded:
    zero = ZERO_3["zero_optimization"] | {"zero_quantized_nontrainable_weights": True}
    converting = HfDeepSpeedConfig(ZERO_3 | {"zero_optimization": zero})
    try:
        load_quantized(model_dir, progress=False)
    except LopeError as error:
        facts["converting"] = str(error)
    set_hf_deepspeed_config(arguments.hf_deepspeed_config)
    base = load_quantized(model_dir, dtype="float32", progress=False)
    kept = [p.ds_tensor.numel() for p in base.parameters()]
    facts["share"] = sum(kept) / sum(p.ds_numel for p in base.parameters())
else:
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, quantization_config=nf4
    )
transformers.set_seed(3)
lora = LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(base, lora)
generator = torch.Generator().manual_seed(0)
ids = torch.randint(0, 256, (STEPS * ROWS, 24), generator=generator)
rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
trainer.save_model(str(out / kind / "adapter"))
facts["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
facts["trainable"] = sum(
    getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad
)
if arguments.process_index == 0:
    (out / f"{kind}.json").write_text(json.dumps(facts))
