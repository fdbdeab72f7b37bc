"""A text model trained by transformers' own Trainer: rows, evaluation, the best model at the end, resuming, predicting.

python examples/train_with_transformers.py book.txt out [--halting q] [--steps 200] [--bf16] [--resume]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import hrm
from hrm.text.data import make_tokenizer


def rows(text, tokenizer, length=64):
    """The text as rows of tokens; what datasets.Dataset.map returns will do as well."""
    parts = [text[at : at + length] for at in range(0, len(text) - length, length)]
    return [dict(tokenizer(part)) for part in parts]


def likeliest(logits, labels):
    """What compute_metrics gets of the logits, which would fill the memory."""
    return logits.argmax(-1)


def accuracy(found):
    """The share of next tokens that are the likeliest one; labels are shifted here, as in the loss."""
    said, right = found.predictions[:, :-1], found.label_ids[:, 1:]
    return {"accuracy": float((said == right)[right != -100].mean())}


def arguments(out, steps=200, every=50, **more):
    """A recipe: two batches an update, cosine, recomputed activations, measurements at intervals."""
    return TrainingArguments(
        out,
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        warmup_steps=steps // 10,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        activation_checkpointing=True,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        logging_steps=every,
        report_to=[],
        **more,
    )


def trainer(text, args, halting: Any = "fixed", callbacks=None, **settings):
    """The Trainer of a small model of the text's characters; a tenth of the text is held out."""
    tokenizer = make_tokenizer("char", [text])
    form: Any = {"hidden_size": 64, "num_attention_heads": 4, "fast_layers": 1, "slow_layers": 1, "max_segments": 2}
    form |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = hrm.HRMConfig(**form | settings, vocab_size=len(tokenizer), halting=halting)
    all_rows: Any = rows(text, tokenizer)
    held_out = max(1, len(all_rows) // 10)
    return Trainer(
        model_init=lambda: hrm.HRMForCausalLM(config),  # made after the seed is set
        args=args,
        train_dataset=all_rows[held_out:],
        eval_dataset=all_rows[:held_out],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        preprocess_logits_for_metrics=likeliest,
        compute_metrics=accuracy,
        callbacks=callbacks,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("book", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--halting", choices=["fixed", "q"], default="fixed")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--bf16", action="store_true", help="activations in bfloat16")
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in OUT")
    flags = parser.parse_args()
    trains = trainer(
        flags.book.read_text("utf-8"),
        arguments(flags.out, flags.steps, flags.steps // 4, bf16=flags.bf16),
        flags.halting,
    )
    trains.train(resume_from_checkpoint=flags.resume)
    print(trains.evaluate())
    held_out: Any = trains.eval_dataset
    said = trains.predict(held_out)
    print(np.shape(said.predictions), said.metrics)
    trains.save_model(flags.out / "best")  # hrm generate OUT/best "..." writes with it
